"""The API process: moto's server with signed requests, one call at a time, and a saved state."""

from __future__ import annotations

import faulthandler
import fcntl
import functools
import json
import logging
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from socketserver import BaseServer
from typing import IO, Any
from urllib.parse import urlencode

import moto.backends
import moto.core.responses
from moto.core import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Request, Response

from localcloud import (
    account,
    catalog,
    cidrs,
    cpu_credits,
    engine,
    faults,
    firewall,
    limits,
    s3,
    simulator,
    tls,
)
from localcloud.accesses import Call
from localcloud.auth import Gate, Refused, Signature, error_response
from localcloud.authorization import Judge
from localcloud.cloud import Cloud
from localcloud.config import (
    HEALTH,
    LOOPBACK,
    METADATA,
    METADATA_ADDRESS,
    CloudConfig,
    Credentials,
    fingerprint,
)
from localcloud.errors import LocalCloudError, PortTaken, ServiceStartFailed
from localcloud.faults import Fault
from localcloud.hooks import Hooks
from localcloud.machines import DockerHost, resolvers
from localcloud.metadata import Metadata
from localcloud.newborn import Newborn
from localcloud.ntp import TimeServer
from localcloud.ruleset import Services
from localcloud.state import StateFile

log = logging.getLogger(__name__)

# For each request moto lists its own folders, and looks through a class for its methods.
_MODULES = frozenset(moto.backends.list_of_moto_modules())
moto.backends.list_of_moto_modules = lambda: _MODULES
moto.core.responses.method_names_from_class = functools.cache(
    moto.core.responses.method_names_from_class
)

SERVICES = frozenset(
    {"ec2", "iam", "sts", "ssm", "s3", "kms", "servicequotas", "freetier", "tagging"}
)
GOODBYE_SECONDS = 1.0
END_SECONDS = 20.0
"""The longest end of the process, which may be killed at any time: each change is saved at once."""
METADATA_ACTION = "InstanceMetadata"
"""The name by which faults know the requests of machines to the instance metadata service."""
_READS = re.compile(r"(Describe|Get|List|Head|Lookup)")


