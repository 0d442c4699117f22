"""Debian's lynis on a machine, for the length of an audit, and what docs/lynis.md says of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from plainpillar import ROOT

DOCUMENT = ROOT / "docs/lynis.md"
LEAST = 80
"""Of the 100 of lynis' hardening index."""
_UNPACKED = "/usr/sbin/lynis /usr/share/lynis /etc/lynis"
# It is unpacked, not installed: nothing of it is on a machine that serves.
_AUDIT = """
cd /var/tmp
apt-get download -qq lynis >/dev/null
dpkg-deb --extract lynis_*.deb /
rm lynis_*.deb
{skipped}
lynis audit system --quick --quiet --no-log --report-file /var/tmp/lynis.report >/dev/null 2>&1 ||
    true
cat /var/tmp/lynis.report
rm -r /var/tmp/lynis.report {unpacked}
"""
_ROW = re.compile(r"^\| `([A-Z]+(?:-\d+)?)` \| (\S.*) \|$", re.MULTILINE)


@dataclass(frozen=True)
class Audit:
    """What lynis says of a machine.

    Attributes:
        index: the hardening index.
        told: the ids of its suggestions and warnings.
    """

    index: int
    told: frozenset[str]


def audit(shell: Callable[[str], str]) -> Audit:
    """Audit a machine without the tests that docs/lynis.md leaves out.

    Args:
        shell: runs a script on the machine as root, and returns what it prints.
    """
    lines = "\n".join(f"skip-test={name}" for name in sorted(left_out()))
    skipped = f"cat >/etc/lynis/custom.prf <<'EOF'\n{lines}\nEOF"
    report = shell(_AUDIT.format(skipped=skipped, unpacked=_UNPACKED))
    index = re.search(r"^hardening_index=(\d+)$", report, re.MULTILINE)
    assert index, report[-2000:]
    told = re.findall(r"^(?:suggestion|warning)\[\]=([A-Z0-9-]+)\|", report, re.MULTILINE)
    return Audit(int(index[1]), frozenset(told))


def left_out() -> frozenset[str]:
    """Return the tests that the document leaves out."""
    return _ids("Left out")


def answered() -> frozenset[str]:
    """Return the suggestions that the document answers."""
    return _ids("Not followed")


def _ids(heading: str) -> frozenset[str]:
    section = DOCUMENT.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return frozenset(name for name, _ in _ROW.findall(section))
