"""A deployment's pillar for tests: the production catalogue of secrets, in plaintext.

It precedes `pillar/base`, in the place of a real deployment's ciphertext.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stackctl.catalogue import catalogue
from stackctl.certificates import Authority
from stackctl.deployment import Deployment

ROOT = Path(__file__).parents[2]
DEPLOYMENT = Deployment("test", ROOT)
DOMAIN = DEPLOYMENT.role_table().domain
# A role that no machine serves.
SPARE_ROLE = {"spare": {"unit": "spare", "serving": 0}}
BASE_URL = "https://airflow.example.com"

Fields = dict[str, str]


class PlainPillar:
    """A pillar root with new values for every secret of the catalogue.

    Attributes:
        path: the pillar root.
        secrets: secret -> field -> value.
        authority: the CA that has signed the certificates.
        ca_certificate: the CAs that the machines trust, PEM.
    """

    def __init__(
        self,
        path: Path,
        cidr: str | None = None,
        login_rate_limit: str | None = None,
        *,
        proxied: bool = True,
        roles: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        """Write the files below `path`.

        Args:
            path: the folder to fill; it must exist.
            cidr: the machines' network, where it is not the one of `pillar/base/aws.sls`.
            login_rate_limit: of the web app, where it is not the one of `pillar/base/airflow.sls`.
            proxied: whether machines fetch packages by the proxy on the master's machine.
            roles: further rows of the table of roles.
            settings: what else the deployment decides.
        """
        self.path = path
        self.authority = Authority.new(DEPLOYMENT.name)
        self.ca_certificate = self.authority.certificate_pem
        self.secrets: dict[str, Fields] = {}
        (path / "secrets").mkdir()
        for secret, recipe in catalogue(DEPLOYMENT, self.authority, BASE_URL).items():
            self.give(secret, recipe())
        decided = {
            "deployment": "test",
            "base_url": BASE_URL,
            "load_examples": True,
            "ca_certificate": self.ca_certificate,
        }
        self._settings = decided | settings
        self._write("settings", {"settings": self._settings})
        if cidr is not None:
            account = DEPLOYMENT.base_pillar("aws")
            account["vpc"]["cidr"] = cidr
            self._write("aws", {"aws": account})
        if not proxied:
            self._write("proxy", {"proxy": DEPLOYMENT.base_pillar("proxy") | {"used": False}})
        if roles is not None:
            table = DEPLOYMENT.base_pillar("roles") | dict(roles)
            self._write("roles", {"domain": DOMAIN, "roles": table})
        # Machines without an instance metadata service have no credentials for a bucket.
        kept = DEPLOYMENT.base_pillar("backups") | {"repository": "posix"}
        self._write("backups", {"backups": kept})
        if login_rate_limit is not None:
            self._write(
                "airflow",
                {
                    "airflow": DEPLOYMENT.base_pillar("airflow")
                    | {"login_rate_limit": login_rate_limit}
                },
            )

    def trust(self, *authorities: Authority) -> None:
        """Have the machines trust these CAs and no other."""
        self.ca_certificate = "".join(authority.certificate_pem for authority in authorities)
        self._settings["ca_certificate"] = self.ca_certificate
        self._write("settings", {"settings": self._settings})

    @contextmanager
    def decided(self, **settings: Any) -> Iterator[None]:
        """Have the deployment decide something else while the block runs."""
        before = dict(self._settings)
        self._settings |= settings
        self._write("settings", {"settings": self._settings})
        try:
            yield
        finally:
            self._settings = before
            self._write("settings", {"settings": self._settings})

    def sign(self, authority: Authority) -> None:
        """Give every role with a certificate another one, which this CA has signed."""
        self.authority = authority
        recipes = catalogue(DEPLOYMENT, authority, BASE_URL)
        for secret in DEPLOYMENT.role_table().leaves:
            self.give(secret, recipes[secret]())

    @contextmanager
    def rotated(self) -> Iterator[Authority]:
        """Yield the CA, which a test replaces; afterwards it and all certificates are back."""
        authority, secrets = self.authority, dict(self.secrets)
        try:
            yield authority
        finally:
            self.authority, self.secrets = authority, secrets
            self.trust(authority)
            for secret, fields in secrets.items():
                self.give(secret, fields)

    def give(self, secret: str, fields: Mapping[str, str]) -> None:
        """Have a secret these fields."""
        self.secrets[secret] = dict(fields)
        self._write(f"secrets/{secret}", {"secrets": {secret: dict(fields)}})

    def _write(self, name: str, data: dict[str, Any]) -> None:
        (self.path / f"{name}.sls").write_text(yaml.safe_dump(data, sort_keys=False))

    def values(self) -> dict[str, str]:
        """Return `secret:field` -> value, to search for leaks."""
        return {
            f"{secret}:{field}": value
            for secret, fields in self.secrets.items()
            for field, value in fields.items()
        }
