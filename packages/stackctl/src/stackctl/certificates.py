"""The deployment's private certificate authority, and the certificates that it signs."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from stackctl.errors import SecretsError

CA_DAYS = 3650
BACKDATED = dt.timedelta(hours=1)  # for clients whose clock is late
RENEW_DAYS = 30  # what ends sooner has to be renewed
CERTIFICATE_DAYS = 397  # what browsers accept at most: CA/Browser Forum ballot SC31


class Authority:
    """The deployment's private certificate authority."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def new(cls, deployment: str) -> Authority:
        """Make an authority that is valid for `CA_DAYS` days."""
        key = _new_key()
        builder = _builder(f"{deployment} stack CA", key, CA_DAYS)
        builder = builder.issuer_name(_name(f"{deployment} stack CA"))
        return cls(_sign(builder, signer=key, is_authority=True), key)

    @classmethod
    def load(cls, certificates_pem: str, private_key_pem: str) -> Authority | None:
        """Return the authority whose key this is; None: none of the certificates is of this key.

        Args:
            certificates_pem: one certificate, or several while the authority is rotated.
            private_key_pem: the key.

        Raises:
            SecretsError: the key is of another kind.
        """
        key = serialization.load_pem_private_key(private_key_pem.encode(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SecretsError("The secret 'deployment-ca' is no elliptic-curve key.")
        for certificate in certificates(certificates_pem):
            if certificate.public_key() == key.public_key():
                return cls(certificate, key)
        return None

    @property
    def certificate_pem(self) -> str:
        """The certificate, which every client of the stack trusts."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def fields(self) -> dict[str, str]:
        """The private key, as the fields of a secret that no machine reads."""
        return {"private_key": _pem(self._key)}

    def issued(self, certificate_pem: str) -> bool:
        """Return whether a certificate names this deployment's authority, or an earlier one.

        Every authority of one deployment has the same name.
        """
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        return certificate.issuer == self._certificate.subject

    def signed(self, certificate_pem: str) -> bool:
        """Return whether this very authority has signed a certificate."""
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        return signed_by(certificate, self._certificate)

    def server(self, subject: str, names: Sequence[str], *, client: bool = False) -> dict[str, str]:
        """Return key and certificate of a server that answers to `names`.

        Args:
            subject: the certificate's common name.
            names: host names or addresses.
            client: whether servers that ask clients for a certificate accept this one.
        """
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH]
        usages += [ExtendedKeyUsageOID.CLIENT_AUTH] if client else []
        return self._leaf(subject, x509.ExtendedKeyUsage(usages), alternatives)

    def client(self, subject: str) -> dict[str, str]:
        """Return key and certificate of a client, under which nobody can serve.

        Args:
            subject: the certificate's common name, by which servers know the client.
        """
        return self._leaf(subject, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))

    def _leaf(self, subject: str, *extensions: x509.ExtensionType) -> dict[str, str]:
        """Return key and certificate of a server or a client."""
        key = _new_key()
        builder = _builder(subject, key, CERTIFICATE_DAYS)
        builder = builder.issuer_name(self._certificate.subject)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        certificate = _sign(builder, signer=self._key, is_authority=False)
        pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
        return {"private_key": _pem(key), "certificate": pem}


def certificates(pem: str) -> list[x509.Certificate]:
    """Return the certificates of a PEM text, in its order; a text without any has none."""
    return x509.load_pem_x509_certificates(pem.encode()) if pem.strip() else []


def signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Return whether an authority has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def of_key(certificate: x509.Certificate, private_key_pem: str) -> bool:
    """Return whether a certificate is of a private key.

    Raises:
        ValueError: the key cannot be read, or has a passphrase.
    """
    try:
        key = serialization.load_pem_private_key(private_key_pem.encode(), None)
    except (TypeError, UnsupportedAlgorithm):
        raise ValueError("no private key that needs no passphrase") from None
    return key.public_key() == certificate.public_key()


def fingerprint(certificate: x509.Certificate) -> str:
    """Return what names a certificate; salt/_modules/trust.py tells the same."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def made_at(certificate: x509.Certificate) -> dt.datetime:
    """Return when a certificate of this module was made."""
    return certificate.not_valid_before_utc + BACKDATED


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(subject: str, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    """Return a certificate of a key that still needs an issuer, extensions and a signature."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _sign(
    builder: x509.CertificateBuilder, *, signer: ec.EllipticCurvePrivateKey, is_authority: bool
) -> x509.Certificate:
    constraints = x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None)
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        builder.add_extension(constraints, critical=True)
        .add_extension(signer_id, critical=False)
        .add_extension(usage, critical=True)
        .sign(signer, hashes.SHA256())
    )
