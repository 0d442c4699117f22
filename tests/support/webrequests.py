"""Requests to a web machine, as a load balancer sends them: programs for `Machine.python`."""

from plainpillar import DOMAIN

# On a load balancer, where nobody looks for its secrets: the certificate of a client with its key,
# and the CA.
CLIENT, AUTHORITY = "/mnt/edge.pem", "/mnt/edge-ca.pem"
# `connect()`: a connection to `address`; over TLS, but for a machine's own loopback.
CONNECT = f"""
import socket, ssl

def connect(port=8080, seconds=120):
    connection = socket.create_connection((address, port), seconds)
    if address == "127.0.0.1":
        return connection
    context = ssl.create_default_context(cafile="{AUTHORITY}")
    context.load_cert_chain("{CLIENT}")
    return context.wrap_socket(connection, server_hostname="web.{DOMAIN}")
"""

# Requests to the machine itself, as a load balancer forwards them for `client`.
LOGIN = (
    CONNECT
    + r"""
import http.client, json, re, urllib.error, urllib.parse, urllib.request

class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None

class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = connect()

class ByConnect(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(Connection, request)

opener = urllib.request.build_opener(Stay, ByConnect)

def ask(path, data=None, **headers):
    request = urllib.request.Request(f"http://{address}:8080{path}", data, headers)
    try:
        return opener.open(request, timeout=120)
    except urllib.error.HTTPError as error:
        return error

proxied = {"X-Forwarded-For": client, "X-Forwarded-Proto": "https"}

def login(password):
    page = ask("/auth/login/", **proxied)
    cookie = page.headers["Set-Cookie"].partition(";")[0]
    token = re.search(r'name="csrf_token"[^>]*value="([^"]+)', page.read().decode())[1]
    form = {"csrf_token": token, "username": "admin", "password": password}
    answer = ask("/auth/login/", urllib.parse.urlencode(form).encode(), Cookie=cookie,
                 Referer=f"https://{address}:8080/auth/login/", **proxied)
    got_token = "_token=" in str(answer.headers.get_all("Set-Cookie"))
    return "in" if got_token else "limited" if answer.status == 429 else "refused"

def token(password):
    body = json.dumps({"username": "admin", "password": password}).encode()
    answer = ask("/auth/token", body, **{"Content-Type": "application/json"})
    return json.load(answer)["access_token"]
"""
)

# `load(paths, seconds, pause)` asks for each of `paths` as often as one client can. It returns
# path, start, seconds and status of each request; a status is also the name of an error.
LOAD = (
    LOGIN
    + r"""
import http.client, threading, time

def load(paths, seconds, pause=0):
    # As of a browser that has changed something: every request reaches Airflow.
    headers = {"Cookie": f"_token={bearer}; has_changed=1", "Accept-Encoding": "gzip", **proxied}
    rows, end = [], time.time() + seconds

    def ask_for(path):
        while time.time() < end:
            start = time.time()
            connection = Connection(address)
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except OSError as error:
                status = type(error).__name__
            finally:
                connection.close()
            rows.append([path, start, time.time() - start, status])
            time.sleep(pause)

    threads = [threading.Thread(target=ask_for, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows
"""
)
