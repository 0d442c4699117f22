"""Saves moto's backends to disk and loads them.

moto keeps everything in Python objects. They are pickled after each call that can change them: for
three machines that is about 40 kB and takes 2 ms, and ids stay what they were. moto's recorder is
no alternative, since it replays requests and would launch the machines again. The bodies of S3
objects are files of their own, named by their hash, so that later calls do not write them again.

A saved state can only be loaded with the versions of Python and moto that have written it.
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
from moto.s3.utils import _VersionedKeyStore

from localcloud.config import write_private
from localcloud.errors import StateUnreadable

BODY_DIGEST = "localcloud_digest"
"""Attribute of an S3 object: the hash of its body, if the body is saved."""


class StateFile:
    """The saved state of one cloud.

    Args:
        directory: holds `moto.pickle` and the folder `objects`.

    Attributes:
        path: of the file.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "moto.pickle"
        self._objects = directory / "objects"
        self._written = b""
        self._objects.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(self) -> bool:
        """Write the state if it has changed, and return whether it has.

        The caller holds the lock that keeps the state from changing meanwhile.
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
        write_private(self.path, content)
        self._written = content
        for path in self._objects.iterdir():
            if path.name not in pickler.bodies:
                path.unlink()
        return True

    def load(self) -> bool:
        """Load the saved backends into moto, and return whether there is a saved state.

        Raises:
            StateUnreadable: the state is damaged, or other versions have written it.
        """
        if not self.path.exists():
            return False
        self._written = self.path.read_bytes()
        hint = f"Destroy the local cloud and start it anew: localcloud destroy {self.path.parent}"
        try:
            data = _Unpickler(self._written, self._objects).load()
        except Exception as error:  # the classes of another version can raise any error
            raise StateUnreadable(f"{self.path} cannot be read ({error}). {hint}") from error
        if data["versions"] != _versions():
            raise StateUnreadable(
                f"{self.path} was written by {data['versions']}, this is {_versions()}. {hint}"
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
    """Return a service's data beside its backends: the owners of S3's buckets."""
    return (
        {"bucket_accounts": backends.bucket_accounts}
        if hasattr(backends, "bucket_accounts")
        else {}
    )


class _Body:
    """The placeholder of an S3 object's body in a pickle."""

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
            # The factories of nested defaultdicts.
            return _function, (marshal.dumps(obj.__code__), obj.__module__)
        if isinstance(obj, defaultdict):  # its subclasses have other constructors
            return (
                _defaultdict,
                (type(obj), obj.default_factory),
                getattr(obj, "__dict__", None) or None,
                None,
                iter(obj.items()),
            )
        if isinstance(obj, rsa.RSAPrivateKey):  # KMS makes one for the first encrypted volume
            return _rsa_key, (obj.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),)
        if isinstance(obj, _VersionedKeyStore):  # it shows the last version of each key alone
            return _new_store, (type(obj),), dict(dict.items(obj)), None, None, _fill_store
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


def _new_store(cls: type) -> Any:
    return dict.__new__(cls)


def _fill_store(store: dict[str, Any], versions: dict[str, list[Any]]) -> None:
    """Restore the versions of each key, the oldest first."""
    for key, known in versions.items():
        dict.__setitem__(store, key, known)


def _defaultdict(cls: type, factory: Any) -> Any:
    made: Any = defaultdict.__new__(cls)
    defaultdict.__init__(made, factory)
    return made


def _function(code: bytes, module: str) -> types.FunctionType:
    __import__(module)
    return types.FunctionType(marshal.loads(code), vars(sys.modules[module]))  # noqa: S302 -- localcloud has written it
