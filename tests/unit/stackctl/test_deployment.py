"""Which names, maps, settings and ports a deployment accepts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from stackctl import deployment as module
from stackctl import local
from stackctl.deployment import Deployment, repository_root
from stackctl.errors import PreflightError, StackError

ROOT = Path(__file__).parents[3]


def with_map(checkout: Path, content: object) -> Deployment:
    """Return a deployment whose map holds that."""
    (checkout / "cloud.maps.d" / "other.map").write_text(yaml.safe_dump(content))
    return Deployment("local", checkout, "other")


@pytest.mark.parametrize("name", ["local", "prod", "prod-2", "a"])
def test_valid_names(checkout: Path, name: str) -> None:
    deployment = Deployment(name, checkout)
    assert deployment.is_local == (name == "local")
    assert deployment.pillar_dir == checkout / "pillar" / name
    assert deployment.state_dir == checkout / ".stack" / name


@pytest.mark.parametrize(
    "name", ["", "base", "Prod", "2nd", "-d", "..", "a/b", "a b", "prod\n", "x" * 32]
)
def test_invalid_names(checkout: Path, name: str) -> None:
    with pytest.raises(
        StackError,
        match=r"is no name for a deployment\. Use lower-case letters, digits and dashes\.",
    ):
        Deployment(name, checkout)


@pytest.mark.parametrize("name", ["large", "/etc/passwd", "../small"])
def test_missing_map_is_an_error(checkout: Path, name: str) -> None:
    with pytest.raises(StackError, match=rf"There is no map '{name}'\. See cloud\.maps\.d\."):
        Deployment("local", checkout, name)


def test_production_map() -> None:
    deployment = Deployment("local", ROOT, "small")
    assert next(iter(deployment.machines())) == deployment.master() == "salt-1"
    assert set(deployment.machines().values()) == {"salt", "lb", "web", "postgres", "redis"}


def test_machines_may_have_overrides(checkout: Path) -> None:
    deployment = with_map(
        checkout, {"web": ["web-2", {"web-1": {"size": "t3.large"}}], "salt": [{"salt-1": None}]}
    )
    assert list(deployment.machines().items()) == [
        ("salt-1", "salt"),
        ("web-1", "web"),
        ("web-2", "web"),
    ]


@pytest.mark.parametrize(
    "name", ["web-evil", "web-proxy-1", "web-0", "web-01", "xweb-1", "web-1.evil", "redis-1", "web"]
)
def test_map_names_machines_by_role_and_number(checkout: Path, name: str) -> None:
    deployment = with_map(checkout, {"salt": ["salt-1"], "web": ["web-1", name]})
    with pytest.raises(
        StackError, match=rf"^other\.map names '{name}' below the profile 'web'.*<n>"
    ):
        deployment.machines()


@pytest.mark.parametrize(("names", "count"), [([], 0), (["salt-1", "salt-2"], 2)])
def test_map_needs_exactly_one_master(checkout: Path, names: list[str], count: int) -> None:
    with pytest.raises(
        StackError,
        match=rf"other\.map names {count} machines of the role 'salt'\. Name just one\.",
    ):
        with_map(checkout, {"salt": names, "web": ["web-1"]}).master()


def test_files_of_a_deployment_are_below_its_folders() -> None:
    deployment = Deployment("local", ROOT)
    assert deployment.ssh_key == ROOT / ".stack/local/ssh/key"
    assert deployment.ssh_key_before == ROOT / ".stack/local/ssh/key.before"
    assert deployment.settings_path == ROOT / "pillar/local/settings.sls"
    assert deployment.map_path.is_file()
    assert "salt==" in deployment.salt_lock.read_text()


def test_base_pillar_is_that_of_a_component() -> None:
    deployment = Deployment("local", ROOT)
    assert deployment.base_pillar("aws")["region"] == deployment.region() == "eu-west-1"
    assert deployment.role_table().roles["salt"].unit == "salt-master"


def test_message_names_the_deployment_unless_it_is_the_local_one(checkout: Path) -> None:
    assert Deployment("local", checkout).command("up") == "stackctl up"
    assert Deployment("prod", checkout).command("up") == "stackctl up -d prod"
    for name, account in (("local", ""), ("prod", " --account 123456789012")):
        with pytest.raises(StackError) as caught:
            Deployment(name, checkout).settings()
        assert caught.value.hint == f"Run: stackctl secrets init -d {name}{account}"


def test_settings_are_those_of_the_pillar(checkout: Path) -> None:
    deployment = Deployment("prod", checkout)
    assert not deployment.has_settings
    deployment.pillar_dir.mkdir()
    deployment.settings_path.write_text("settings: {region: eu-west-1}\n")
    assert deployment.has_settings
    assert deployment.settings() == {"region": "eu-west-1"}


def test_missing_settings_are_an_error(checkout: Path) -> None:
    with pytest.raises(
        StackError,
        match=r"^pillar/prod/settings\.sls does not exist\. Run: stackctl secrets init -d prod",
    ):
        Deployment("prod", checkout).settings()


def test_checkout_is_found_from_package_and_working_directory(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert repository_root() == ROOT
    monkeypatch.setattr(
        module, "__file__", str(tmp_path / "site-packages" / "stackctl" / "deployment.py")
    )
    (checkout / "salt" / "base").mkdir(parents=True)
    monkeypatch.chdir(checkout / "salt" / "base")
    assert repository_root() == checkout
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StackError, match="finds no checkout"):
        repository_root()


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "", "²"])
def test_invalid_ports_are_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for variable, port in {
        "STACK_HTTPS_PORT": local.https_port,
        "STACK_API_PORT": local.api_port,
    }.items():
        monkeypatch.setenv(variable, text)
        with pytest.raises(PreflightError, match=f"{variable} is '{text}', which is no port"):
            port()


def test_environment_overrides_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACK_HTTPS_PORT", raising=False)
    assert local.base_url() == "https://127.0.0.1:8443"
    monkeypatch.setenv("STACK_HTTPS_PORT", "9443")
    assert local.base_url() == "https://127.0.0.1:9443"
