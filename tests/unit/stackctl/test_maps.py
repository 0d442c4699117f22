"""Maps are read as salt-cloud reads them, and what is wrong with one is a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from stackctl import maps
from stackctl.deployment import Deployment
from stackctl.errors import MapError, PreflightError

ROOT = Path(__file__).parents[3]


def test_map_may_use_what_salt_has(checkout: Path) -> None:
    path = checkout / "cloud.maps.d" / "other.map"
    path.write_text(
        "{% set names = [] %}\n"
        "{% for n in range(1, opts['machine_counts'].get('web', 2) + 1) %}\n"
        "{%   do names.append('web-%d' | format(n)) %}\n"
        "{% endfor %}\n"
        "salt: salt-1\n"
        "web: {{ names | json }}\n"
        "lb:\n"
        "  lb-1: {associate_eip: edge}\n"
    )
    found = maps.read(path, {"web": 3})
    assert {name: profile for name, (profile, _) in found.items()} == {
        "salt-1": "salt", "web-1": "web", "web-2": "web", "web-3": "web", "lb-1": "lb",
    }  # fmt: skip
    assert found["lb-1"][1] == {"associate_eip": "edge"}
    assert len(maps.read(path, {})) == 4


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", r"cloud\.maps\.d/other\.map: it is empty\. A profile has a list of machines: `web:"),
        ("# nothing\n", "other.map: it names no machine"),
        ("salt: []\n", "other.map: it names no machine"),
        ("- web-1\n", "it is no mapping of profiles to machines"),
        ("web-1\n", "it is no mapping of profiles to machines"),
        ("salt: [salt-1]\nweb: 1\n", "line 2: the profile 'web' has no list of machines"),
        ("salt: [salt-1]\nweb:\nlb: [lb-1]\n", "line 2: the profile 'web' has no list of machines"),
        ("web: [1]\n", "line 1: '1' below 'web' is no machine"),
        ("web: [web-1]\nlb:\n  - lb-1: 5\n", "line 2: 'lb-1' has the options 5.*are a mapping"),
        ("web: [web-1, web-2]\nlb: [web-1]\n", "line 2: it names web-1 twice"),
        ("web: [web-1]\nlb: [lb-1]\nweb: [web-2]\n", "the profile 'web' is there twice"),
        ("web: [web-1\nlb: [lb-1]\n", r"line 2: YAML: did not find expected ',' or '\]'"),
        ("web:\n  - web-1: a: b\n", "line 2: a colon that YAML does not expect"),
        ("web:\n\t- web-1\n", "line 2: a character that YAML does not expect, such as a tab"),
        ("web: [{{ n }}]\n", r"line 1: Jinja variable 'n' is undefined\. A map knows .*opts"),
        ("web: [web-1]\n\n{% for n in %}\n", "line 3: Jinja syntax error: "),
        ("web: [web-1]\n{% endfor %}\n", "line 2: Jinja syntax error: Encountered unknown tag"),
        ("web: [web-{{ 1 / 0 }}]\n", "line 1: Jinja error: division by zero"),
        (
            "web:\n{% for n in (1, 2) %}\n  - web-{{ n }}: a: b\n{% endfor %}\n",
            "other.map: a colon that YAML does not expect in '- web-1: a: b', which Jinja has made",
        ),
        ("{% raise 'x' %}", "line 1: Jinja"),
    ],
)
def test_broken_map_is_a_sentence(checkout: Path, text: str, error: str) -> None:
    path = checkout / "cloud.maps.d" / "other.map"
    path.write_text(text)
    with pytest.raises(MapError, match=error) as caught:
        maps.read(path, {})
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(MapError):
        Deployment("local", checkout, "other").machines()


@pytest.mark.parametrize(
    ("content", "error"), [(b"web: [web-\xff]", "it is not in UTF-8"), (None, "Is a directory")]
)
def test_file_that_cannot_be_read_is_a_sentence(
    checkout: Path, content: bytes | None, error: str
) -> None:
    path = checkout / "cloud.maps.d" / "other.map"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(MapError, match=rf"^other\.map cannot be read: {error}\. The file is /"):
        maps.read(path, {})


def test_production_map_has_three_of_what_needs_a_quorum() -> None:
    deployment = Deployment("test", ROOT, "production")
    machines = deployment.machines()
    numbers = {role: len(deployment.machines_of(role)) for role in dict.fromkeys(machines.values())}
    assert numbers == {"salt": 1, "lb": 2, "monitor": 1, "postgres": 3, "redis": 3, "web": 3}
    assert [role for role in numbers if deployment.scales(role)] == [
        "lb", "postgres", "redis", "web",
    ]  # fmt: skip
    least = {role: deployment.minimum(role) for role in numbers}
    assert least == {"salt": 1, "lb": 1, "monitor": 1, "postgres": 1, "redis": 1, "web": 2}


@pytest.mark.parametrize(("number", "allowed"), [(2, False), (3, True), (4, False), (5, True)])
def test_even_number_of_machines_that_vote_is_refused(
    prod: Deployment, number: int, allowed: bool
) -> None:
    prod.settings_path.write_text(f"settings: {{map: production, machines: {{redis: {number}}}}}\n")
    deployment = Deployment("prod", prod.root)
    if allowed:
        assert len(deployment.machines_of("redis")) == number
        return
    with pytest.raises(MapError, match=rf"{number} machines of the role 'redis' .* no more losses"):
        deployment.machines()


@pytest.mark.parametrize("name", ["small", "production"])
def test_no_launch_takes_the_sites_address(name: str) -> None:
    """A new load balancer would take it from the one that serves."""
    deployment = Deployment("test", ROOT, name)
    found = maps.read(deployment.map_path, {})
    assert [options for _, options in found.values() if "associate_eip" in options] == []


@pytest.mark.parametrize("value", ["3", "[small]", "''"])
def test_remembered_map_has_a_name(prod: Deployment, value: str) -> None:
    prod.settings_path.write_text(f"settings: {{map: {value}}}\n")
    with pytest.raises(
        MapError, match=r"settings:map is .* in pillar/prod/settings\.sls.*production, small"
    ):
        Deployment("prod", prod.root)
    prod.settings_path.write_text("settings: {map: large}\n")
    with pytest.raises(MapError, match=r"no map 'large'\. .* There are: production, small\."):
        Deployment("prod", prod.root)


def test_broken_settings_are_a_sentence(prod: Deployment) -> None:
    prod.settings_path.write_text("settings: {map: [small}\n")
    with pytest.raises(PreflightError, match=r"^pillar/prod/settings\.sls is no YAML, line 1"):
        Deployment("prod", prod.root)
