"""How many machines a role has: what an operator may ask for, and where the answer is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import salt.config
import salt.loader
import salt.template
import yaml

from stackctl import counts
from stackctl.counts import Bounds, Wanted
from stackctl.deployment import Deployment
from stackctl.errors import StackError

ROOT = Path(__file__).parents[3]
SETTINGS = "# Mine.\nsettings:\n  base_url: https://example.org  # the site\n"


@pytest.fixture
def initialised(deployment: Deployment) -> Deployment:
    """A deployment with settings."""
    deployment.pillar_dir.mkdir()
    deployment.settings_path.write_text(SETTINGS)
    return deployment


def ask(deployment: Deployment, *wanted: str) -> bool:
    """Write what the command line asks for."""
    return counts.write(deployment.settings_path, [Wanted.parse(text) for text in wanted])


@pytest.mark.parametrize(
    ("text", "bounds"),
    [("web=4", Bounds(4, 4)), ("web=0", Bounds(0, 0)), ("web=2..4", Bounds(2, 4))],
)
def test_numbers_and_bounds_are_read(text: str, bounds: Bounds) -> None:
    assert Wanted.parse(text) == Wanted("web", bounds)
    assert f"web={bounds}" == text


@pytest.mark.parametrize(
    "text",
    ["", "web", "web=", "=4", "web=x", "web=-1", "web=+4", "web=4.0", "web=04", "web=1_0", "web=٤",
     "web=123456", "web=2..", "web=..4", "web=2...4", "web=4..2", "web = 4", "web=4\n", "WEB=4"],
)  # fmt: skip
def test_other_words_are_no_numbers(text: str) -> None:
    with pytest.raises(ValueError, match=r"ROLE=NUMBER|above"):
        Wanted.parse(text)


def test_map_follows_the_settings(initialised: Deployment) -> None:
    assert initialised.machines_of("web") == ["web-1", "web-2"]
    assert ask(initialised, "web=4")
    assert initialised.machines_of("web") == ["web-1", "web-2", "web-3", "web-4"]
    assert ask(initialised, "web=2")
    assert initialised.machines_of("web") == ["web-1", "web-2"]


@pytest.mark.parametrize("name", ["small", "production"])
@pytest.mark.parametrize("number", [None, 2, 3, 12])
def test_salt_cloud_renders_the_map_as_stackctl_does(
    initialised: Deployment, tmp_path: Path, name: str, number: int | None
) -> None:
    if number:
        ask(initialised, f"web={number}")
    initialised = replace(initialised, map_name=name)
    (tmp_path / "cloud").write_text("{}\n")
    (tmp_path / "cloud.conf.d").mkdir()
    recorded = yaml.safe_dump({"machine_counts": initialised.counts()})
    (tmp_path / "cloud.conf.d" / "machines.conf").write_text(recorded)
    opts = salt.config.cloud_config(str(tmp_path / "cloud"))
    # As salt.cloud.Map.read does.
    rendered = salt.template.compile_template(
        str(initialised.map_path), salt.loader.render(opts, {}), "jinja|yaml", None, None
    )
    found = {
        name: profile
        for profile, machines in rendered.items()
        for machine in machines
        for name in ([machine] if isinstance(machine, str) else machine)
    }
    assert found == initialised.machines()


def test_settings_keep_everything_else(initialised: Deployment) -> None:
    path = initialised.settings_path
    path.chmod(0o644)
    assert ask(initialised, "web=4")
    assert path.read_text() == SETTINGS + "  machines: {web: 4}\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert not ask(initialised, "web=4")
    path.write_text(path.read_text() + "  load_examples: true\n")
    assert ask(initialised, "web=2..4")
    assert path.read_text() == (
        SETTINGS + "  machines: {web: {minimum: 2, maximum: 4}}\n  load_examples: true\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "settings:\n  machines:\n    web: 3\n    lb: 1\n  a: 1\n",
        "settings: {machines: {web: 3, lb: 1}, a: 1}\n",
        "settings:\n    machines: {web: 3,\n      lb: 1}\n    a: 1",
    ],
)
def test_settings_may_be_written_in_any_way(initialised: Deployment, text: str) -> None:
    initialised.settings_path.write_text(text)
    assert ask(initialised, "web=4")
    assert initialised.settings() == {"machines": {"web": 4, "lb": 1}, "a": 1}


@pytest.mark.parametrize(
    "value",
    ["many", "'3'", "true", "-1", "1.5", "[2, 4]", "{minimum: 2}", "{minimum: 4, maximum: 2}",
     "{minimum: 2, maximum: x}", "{minimum: 2, maximum: 4, now: 3}"],
)  # fmt: skip
def test_settings_with_another_value_are_refused(initialised: Deployment, value: str) -> None:
    initialised.settings_path.write_text(f"{SETTINGS}  machines: {{web: {value}}}\n")
    with pytest.raises(StackError, match=r"settings:machines:web is .* in pillar/local"):
        initialised.machines()


def test_settings_need_roles(initialised: Deployment) -> None:
    initialised.settings_path.write_text(SETTINGS + "  machines: 4\n")
    with pytest.raises(StackError, match=r"settings:machines is 4"):
        initialised.machines()


@pytest.mark.parametrize("setting", ["{web: 1}", "{redis: 2}", "{cache: 1}"])
def test_map_that_does_not_follow_is_an_error(initialised: Deployment, setting: str) -> None:
    initialised.settings_path.write_text(SETTINGS + f"  machines: {setting}\n")
    with pytest.raises(StackError, match=r"small\.map names \d machines of the role"):
        initialised.machines()


def test_only_web_machines_scale(deployment: Deployment) -> None:
    roles = deployment.role_table().roles
    assert [role for role in roles if deployment.scales(role)] == ["web"]
    assert deployment.minimum("web") == 2


@pytest.mark.parametrize(
    ("existing", "recorded", "number"),
    [
        ([], {}, 2),
        (["web-1", "web-2", "web-3"], {}, 3),  # a new master knows no number yet
        (["web-1", "web-3"], {}, 3),
        (["web-1", "web-2"], {"web": 3}, 3),  # EC2 has lost one
        (["web-7"], {"web": 3}, 4),
        (["redis-9"], {"web": 1}, 2),
    ],
)
def test_number_that_the_master_chooses_is_what_exists(
    initialised: Deployment, existing: list[str], recorded: dict[str, int], number: int
) -> None:
    ask(initialised, "web=2..4")
    assert len(initialised.with_existing(existing, recorded).machines_of("web")) == number


def test_fixed_number_does_not_follow_what_exists(initialised: Deployment) -> None:
    ask(initialised, "web=3")
    now = initialised.with_existing(["web-1", "web-4"], {"web": 4})
    assert now.machines_of("web") == ["web-1", "web-2", "web-3"]