class Api:
    """The WSGI application.

    moto's models are not thread-safe, so moto handles one call at a time. The changes of a call are
    on disk before it is answered.
    """

    def __init__(self, cloud: Cloud, state: StateFile, gate: Gate, config: CloudConfig) -> None:
        self._cloud = cloud
        self._state = state
        self._gate = gate
        self._config = config
        # Of the code that this process runs; the files may change.
        self._fingerprint = fingerprint(config)
        self.judge = Judge()
        self.newborn = Newborn()
        self._metadata = Metadata(cloud, state.save)
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        request = Request(environ)
        try:
            response = self._respond(request)
        except Refused as refusal:
            response = refusal.response
        except Exception as error:
            log.exception("%s %s failed", request.method, request.path)
            response = error_response(
                "ec2", "InternalError", f"The local cloud failed: {error}. See its log.", 500
            )
        return response(environ, start_response)

    def _respond(self, request: Request) -> Response:
        if request.host == METADATA_ADDRESS:
            return self._answer_machine(request)
        if request.path == HEALTH:
            return Response(json.dumps(self._health()), content_type="application/json")
        if request.path in (faults.PATH, limits.PATH, cpu_credits.PATH):
            return self._administer(request)
        if request.path.startswith(f"{METADATA}/"):
            return self._answer_machine(request)
        return self._answer_call(request)

    def _answer_call(self, request: Request) -> Response:
        """Answer a call of AWS, unless it meets a fault."""
        body = request.get_data(cache=True)
        signature = self._gate.check(request)
        if signature.service not in SERVICES or request.path.startswith("/moto-api"):
            raise Refused(
                signature.service,
                "InvalidAction",
                f"The local cloud has no {signature.service}.",
                400,
            )
        if not self._cloud.policy.reaches(request.remote_addr or "", signature.service):
            return _no_answer(request)
        action = action_of(request, signature)
        fault = self._cloud.faults.of_call(
            fault_name(request, action), lambda: self._cloud.machine_names_in(request.form)
        )
        if fault and fault.kind == "error":
            log.info("%s %s -> injected %s", signature.service, action, fault.code)
            return error_response(signature.service, fault.code, fault.message, fault.status)
        if fault and fault.kind == "slow":
            faults.wait(fault, request.environ["werkzeug.socket"])
        form = request.form.to_dict() | s3.query_of(request.query_string.decode())
        if signature.service == "ec2" and (taken := cidrs.canonical(form)) != form:
            form, body = taken, urlencode(taken).encode()
        request.environ["wsgi.input"] = BytesIO(body)
        request.environ["CONTENT_LENGTH"] = str(len(body))
        if refusal := self.newborn.refusal(action, form):
            return error_response(signature.service, *refusal, _status(refusal[0]))
        where = (request.path, s3.headers_of(request.headers.items()), request.remote_addr or "")
        call = Call(signature.service, action, signature.region, form, body, *where)
        response = self._perform(request, call, signature.access_key_id)
        self._settle(signature.service, action, fault, response)
        if fault and fault.kind == "lost":
            request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        level = (
            logging.INFO
            if response.status_code >= 400 or not _READS.match(action)
            else logging.DEBUG
        )
        log.log(level, "%s %s -> %s", signature.service, action, response.status_code)
        return response

    def _perform(self, request: Request, call: Call, access_key_id: str) -> Response:
        """Have moto do a call, if the caller's policy allows it, and save what it has changed."""
        with self._cloud.lock:
            asks = "" if self._gate.owns(access_key_id) else access_key_id
            self.judge.check(asks, call)
            if call.action == "GetAccountPlanState":
                return self._cloud.account.plan_state(DEFAULT_ACCOUNT_ID)
            if call.action == simulator.ACTION:
                return simulator.answer(call)
            response = Response.from_app(self._moto, request.environ, buffered=True)
            _set_status(response, call.service)
            if call.action == "GetCallerIdentity" and not asks:
                response = simulator.owner(response)
            if call.service == "s3":
                response = self._answer_of_s3(call, response, asks)
            if not _READS.match(call.action):
                self._state.save()
                if call.service == "ec2":
                    self._cloud.enforce()
        return response

    def _answer_of_s3(self, call: Call, response: Response, access_key_id: str) -> Response:
        """Return S3's answer in place of moto's, to the owner or to whose access key it is."""
        if call.action == "CreateBucket" and response.status_code == 200:
            s3.tag_new(call)
        hidden = call.action in s3.MISSING and response.status_code == 404 and access_key_id
        if hidden and not self.judge.may_know(access_key_id, call):
            return error_response("s3", "AccessDenied", "Access Denied", 403)
        return response

    def _answer_machine(self, request: Request) -> Response:
        """Answer a request to the instance metadata service, unless it meets a fault."""
        fault = self._cloud.faults.of_call(METADATA_ACTION, set)
        if fault and fault.kind == "error":
            return Response(status=fault.status)
        if fault and fault.kind == "slow":
            faults.wait(fault, request.environ["werkzeug.socket"])
        return self._metadata.answer(request)

    def _settle(self, service: str, action: str, fault: Fault | None, response: Response) -> None:
        """Have an answer tell of nothing that nobody knows yet."""
        if service not in ("ec2", "iam") or response.status_code >= 400:
            return
        if fault and fault.kind in ("lost", "unknown"):
            self.newborn.add(action, response.get_data(), fault.seconds)
        if _READS.match(action):
            response.set_data(self.newborn.without(response.get_data()))

    def _administer(self, request: Request) -> Response:
        """Set faults, limits or credits, or return the counts of faults, for the owner here."""
        key = request.headers.get(faults.KEY_HEADER, "")
        if request.environ["werkzeug.socket"].getsockname()[
            0
        ] != LOOPBACK or not self._gate.is_owner(key):
            return Response(status=404)
        if request.method == "PUT":
            try:
                if request.path == limits.PATH:
                    self._cloud.account.limits = limits.parse(request.get_data())
                elif request.path == cpu_credits.PATH:
                    self._cloud.spend_credits(cpu_credits.parse(request.get_data()))
                else:
                    self._cloud.inject(faults.parse(request.get_data()))
            except (ValueError, TypeError) as error:
                return Response(f"{error}\n", status=400)
        return Response(
            json.dumps(asdict(self._cloud.faults.seen())), content_type="application/json"
        )

    def _health(self) -> dict[str, Any]:
        return {
            "name": self._config.name,
            "pid": os.getpid(),
            "fingerprint": self._fingerprint,
        }


def _no_answer(request: Request) -> Response:
    """Close the connection of a machine that has no way to a service; its answer is not sent.

    On EC2 its packets are dropped. Here they arrive, because S3 is at the same address.
    """
    log.info("%s has no way to this service", request.remote_addr)
    request.environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return Response(status=503)


def action_of(request: Request, signature: Signature) -> str:
    """Return the name of the API action."""
    if target := request.headers.get("X-Amz-Target"):
        return target.rpartition(".")[2]
    if signature.service == "s3":
        query = s3.query_of(request.query_string.decode())
        headers = s3.headers_of(request.headers.items())
        return s3.operation(request.method, request.path, query, headers)
    return request.form.get("Action") or request.args.get("Action", "Unknown")


