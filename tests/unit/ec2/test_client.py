"""The connection: region, credentials, endpoint, retries, and the cache that processes share."""

from __future__ import annotations

import datetime as dt
import logging
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from saltext.ec2 import _cache, _client
from saltext.ec2.clouds import ec2 as driver
from saltext.ec2.errors import ApiError, ConfigurationError, QueryFailed, RegionRefused

REFUSED = "region eu-west-2 is refused: allowed_regions names eu-west-1"


@pytest.mark.parametrize("option", ["location", "region"])
def test_region_that_is_not_allowed_is_refused(option: str) -> None:
    assert _client.region_of({option: "eu-west-1", "allowed_regions": ["eu-west-1"]}) == "eu-west-1"
    with pytest.raises(RegionRefused, match=REFUSED):
        _client.region_of({option: "eu-west-2", "allowed_regions": ["eu-west-1"]})


def test_region_of_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    with pytest.raises(RegionRefused, match=REFUSED):
        _client.region_of({"allowed_regions": ["eu-west-1"]})
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(ConfigurationError, match="no region"):
        _client.region_of({})


def test_region_of_options_outranks_environment_which_outranks_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    assert _client.region_of({}) == "eu-north-1"
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert _client.region_of({}) == "eu-west-2"
    for option in ("location", "region"):
        assert _client.region_of({option: "eu-west-1"}) == "eu-west-1"


def test_two_regions_are_refused_unless_they_are_one() -> None:
    assert _client.region_of({"location": "eu-west-1", "region": "eu-west-1"}) == "eu-west-1"
    with pytest.raises(ConfigurationError, match="location is eu-west-1 but region is eu-west-2"):
        _client.region_of({"location": "eu-west-1", "region": "eu-west-2"})


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (None, None),
        ("eu-west-1", None),
        (["eu-west-2", "eu-west-1"], None),
        ("eu-west-11", "eu-west-11"),
        (["eu-west-2", "eu-west-3"], "eu-west-2, eu-west-3"),
        ([], "none"),
    ],
)
def test_only_allowed_regions_are_accepted(allowed: Any, refused: str | None) -> None:
    options = {} if allowed is None else {"allowed_regions": allowed}
    if refused is None:
        _client.check_region("eu-west-1", options)
        return
    with pytest.raises(RegionRefused, match=f"refused: allowed_regions names {refused}$"):
        _client.check_region("eu-west-1", options)


def test_provider_in_refused_region_is_refused(opts: dict[str, Any]) -> None:
    opts["providers"]["cloud"]["ec2"]["location"] = "eu-west-2"
    assert driver.get_configured_provider()
    with pytest.raises(RegionRefused, match="provider cloud:ec2: region eu-west-2 is refused"):
        driver.list_availability_zones()


def test_provider_needs_no_credentials(opts: dict[str, Any]) -> None:
    provider = driver.get_configured_provider()
    assert isinstance(provider, dict)
    assert not {"id", "key"} & set(provider)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, "test"),
        ({"id": "AKIA1", "key": "secret"}, "AKIA1"),
        ({"id": "use-instance-role-credentials", "key": "use-instance-role-credentials"}, "test"),
        ({"role_arn": "arn:aws:iam::123456789012:role/salt"}, "ASIA"),
    ],
)
def test_connection_uses_credentials_of_options(
    ec2: Any, tmp_path: Path, given: dict[str, str], used: str
) -> None:
    client: Any = _client.connect({"location": "eu-west-1", **given}, str(tmp_path)).ec2
    assert client._request_signer._credentials.access_key.startswith(used)


def test_credentials_of_role_are_renewed(ec2: Any, tmp_path: Path) -> None:
    role = {"location": "eu-west-1", "role_arn": "arn:aws:iam::123456789012:role/salt"}
    client: Any = _client.connect(role, str(tmp_path)).ec2
    credentials = client._request_signer._credentials
    first = credentials.access_key
    assert credentials.access_key == first
    credentials._expiry_time = dt.datetime.now(tz=dt.UTC)
    credentials._refresh_using.__self__._cache.clear()
    assert credentials.access_key != first


@pytest.mark.parametrize("given", [{"id": "AKIA1"}, {"key": "secret"}])
def test_id_without_key_is_refused(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="id and key belong together"):
        _client.connect({"location": "eu-west-1", **given}, str(tmp_path))


def test_token_belongs_to_id_and_key(ec2: Any, tmp_path: Path) -> None:
    given = {"location": "eu-west-1", "token": "of a session"}
    keys = {"id": "AKIA1", "key": "secret"}
    for options, token in ((given | keys, "of a session"), (given, None)):
        client: Any = _client.connect(options, str(tmp_path)).ec2
        assert client._request_signer._credentials.token == token


