"""A web machine that misbehaves as the path of a request says: `fakeweb.py ADDRESS FILE OWN CA`.

It listens on port 8080 of the address, and appends `method path id` of each request to the file. It
speaks TLS with the certificate and the key in the file OWN, and with clients whose certificate is
signed by CA. It runs on a machine, so it needs the standard library only.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

Headers = dict[str, str]


async def read_body(reader: asyncio.StreamReader, headers: dict[str, Any]) -> bytes:
    """Return the body of a request; of one in chunks nothing."""
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", 0)))
    while size := int(await reader.readline(), 16):
        await reader.readexactly(size + 2)
    await reader.readline()
    return b""


def judge(path: str, body: bytes) -> tuple[int, Headers]:
    """Return how Flask-AppBuilder answers a password; the right one is `right`."""
    is_right = b"right" in body
    if path.startswith("/auth/token"):
        return (201 if is_right else 401), {}
    if is_right:
        return 302, {"Location": "https://airflow.example.com/", "Set-Cookie": "_token=x; Path=/"}
    return 302, {"Location": "https://airflow.example.com/auth/login/?next="}


async def body_for(words: list[str], headers: dict[str, Any]) -> bytes:
    """Return the body of an answer, after the time that the path asks for."""
    if "sleep" in words:
        await asyncio.sleep(int(words[words.index("sleep") + 1]) / 1000)
    if words[-1] == "wait":
        await asyncio.sleep(35)
    if "large" in words:  # so many times
        return b"x" * 65536
    answer = {"metadatabase": {"status": "healthy"}, "headers": headers}
    return json.dumps(answer, separators=(",", ":")).encode()


def check_delay(path: Path) -> float:
    """Return how many seconds an answer to a check takes: what a file says."""
    return float(path.read_text()) if path.exists() else 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: Path) -> None:
    """Answer the requests of a connection."""
    requests = 0
    try:
        while line := await reader.readline():
            requests += 1
            method, path, _ = line.decode().split()
            headers: dict[str, Any] = {}
            while (line := await reader.readline()).strip():
                name, _, value = line.decode().partition(":")
                headers[name.lower()] = value.strip()
            with seen.open("a") as file:
                file.write(f"{method} {path} {headers.get('x-request-id')}\n")
            words = path.partition("?")[0].strip("/").split("/")
            if words[0] == "vanish":  # the request is read, and nobody answers
                break
            status = 500 if words[0] == "broken" else 413 if words[0] == "early" else 200
            sent = b"" if words[0] == "early" else await read_body(reader, headers)
            more: Headers = {}
            if method == "POST" and path.startswith(("/auth/login", "/auth/token")):
                status, more = judge(path, sent)
                await asyncio.sleep(0.5 if b"slow" in sent else 0)
            if words[-1] == "health":
                await asyncio.sleep(check_delay(seen.with_suffix(".delay")))
            # Beside what was sent: whether the connection has cost a whole handshake, and how many
            # requests it has had.
            headers["resumed"] = writer.get_extra_info("ssl_object").session_reused
            headers["requests"] = requests
            body = await body_for(words, headers)
            times = int(words[-1]) if "large" in words else 1
            more["Content-Length"] = str(times * len(body))
            lines = "".join(f"{name}: {value}\r\n" for name, value in more.items())
            writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
            await writer.drain()
            for _ in range(times - 1):
                writer.write(body)
                await writer.drain()
            if words[0] == "early":  # as nginx, which reads on for a time after a refusal
                async with asyncio.timeout(30):
                    while await reader.read(65536):
                        pass
            if words[0] in ("closing", "early"):  # without saying so in the answer
                break
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def main(address: str, seen: Path, own: str, authority: str) -> None:
    """Serve until the end of the process."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.load_cert_chain(own)
    tls.load_verify_locations(authority)
    tls.verify_mode = ssl.CERT_REQUIRED
    server = await asyncio.start_server(
        lambda reader, writer: serve(reader, writer, seen), address, 8080, backlog=512, ssl=tls
    )
    await server.serve_forever()


if __name__ == "__main__":
    Path(sys.argv[2]).touch()
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:]))