def _set_status(response: Response, service: str) -> None:
    """Give an error of EC2 its HTTP status; moto answers all of them with 400."""
    if service == "ec2" and response.status_code == 400:
        code = re.search(r"<Code>(\w+)</Code>", response.get_data(as_text=True))
        response.status_code = account.STATUS.get(code[1] if code else "", 400)


def _status(code: str) -> int:
    return 404 if code == "NoSuchEntity" else 400


def fault_name(request: Request, action: str) -> str:
    """Return the name by which faults know a call: a dry run is no launch."""
    return f"{action}:DryRun" if request.form.get("DryRun") == "true" else action


def serve(config: CloudConfig) -> None:
    """Serve the API until SIGTERM or SIGINT.

    Raises:
        ServiceStartFailed: another process serves this cloud already.
        PortTaken: another program listens on the port.
        StateUnreadable: the saved state cannot be loaded.
        EngineError: Docker's engine cannot be used.
        FirewallFailed: the kernel does not take the rules of the security groups.
    """
    config.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    pid_file = lock_pid_file(config.state_dir / "pid")
    log.info("process %s serves %s", os.getpid(), config.state_dir)

    client = engine.ensure(log.info)
    state = StateFile(config.state_dir)
    firewall.ensure(log.info)
    gateway = engine.bridge_gateway(client)
    services = Services((gateway, config.port), config.s3_port, resolvers(), publish=config.publish)
    rules = firewall.Firewall(config.name, services)
    host = DockerHost(client, config.name, config.state_dir, config.image, rules)
    cloud = Cloud(host, state.save, config.delays)
    Hooks(cloud)
    state.load()
    catalog.publish()
    with cloud.lock:
        cloud.enforce()
    api = Api(cloud, state, Gate(Credentials.ensure(config.state_dir)), config)

    context = tls.context(tls.certificate(config.state_dir, gateway))
    servers: list[BaseServer] = [
        TimeServer((gateway, config.port)),
        *(_listen(address, config.port, api) for address in (LOOPBACK, gateway)),
        _listen(gateway, config.s3_port, api, context),
    ]
    listening = [(gateway, config.port), (LOOPBACK, config.port), (gateway, config.s3_port)]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    threading.Thread(target=cloud.watch, daemon=True).start()
    log.info(
        "local cloud %s serves at %s",
        config.name,
        ", ".join(f"{address}:{port}" for address, port in listening),
    )
    while not stop.wait(1):  # a signal that another thread gets does not end a wait without a limit
        pass
    log.info("stopping")
    faulthandler.dump_traceback_later(END_SECONDS, exit=True)  # the log tells what it waits for
    for server in servers:
        server.shutdown()
    cloud.close()
    with cloud.lock:
        state.save()
    faulthandler.cancel_dump_traceback_later()
    pid_file.close()


def lock_pid_file(path: Path) -> IO[str]:
    """Write this process's pid into a file and lock it until the returned file is closed.

    A reader of the pid holds the lock for an instant, so this tries for two seconds.
    """
    file = path.open("a+")
    deadline = time.monotonic() + 2
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise ServiceStartFailed(
                    f"Another process serves the local cloud in {path.parent}."
                ) from error
            time.sleep(0.02)
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def _listen(
    address: str, port: int, api: Api, context: ssl.SSLContext | None = None
) -> BaseWSGIServer:
    try:
        server = make_server(
            address, port, api, threaded=True, request_handler=Handler, ssl_context=context
        )
        if isinstance(server.socket, ssl.SSLSocket):
            # In the thread of the connection: who says nothing keeps nobody waiting.
            vars(server.socket)["do_handshake_on_connect"] = False
            end = server.shutdown_request
            vars(server)["shutdown_request"] = lambda request: end(_said_goodbye(request))
        return server
    except (OSError, SystemExit) as error:  # werkzeug exits on a taken port
        raise PortTaken(
            f"Port {port} of {address} is taken by another program. "
            "Stop it, or choose another port."
        ) from error


def _said_goodbye(connection: ssl.SSLSocket) -> ssl.SSLSocket:
    """End TLS on a connection as a client expects it: otherwise its answer may be cut off."""
    with suppress(OSError, ValueError):
        connection.settimeout(GOODBYE_SECONDS)
        connection.unwrap()
    return connection


class Handler(MotoRequestHandler):  # type: ignore[misc]
    """Reads requests for moto, and logs nothing."""

    def log_request(self, *_: Any) -> None:
        """Do nothing; `Api` logs each action."""


def main(config: CloudConfig) -> int:
    """Serve the API and return the exit code; log the error that prevents it."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        serve(config)
    except LocalCloudError as error:
        log.error("%s", error)
        return 1
    return 0