def test_role_needs_credentials_to_be_assumed_with(
    ec2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = {"location": "eu-west-1", "role_arn": "arn:aws:iam::123456789012:role/salt"}
    monkeypatch.setattr("boto3.Session.get_credentials", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"no credentials .* to assume the role arn:aws"):
        _client.connect(role, str(tmp_path))
    # Without a role, the calls say it.
    assert _client.connect({"location": "eu-west-1"}, str(tmp_path)).account.endswith(" ")


def test_account_is_known_by_region_endpoint_and_credentials(ec2: Any, tmp_path: Path) -> None:
    def account(**given: str) -> str:
        return _client.connect({"location": "eu-west-1", **given}, str(tmp_path)).account

    url = "https://ec2.eu-west-1.amazonaws.com"
    assert account(id="AKIA1", key="secret") == f"eu-west-1 {url} AKIA1"
    role = "arn:aws:iam::123456789012:role/salt"
    assert account(role_arn=role) == f"eu-west-1 {url} {role}"
    assert account(endpoint_url="http://127.0.0.1:1").startswith("eu-west-1 http://127.0.0.1:1 ")


def test_account_of_a_profiles_role_is_the_same_in_each_session() -> None:
    """Each session gets an access key of its own."""
    session: Any = SimpleNamespace(profile_name="deploy")
    for key in ("ASIA1", "ASIA2"):
        credentials = SimpleNamespace(method="assume-role-with-web-identity", access_key=key)
        identity = _client._identity(credentials, session)
        assert identity == "assume-role-with-web-identity deploy"


def test_client_has_the_patience_of_the_options(ec2: Any, tmp_path: Path) -> None:
    given = {"location": "eu-west-1", "max_attempts": 7, "api_timeout": 9}
    connection = _client.connect(given, str(tmp_path))
    for config in (connection.ec2.meta.config, connection.ssm.meta.config):
        options: Any = config
        assert (options.retries["total_max_attempts"], options.read_timeout) == (7, 9)
    assert _client.connect(given, str(tmp_path)) is connection


def test_two_endpoints_are_refused(tmp_path: Path) -> None:
    given = {"location": "eu-west-1", "endpoint": "a.example", "endpoint_url": "https://b.example"}
    with pytest.raises(ConfigurationError, match="endpoint and endpoint_url are both set"):
        _client.connect(given, str(tmp_path))


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({"endpoint_url": "http://127.0.0.1:1"}, "http://127.0.0.1:1"),
        (
            {"endpoint": "cloud.example.com:8773/services"},
            "https://cloud.example.com:8773/services",
        ),
        ({"endpoint": "http://127.0.0.1:3"}, "http://127.0.0.1:3"),
        ({}, "http://127.0.0.1:2"),
    ],
)
def test_connection_uses_endpoint_of_options(
    ec2: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], url: str
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:2")
    connection = _client.connect({"location": "eu-west-1", **given}, str(tmp_path))
    assert connection.ec2.meta.endpoint_url == url
    assert connection.ssm.meta.endpoint_url == "http://127.0.0.1:2", (
        "an endpoint of EC2 has no SSM parameters"
    )


def failing(status: int, code: str) -> Any:
    """Return an answer with which EC2 refuses a call."""
    error = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    body = f"<Response><Errors>{error}</Errors></Response>".encode()

    class Raw:
        def stream(self) -> list[bytes]:
            return [body]

        def read(self, *_: Any) -> bytes:
            return body

    return AWSResponse("https://ec2", status, HTTPHeaders(), Raw())


@pytest.fixture
def patient(opts: dict[str, Any], ec2: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the driver's own client, which does not pause between attempts."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    opts["providers"]["cloud"]["ec2"]["max_attempts"] = 3
    return driver._context().connect().ec2


def test_throttled_call_is_retried_and_logged(
    patient: Any, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [failing(503, "RequestLimitExceeded"), failing(500, "InternalError")]
    patient.meta.events.register_first(
        "before-send.ec2", lambda **_: answers.pop(0) if answers else None
    )
    with caplog.at_level(logging.WARNING):
        assert driver.list_nodes() == {}
    assert "DescribeInstances failed at try 1: RequestLimitExceeded" in caplog.text
    assert "DescribeInstances failed at try 2: InternalError" in caplog.text


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (200, {}, None, ""),
        (400, {"Error": {"Code": "UnsupportedOperation"}}, None, ""),
        (400, {"Error": {"Code": "InvalidGroup.NotFound"}}, None, "InvalidGroup.NotFound"),
        (502, {}, None, "502"),
        (None, None, OSError("reset"), "reset"),
    ],
)
def test_failed_attempt_is_logged_unless_it_is_expected(
    caplog: pytest.LogCaptureFixture,
    status: int | None,
    body: Any,
    error: Exception | None,
    said: str,
) -> None:
    answer = None if status is None else (SimpleNamespace(status_code=status), body)
    with caplog.at_level(logging.WARNING):
        _client._report_retry(2, SimpleNamespace(name="RunInstances"), answer, error)
    assert [record.getMessage() for record in caplog.records] == (
        [f"RunInstances failed at try 2: {said}"] if said else []
    )


