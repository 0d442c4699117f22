"""S3 over TLS: by a certificate of the local cloud's own, and by nothing else."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from localcloud import tls
from localcloud.server import _listen
from memorycloud import Running

ADDRESS = "127.0.0.1"


@pytest.fixture
def port(local: Running, tmp_path: Path) -> Iterator[int]:
    context = tls.context(tls.certificate(tmp_path, ADDRESS))
    server = _listen(ADDRESS, 0, local.api.api, context)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def status(port: int, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection(ADDRESS, port, timeout=10, context=context)
    try:
        connection.request("GET", "/bucket")
        return connection.getresponse().status
    finally:
        connection.close()


def test_own_certificate_is_trusted_and_no_other(port: int, tmp_path: Path) -> None:
    known = ssl.create_default_context(cafile=str(tls.certificate(tmp_path, ADDRESS)))
    assert status(port, known) == 403  # the request has no signature
    with pytest.raises(ssl.SSLCertVerificationError):
        status(port, ssl.create_default_context())


def test_answer_ends_as_tls_ends(port: int, tmp_path: Path) -> None:
    known = ssl.create_default_context(cafile=str(tls.certificate(tmp_path, ADDRESS)))
    with (
        socket.create_connection((ADDRESS, port), 10) as plain,
        known.wrap_socket(plain, server_hostname=ADDRESS, suppress_ragged_eofs=False) as client,
    ):
        client.sendall(b"GET /bucket HTTP/1.0\r\n\r\n")
        answer = b""
        while part := client.recv(1000):  # an end without a goodbye is an error here
            answer += part
    assert b"403" in answer.splitlines()[0]


def test_silent_client_keeps_nobody_waiting(port: int, tmp_path: Path) -> None:
    known = ssl.create_default_context(cafile=str(tls.certificate(tmp_path, ADDRESS)))
    with socket.create_connection((ADDRESS, port)):
        assert status(port, known) == 403


def test_certificate_stays_for_its_address(tmp_path: Path) -> None:
    first = tls.certificate(tmp_path, ADDRESS).read_bytes()
    assert tls.certificate(tmp_path, ADDRESS).read_bytes() == first
    assert tls.certificate(tmp_path, "172.17.0.1").read_bytes() != first
    assert (tmp_path / "tls/s3.key").stat().st_mode & 0o777 == 0o600
