"""Checks the signature of a request (AWS Signature Version 4), and makes each service's errors.

Algorithm: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, quote, unquote
from uuid import uuid4
from xml.sax.saxutils import escape

from moto.backends import get_backend
from moto.core import DEFAULT_ACCOUNT_ID
from werkzeug.wrappers import Request, Response

from localcloud.config import Credentials

ALGORITHM = "AWS4-HMAC-SHA256"
CLOCK_SKEW = timedelta(minutes=15)
JSON_SERVICES = frozenset({"ssm", "kms", "servicequotas", "freetier", "tagging"})
"""The services whose errors are JSON; the code of each of their errors ends in `Exception`."""
_AUTHORIZATION = re.compile(
    rf"{ALGORITHM}\s+Credential=(?P<key>[^/,\s]+)/(?P<date>\d{{8}})/(?P<region>[^/]+)"
    r"/(?P<service>[^/]+)/aws4_request"
    r",\s*SignedHeaders=(?P<headers>[^,\s]+),\s*Signature=(?P<signature>[0-9a-f]{64})"
)


class Refused(Exception):
    """A request that AWS would refuse, with the error code of its service."""

    def __init__(self, service: str, code: str, message: str, status: int = 403) -> None:
        super().__init__(f"{code}: {message}")
        self.response = error_response(service, code, message, status)


class Signature:
    """The signature of a request, from its header or its query."""

    def __init__(self, request: Request) -> None:
        self.presigned = "X-Amz-Signature" in request.args
        if self.presigned:
            text = (
                f"{ALGORITHM} Credential={request.args.get('X-Amz-Credential', '')},"
                f"SignedHeaders={request.args.get('X-Amz-SignedHeaders', '')},"
                f"Signature={request.args['X-Amz-Signature']}"
            )
        else:
            text = request.headers.get("Authorization", "")
        found = _AUTHORIZATION.match(text)
        if not found:
            raise Refused(
                service_of(request),
                "MissingAuthenticationToken",
                "Request is missing a valid Signature Version 4",
            )
        self.access_key_id = found["key"]
        self.scope = f"{found['date']}/{found['region']}/{found['service']}/aws4_request"
        self.date, self.region, self.service = (found["date"], found["region"], found["service"])
        self.headers = found["headers"].split(";")
        self.value = found["signature"]
        given = request.args if self.presigned else request.headers
        self.time = given.get("X-Amz-Date", "")
        self.token = given.get("X-Amz-Security-Token", "")

    def expected(self, request: Request, secret: str) -> str:
        """Return the signature of the request by the secret key `secret`."""
        canonical = "\n".join(
            [
                request.method,
                self._path(request),
                self._query(request),
                *(f"{name}:{_header(request, name)}" for name in self.headers),
                "",
                ";".join(self.headers),
                self._payload(request),
            ]
        )
        to_sign = "\n".join(
            [ALGORITHM, self.time, self.scope, hashlib.sha256(canonical.encode()).hexdigest()]
        )
        key = f"AWS4{secret}".encode()
        for part in self.scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()

    def _path(self, request: Request) -> str:
        raw = str(
            request.environ.get("RAW_URI")
            or request.environ.get("REQUEST_URI")
            or quote(request.path)
        ).split("?", 1)[0]
        once = quote(unquote(raw), safe="/~")
        return once if self.service == "s3" else quote(once, safe="/~")

    def _query(self, request: Request) -> str:
        pairs = parse_qsl(request.query_string.decode(), keep_blank_values=True)
        coded = sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
            for name, value in pairs
            if name != "X-Amz-Signature"
        )
        return "&".join(f"{name}={value}" for name, value in coded)

    def _payload(self, request: Request) -> str:
        if self.presigned:
            return "UNSIGNED-PAYLOAD"
        declared = request.headers.get("X-Amz-Content-SHA256", "")
        if declared.startswith(("UNSIGNED-PAYLOAD", "STREAMING-")):
            return declared
        return hashlib.sha256(request.get_data(cache=True)).hexdigest()


class Gate:
    """Accepts requests that are signed with the owner's key or a key that the cloud has issued."""

    def __init__(
        self, owner: Credentials, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._owner = owner
        self._now = now

    def check(self, request: Request) -> Signature:
        """Return the request's signature.

        Raises:
            Refused: the signature is missing, wrong or too old, or its key is unknown.
        """
        signature = Signature(request)
        service = signature.service
        secret, token, end = self._secrets().get(signature.access_key_id, ("", "", None))
        if not secret or not hmac.compare_digest(signature.token.encode(), token.encode()):
            raise Refused(service, *_unknown_key(service))
        try:
            signed_at = datetime.strptime(signature.time, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        except ValueError as error:
            raise Refused(
                service, "IncompleteSignature", "X-Amz-Date is missing or malformed", 400
            ) from error
        lasts = (
            timedelta(seconds=int(request.args.get("X-Amz-Expires", "0")))
            if signature.presigned
            else CLOCK_SKEW
        )
        if not signed_at - CLOCK_SKEW <= self._now() <= signed_at + lasts:
            raise Refused(service, "RequestExpired", "Request has expired.", 400)
        if not hmac.compare_digest(signature.expected(request, secret), signature.value):
            raise Refused(
                service,
                "AuthFailure" if service == "ec2" else "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided. "
                "Check your AWS Secret Access Key.",
                401 if service == "ec2" else 403,
            )
        if end and end <= self._now():
            raise Refused(service, *_expired_key(service))
        return signature

    def owns(self, access_key_id: str) -> bool:
        """Return whether this is the owner's access key, which may do everything."""
        return access_key_id == self._owner.access_key_id

    def is_owner(self, secret: str) -> bool:
        """Return whether this is the owner's secret key."""
        return hmac.compare_digest(secret.encode(), self._owner.secret_access_key.encode())

    def _secrets(self) -> Mapping[str, tuple[str, str, datetime | None]]:
        """Return the keys: access key -> (secret key, session token that must be sent, end)."""
        iam = get_backend("iam")[DEFAULT_ACCOUNT_ID]["aws"]
        sts = get_backend("sts")[DEFAULT_ACCOUNT_ID]["aws"]
        issued: dict[str, tuple[str, str, datetime | None]] = {
            key.access_key_id: (key.secret_access_key, "", None)
            for key in iam.access_keys.values()
            if key.status == "Active"
        }
        sessions = {
            role.access_key_id: (
                role.secret_access_key,
                role.session_token,
                role.expiration.replace(tzinfo=UTC),
            )
            for role in sts.assumed_roles
        }
        owner = (self._owner.secret_access_key, "", None)
        return issued | sessions | {self._owner.access_key_id: owner}


def service_of(request: Request) -> str:
    """Return the service of a request; S3 if its header names none."""
    scope = re.search(
        r"/\d{8}/[^/]+/([^/]+)/aws4_request", request.headers.get("Authorization", "")
    )
    return scope[1] if scope else "s3"


def error_response(service: str, code: str, message: str, status: int) -> Response:
    """Return an error in the format of a service's protocol."""
    request_id = str(uuid4())
    if service == "ec2":
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Response><Errors><Error><Code>{escape(code)}'
            f"</Code><Message>{escape(message)}</Message></Error></Errors>"
            f"<RequestID>{request_id}</RequestID></Response>"
        )
    elif service == "s3":
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{escape(code)}</Code>'
            f"<Message>{escape(message)}</Message><RequestId>{request_id}</RequestId></Error>"
        )
    elif service in JSON_SERVICES:
        return Response(
            json.dumps({"__type": code, "message": message}),
            status=400,
            content_type="application/x-amz-json-1.1",
        )
    else:
        fault = "Sender" if status < 500 else "Receiver"
        body = (
            f"<ErrorResponse><Error><Type>{fault}</Type><Code>{escape(code)}</Code>"
            f"<Message>{escape(message)}</Message></Error>"
            f"<RequestId>{request_id}</RequestId></ErrorResponse>"
        )
    return Response(body, status=status, content_type="text/xml")


def _unknown_key(service: str) -> tuple[str, str, int]:
    if service == "ec2":
        return ("AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    if service == "s3":
        return (
            "InvalidAccessKeyId",
            "The AWS Access Key Id you provided does not exist in our records.",
            403,
        )
    if service in JSON_SERVICES:
        return (
            "UnrecognizedClientException",
            "The security token included in the request is invalid.",
            400,
        )
    return ("InvalidClientTokenId", "The security token included in the request is invalid.", 403)


def _expired_key(service: str) -> tuple[str, str, int]:
    """Return the error for the credentials of a session that has ended."""
    text = "The security token included in the request is expired"
    if service == "ec2":
        return ("RequestExpired", "Request has expired.", 400)
    if service in JSON_SERVICES:
        return ("ExpiredTokenException", text, 400)
    if service == "s3":
        return ("ExpiredToken", "The provided token has expired.", 400)
    return ("ExpiredToken", text, 403)


def _header(request: Request, name: str) -> str:
    return " ".join(",".join(request.headers.getlist(name)).split())