def test_failed_query_is_no_empty_list_after_last_attempt(
    patient: Any,
) -> None:
    tries = []

    def refuse(**_: Any) -> Any:
        tries.append(1)
        return failing(503, "RequestLimitExceeded")

    patient.meta.events.register_first("before-send.ec2", refuse)
    with pytest.raises(QueryFailed, match=r"RequestLimitExceeded: no \(after 2 retries\)"):
        driver.list_nodes_min()
    assert len(tries) == 3
    assert not issubclass(QueryFailed, Exception), (
        "salt.cloud takes any Exception for 'no machines'"
    )


def test_refused_call_is_not_retried(patient: Any) -> None:
    tries = []

    def refuse(**_: Any) -> Any:
        tries.append(1)
        return failing(403, "UnauthorizedOperation")

    patient.meta.events.register_first("before-send.ec2", refuse)
    with pytest.raises(
        ApiError, match="reading the tags of i-1 failed: DescribeTags: UnauthorizedOperation"
    ) as caught:
        driver.get_tags(kwargs={"resource_id": "i-1"}, call="function")
    assert caught.value.code == "UnauthorizedOperation"
    assert len(tries) == 1


def _ask(folder: str, asked: Any) -> None:
    def answer() -> int:
        with asked.get_lock():
            asked.value += 1
        time.sleep(0.2)
        return 42

    assert _cache.Cache(folder, "account").get("question", answer) == 42


def test_cache_asks_once_for_several_processes(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    asked = fork.Value("i", 0)
    processes = [fork.Process(target=_ask, args=(str(tmp_path), asked)) for _ in range(5)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 5
    assert asked.value == 1


def _wait_for(folder: str, key: str, asked: Any, failing: bool) -> None:
    def answers(keys: list[str]) -> dict[str, str]:
        with asked.get_lock():
            asked.value += 1
            number = asked.value
        if failing:
            raise ApiError("no", "Throttled")
        return {name: f"{name} {number}" for name in keys if name != "unknown"}

    cache = _cache.Cache(folder, "account")
    begin = time.time()
    if failing:
        with pytest.raises(ApiError, match="no") as caught:
            cache.poll(key, answers, begin, 0.5)
        assert caught.value.code == "Throttled"
        return
    for _ in range(3):
        since = time.time()
        answer = cache.poll(key, answers, since, 0.5)
        assert answer is None if key == "unknown" else answer.startswith(f"{key} ")
    later = cache.poll(key, answers, begin, 0.5)  # by now, another who waits may have asked again
    assert (answer, later) == (None, None) or int(later.split()[1]) >= int(answer.split()[1]), (
        "it is no older"
    )


@pytest.mark.parametrize("failing", [False, True])
def test_cache_polls_once_for_all_waiting_processes(tmp_path: Path, *, failing: bool) -> None:
    fork = multiprocessing.get_context("fork")
    asked = fork.Value("i", 0)
    keys = ["a", "b", "c", "d", "e", "unknown"]
    begin = time.monotonic()
    processes = [
        fork.Process(target=_wait_for, args=(str(tmp_path), key, asked, failing)) for key in keys
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(keys)
    assert asked.value <= 2 + (time.monotonic() - begin) / 0.5


def test_cache_reuses_recent_poll(tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def answers(keys: list[str]) -> dict[str, int]:
        asked.append(keys)
        return {"a": len(asked)}

    cache = _cache.Cache(tmp_path, "account")
    begin = time.time()
    assert [cache.poll("a", answers, begin, 0) for _ in range(2)] == [1, 1]
    assert cache.poll("a", answers, time.time(), 0) == 2
    assert asked == [["a"], ["a"]]


def test_cache_drops_old_answers_and_failures(tmp_path: Path) -> None:
    cache = _cache.Cache(tmp_path, "account")

    def fail() -> float:
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        cache.get("question", fail)
    assert cache.get("question", lambda: 1, seconds=0) == 1
    assert cache.get("question", lambda: 2) == 2
    assert cache.get("question", lambda: 3) == 2
    assert _cache.Cache(tmp_path, "another account").get("question", lambda: 4) == 4
