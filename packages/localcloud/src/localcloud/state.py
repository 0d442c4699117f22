"""Saves moto's backends to disk and brings them back.

moto keeps everything in Python objects. Of the ways to make them last, pickling them after each call that may change
them won: a cloud with three machines is some 40 kB and takes 2 ms, and what comes back is exactly what was there, ids
included. moto's recorder, which replays requests, would launch the machines again. Bodies of S3 objects are files of
their own, named by their hash, so that a backup of a database is written once and not at every later call.

A saved state is bound to the versions of Python and moto that wrote it.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import pickle
import platform
import sys
import types
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import moto
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)
from moto.backends import get_backend
from moto.core.base_backend import BackendDict
from moto.s3.models import FakeKey

from localcloud.config import write_private
from localcloud.errors import StateUnreadable

BODY_DIGEST = "localcloud_digest"
"""Attribute of an S3 object: the hash of its body, if it was saved since it changed."""


class StateFile:
    """The saved state of one cloud.

    Args:
        directory: holds `moto.pickle` and the folder `objects`.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "moto.pickle"
        self._objects = directory / "objects"
        self._written = b""
        self._objects.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(self) -> bool:
        """Write what has changed since the last time, all at once; return whether anything had.

        The caller sees to it that nothing changes meanwhile.
        """
        pickler = _Pickler(self._objects)
        content = pickler.dumps(
            {
                "versions": _versions(),
                "backends": [
                    (backends.service_name, account, region, backend)
                    for backends, account, region, backend in _backends()
                ],
                "extras": {
                    backends.service_name: _extras(backends)
                    for backends in BackendDict._instances
                    if _extras(backends)
                },
            }
        )
        if content == self._written:
            return False
        write_private(self._path, content)
        self._written = content
        for path in self._objects.iterdir():
            if path.name not in pickler.bodies:
                path.unlink()
        return True

    def load(self) -> bool:
        """Put the saved backends where moto looks for them; return whether there was a saved state.

        Raises:
            StateUnreadable: other versions wrote it, or it is damaged.
        """
        if not self._path.exists():
            return False
        self._written = self._path.read_bytes()
        hint = f"Destroy the local cloud and start it anew: localcloud destroy {self._path.parent}"
        try:
            data = _Unpickler(self._written, self._objects).load()
        except (
            Exception
        ) as error:  # unpickling raises whatever the classes of another version raise
            raise StateUnreadable(f"{self._path} cannot be read ({error}). {hint}") from error
        if data["versions"] != _versions():
            raise StateUnreadable(
                f"{self._path} was written by {data['versions']}, this is {_versions()}. {hint}"
            )
        for service, account, region, backend in data["backends"]:
            dict.__setitem__(get_backend(service)[account], region, backend)
        for service, extras in data["extras"].items():
            vars(get_backend(service)).update(extras)
        return True


def _versions() -> str:
    return f"Python {'.'.join(platform.python_version_tuple()[:2])}, moto {moto.__version__}"


def _backends() -> Iterator[tuple[Any, str, str, Any]]:
    for backends in BackendDict._instances:
        for account, region, backend in backends.iter_backends():
            yield backends, account, region, backend


def _extras(backends: Any) -> dict[str, Any]:
    """Return what a service keeps beside its backends: S3's table of bucket owners."""
    return (
        {"bucket_accounts": backends.bucket_accounts}
        if hasattr(backends, "bucket_accounts")
        else {}
    )


class _Body:
    """Stands for an S3 object's body in a pickle."""

    def __init__(self, digest: str) -> None:
        self.digest = digest


class _Pickler(pickle.Pickler):
    def __init__(self, objects: Path) -> None:
        self._buffer = io.BytesIO()
        super().__init__(self._buffer, protocol=5)
        self._objects = objects
        self.bodies: set[str] = set()

    def dumps(self, data: object) -> bytes:
        self.dump(data)
        return self._buffer.getvalue()

    def persistent_id(self, obj: object) -> str | None:
        return obj.digest if isinstance(obj, _Body) else None

    def reducer_override(self, obj: Any) -> Any:
        if (
            isinstance(obj, types.FunctionType)
            and obj.__name__ == "<lambda>"
            and obj.__closure__ is None
        ):
            return _function, (
                marshal.dumps(obj.__code__),
                obj.__module__,
            )  # factories of nested defaultdicts
        if isinstance(obj, defaultdict):  # subclasses have constructors of their own
            return (
                _defaultdict,
                (type(obj), obj.default_factory),
                getattr(obj, "__dict__", None) or None,
                None,
                iter(obj.items()),
            )
        if isinstance(
            obj, rsa.RSAPrivateKey
        ):  # of KMS: the first encrypted volume makes the key aws/ebs
            return _rsa_key, (obj.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),)
        if isinstance(obj, FakeKey):
            state = {
                name: value
                for name, value in vars(obj).items()
                if name not in ("_value_buffer", "lock")
            }
            return _new, (type(obj),), state | {"value": _Body(self._store(obj))}
        return NotImplemented

    def _store(self, key: FakeKey) -> str:
        digest: str | None = getattr(key, BODY_DIGEST, None)
        if digest is None:
            body = b"" if key.disposed else key.value
            digest = hashlib.sha256(body).hexdigest()
            if not (self._objects / digest).exists():
                write_private(self._objects / digest, body)
            setattr(key, BODY_DIGEST, digest)
        self.bodies.add(digest)
        return digest


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, objects: Path) -> None:
        super().__init__(io.BytesIO(content))
        self._objects = objects

    def persistent_load(self, pid: str) -> bytes:
        return (self._objects / pid).read_bytes()


def _rsa_key(der: bytes) -> object:
    return load_der_private_key(der, None)


def _new(cls: type) -> object:
    return object.__new__(cls)


def _defaultdict(cls: type, factory: Any) -> Any:
    made: Any = defaultdict.__new__(cls)
    defaultdict.__init__(made, factory)
    return made


def _function(code: bytes, module: str) -> types.FunctionType:
    __import__(module)
    return types.FunctionType(marshal.loads(code), vars(sys.modules[module]))  # noqa: S302 -- our own file
