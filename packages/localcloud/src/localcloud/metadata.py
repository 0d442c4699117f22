"""The instance metadata service.

Machines ask at `config.METADATA_ADDRESS`, as on EC2, and the host's kernel leads that to the API
process. Only its second version: each request has a token. A machine is known by the address from
which it asks, which no other machine can forge: see `localcloud.ruleset`.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-instance-metadata-service.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-identity-documents.html
"""

from __future__ import annotations

import base64
import json
import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from moto.ec2.models.instances import Instance
from werkzeug.wrappers import Request, Response

from localcloud.accesses import profile_arn
from localcloud.cloud import Cloud
from localcloud.config import METADATA, REGION
from localcloud.policies import Unjudged, trusts

log = logging.getLogger(__name__)

EC2 = "ec2.amazonaws.com"
HOPS = 64
"""The time to live of answers but those with a token."""
TOKEN_HEADER = "X-aws-ec2-metadata-token"  # noqa: S105
TTL_HEADER = f"{TOKEN_HEADER}-ttl-seconds"
TOKEN_SECONDS = 21_600
"""The longest time for which a token is valid."""
SESSION = timedelta(hours=6)
"""The time for which a role's credentials are valid; Amazon's are, too."""
RENEW = timedelta(hours=1)
"""The time before the end of credentials from which on new ones are given out."""
_DATA = "/latest/meta-data/"
_CREDENTIALS = f"{_DATA}iam/security-credentials/"


class Metadata:
    """Answers the machines of a cloud.

    Args:
        cloud: knows the instances.
        save: saves the state; called, with the lock held, after credentials were made.
        now: the time in UTC.
    """

    def __init__(
        self,
        cloud: Cloud,
        save: Callable[[], object],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._cloud = cloud
        self._save = save
        self._now = now
        self._tokens: dict[str, tuple[str, datetime]] = {}  # token -> instance id, end

    def answer(self, request: Request) -> Response:
        """Answer a request whose path begins with `config.METADATA`."""
        path = request.path.removeprefix(METADATA)
        with self._cloud.lock:
            instance = self._caller(request.remote_addr or "")
            if instance is None:
                return Response(status=404)
            _limit_hops(request, instance, path)
            if instance.metadata_options.http_endpoint == "disabled":
                return Response(status=403)
            if path == "/latest/api/token":
                return self._token(request, instance)
            if request.method != "GET":
                return Response(status=405)
            if not self._knows(request.headers.get(TOKEN_HEADER, ""), instance):
                return Response(status=401)
            return self._get(path, instance)

    def _caller(self, address: str) -> Instance | None:
        """Return the living instance that has a private address."""
        return next(
            (
                instance
                for instance in self._cloud.instances()
                if instance.state not in ("terminated", "shutting-down")
                and any(nic.private_ip_address == address for nic in instance.nics.values())
            ),
            None,
        )

    def _token(self, request: Request, instance: Instance) -> Response:
        """Give out a token; a proxy in between, which tells itself by a header, gets none."""
        if request.method != "PUT":
            return Response(status=405)
        if "X-Forwarded-For" in request.headers:
            return Response(status=403)
        text = request.headers.get(TTL_HEADER, "")
        seconds = int(text) if text.isascii() and text.isdigit() else 0
        if not 1 <= seconds <= TOKEN_SECONDS:
            return Response(status=400)
        now = self._now()
        self._tokens = {token: known for token, known in self._tokens.items() if known[1] > now}
        token = secrets.token_urlsafe(42)
        self._tokens[token] = (instance.id, now + timedelta(seconds=seconds))
        return Response(token, content_type="text/plain", headers={TTL_HEADER: str(seconds)})

    def _knows(self, token: str, instance: Instance) -> bool:
        owner, end = self._tokens.get(token, ("", self._now()))
        return owner == instance.id and end > self._now()

    def _get(self, path: str, instance: Instance) -> Response:
        known = _facts(instance) | _tags(instance)
        if path in known:
            return Response(known[path], content_type="text/plain")
        if path == "/latest/dynamic/instance-identity/document":
            return _json(_identity(instance))
        if path == "/latest/user-data" and instance.user_data:
            return Response(_user_data(instance), content_type="application/octet-stream")
        role = _role(instance)
        if role and path in (_CREDENTIALS, _CREDENTIALS.rstrip("/")):
            return Response(role.name, content_type="text/plain")
        if role and path == f"{_CREDENTIALS}{role.name}":
            return _json(self._credentials(role, instance))
        return Response(status=404)

    def _credentials(self, role: Any, instance: Instance) -> dict[str, str]:
        """Return the credentials of an instance's role; make new ones before the old ones end."""
        try:
            trusted = trusts(json.loads(role.assume_role_policy_document), EC2)
        except Unjudged as error:
            log.error("the trust of %s is not judged: %s", role.name, error)
            trusted = False
        if not trusted:
            return {
                "Code": "AssumeRoleUnauthorizedAccess",
                "Message": f"EC2 cannot assume the role {role.name}. See its trust policy.",
            }
        sts = get_backend("sts")[DEFAULT_ACCOUNT_ID]["aws"]
        now = self._now().replace(tzinfo=None)
        own = [
            session
            for session in sts.assumed_roles
            if (session.session_name, session.role_arn) == (instance.id, role.arn)
            and session.expiration - now > RENEW
        ]
        if not own:
            sts.assumed_roles = [known for known in sts.assumed_roles if known.expiration > now]
            session = sts.assume_role(REGION, instance.id, role.arn, "", 0, "")
            session.issued, session.expiration = now, now + SESSION
            own = [session]
            self._save()
            log.info("%s has new credentials of %s", instance.id, role.name)
        session = own[-1]
        return {
            "Code": "Success",
            "LastUpdated": _time(session.issued),
            "Type": "AWS-HMAC",
            "AccessKeyId": session.access_key_id,
            "SecretAccessKey": session.secret_access_key,
            "Token": session.session_token,
            "Expiration": _time(session.expiration),
        }


def _limit_hops(request: Request, instance: Instance, path: str) -> None:
    """Have an answer with a token pass no more routers than the instance's hop limit says.

    A container on the machine, behind a bridge of its own, gets none if the limit is 1.
    """
    options = instance.metadata_options
    hops = options.http_put_response_hop_limit if path == "/latest/api/token" else HOPS
    connection: socket.socket = request.environ["werkzeug.socket"]
    connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(hops))


