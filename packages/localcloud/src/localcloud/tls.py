"""The certificate by which the local cloud serves S3 over TLS, as Amazon does.

Programs that speak HTTPS only, such as pgBackRest, ask S3 there. Its address is its name, so it
stands in the certificate as both: some programs compare an address with names alone.
"""

from __future__ import annotations

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from localcloud.config import private_directory, write_private

LIFETIME = timedelta(days=3650)
FOLDER = "tls"


def certificate(state_dir: Path, address: str) -> Path:
    """Return the file of the certificate, which signs itself; make both files if there are none.

    Args:
        state_dir: of the cloud.
        address: at which S3 is served; a certificate for another one is replaced.
    """
    folder = private_directory(state_dir / FOLDER)
    path = folder / "s3.pem"
    if path.is_file() and _address_of(path) == address and _key(path).is_file():
        return path
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.DNSName(address), x509.IPAddress(ipaddress.ip_address(address))]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_private(_key(path), private)
    write_private(path, made.public_bytes(Encoding.PEM))
    return path


def context(path: Path) -> ssl.SSLContext:
    """Return the context of a server that has a certificate.

    Args:
        path: as `certificate` returns it.
    """
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.minimum_version = ssl.TLSVersion.TLSv1_2
    found.load_cert_chain(path, _key(path))
    return found


def _key(path: Path) -> Path:
    return path.with_name("s3.key")


def _address_of(path: Path) -> str:
    try:
        found = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError:
        return ""
    return str(found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
