"""Lines of states are at most 100 columns long, lines of YAML data 80.

salt-lint's rule for long lines has a fixed limit, and yamllint knows one limit for all files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from plainpillar import ROOT

LIMITS = {
    "salt/**/*.sls": 100,
    "salt/**/defaults.yaml": 80,
    "pillar/base/*.sls": 80,
    "cloud.maps.d/*.map": 80,
    "cloud.profiles.d/*.conf": 80,
    "cloud.providers.d/*.conf": 80,
}


def long_lines(root: Path) -> Iterator[str]:
    """Yield the place of every line that is too long."""
    for pattern, limit in LIMITS.items():
        for path in sorted(root.glob(pattern)):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if len(line) > limit:
                    yield f"{path.relative_to(root)}:{number}: {len(line)} > {limit}"


def test_lines_are_short_enough() -> None:
    assert list(long_lines(ROOT)) == []


def test_every_pattern_matches_a_file() -> None:
    assert [pattern for pattern in LIMITS if not any(ROOT.glob(pattern))] == []


def test_long_lines_are_found(tmp_path: Path) -> None:
    (tmp_path / "salt/web").mkdir(parents=True)
    (tmp_path / "salt/top.sls").write_text("# " + "x" * 98 + "\n")
    (tmp_path / "salt/web/init.sls").write_text("short\n" + "x" * 101 + "\n")
    (tmp_path / "salt/web/defaults.yaml").write_text("x" * 81)
    assert list(long_lines(tmp_path)) == [
        "salt/web/init.sls:2: 101 > 100",
        "salt/web/defaults.yaml:1: 81 > 80",
    ]