def _facts(instance: Instance) -> dict[str, str]:
    """Return what EC2 says of an instance, by path."""
    nic = instance.nics[0]
    facts = {
        "ami-id": instance.image_id,
        "hostname": instance.private_dns_name,
        "instance-id": instance.id,
        "instance-type": instance.instance_type,
        "local-hostname": instance.private_dns_name,
        "local-ipv4": nic.private_ip_address,
        "mac": nic.mac_address,
        "placement/availability-zone": instance.availability_zone,
        "placement/region": REGION,
        "security-groups": "\n".join(sorted(str(group.name) for group in nic.group_set)),
    }
    # EC2 names the root device and the volumes beside it, which come in the order of their devices.
    root = str(instance.root_device_name)
    others = [device for device in sorted(instance.block_device_mapping) if device != root]
    devices = {"ami": root, "root": root}
    devices |= {f"ebs{number}": device for number, device in enumerate(others, 1)}
    facts |= {f"block-device-mapping/{name}": device for name, device in devices.items()}
    facts["block-device-mapping/"] = "\n".join(sorted(devices))
    if nic.public_ip:
        facts["public-ipv4"] = nic.public_ip
    return {f"{_DATA}{name}": str(fact) for name, fact in facts.items()}


def _tags(instance: Instance) -> dict[str, str]:
    """Return the tags of an instance by path, if its options have them in its metadata."""
    if instance.metadata_options.instance_metadata_tags != "enabled":
        return {}
    tags = {tag["key"]: str(tag["value"]) for tag in instance.get_tags()}
    listed = "\n".join(sorted(tags))
    return {f"{_DATA}tags/instance/{key}": value for key, value in tags.items()} | {
        f"{_DATA}tags/instance": listed,
        f"{_DATA}tags/instance/": listed,
    }


def _identity(instance: Instance) -> dict[str, str | None]:
    return {
        "accountId": DEFAULT_ACCOUNT_ID,
        "architecture": str(instance.architecture),
        "availabilityZone": str(instance.availability_zone),
        "imageId": str(instance.image_id),
        "instanceId": str(instance.id),
        "instanceType": str(instance.instance_type),
        "kernelId": None,
        "pendingTime": _time(instance.launch_time),
        "privateIp": str(instance.nics[0].private_ip_address),
        "ramdiskId": None,
        "region": REGION,
        "version": "2017-09-30",
    }


def _user_data(instance: Instance) -> bytes:
    return base64.b64decode(str(instance.user_data))


def _role(instance: Instance) -> Any:
    """Return the role in the profile of an instance; None: there is none."""
    profiles = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"].instance_profiles.values()
    wanted = profile_arn(instance)
    return next(
        (role for profile in profiles if profile.arn == wanted for role in profile.roles), None
    )


def _json(content: Mapping[str, str | None]) -> Response:
    return Response(json.dumps(content, indent=2), content_type="application/json")


def _time(naive: datetime) -> str:
    return naive.strftime("%Y-%m-%dT%H:%M:%SZ")
