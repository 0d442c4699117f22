"""A TLS handshake from a machine: what a server sends, and whether it takes the client."""

from __future__ import annotations

import json

from harness import Machine

CBC = "ECDHE+AES:!AESGCM:!AESCCM"
"""Cipher suites of TLS 1.2 whose padding has been attacked."""

# What a server sends as its certificate and those above it, and whether it takes the client's.
HANDSHAKE = """
import json, socket, ssl, sys
host, port, own, ciphers = sys.argv[1], int(sys.argv[2]), *sys.argv[3:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
if port == 5432:
    context.set_alpn_protocols(["postgresql"])
if own:
    context.load_cert_chain(own)
if ciphers:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
chain, refusal = [], ""
try:
    with socket.create_connection((host, port), 5) as raw:
        with context.wrap_socket(raw, server_hostname=host) as stream:
            chain = [ssl.DER_cert_to_PEM_cert(each) for each in stream.get_unverified_chain()]
            stream.settimeout(1)
            # In TLS 1.3, a server refuses the client's certificate after the handshake.
            stream.recv(1)
except TimeoutError:
    pass
except OSError as error:
    refusal = str(error)
print(json.dumps({"chain": chain, "refusal": refusal}))
"""


def shake_hands(
    machine: Machine, host: str, port: int, own: str = "", ciphers: str = ""
) -> tuple[list[str], str]:
    """Return the certificates that a server sends, PEM, and why it refuses the client; or empty.

    Args:
        machine: the client's.
        host: the server's name or address.
        port: of the server.
        own: the file with the client's certificate and key; empty: it has none.
        ciphers: of TLS 1.2, of which the client knows nothing newer then.
    """
    done = machine.run("python3", "-c", HANDSHAKE, host, str(port), own, ciphers)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return found["chain"], found["refusal"]
