"""The configurations of Salt's master and minions, as Salt itself reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
import salt.config

from plainpillar import ROOT


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("minion/files/stack.conf", {"signing_algorithm", "encryption_algorithm"}),
        ("master/files/master.conf.j2", {"publish_signing_algorithm"}),
    ],
)
def test_nothing_is_signed_or_encrypted_with_sha_1(
    tmp_path: Path, name: str, options: set[str]
) -> None:
    lines = (ROOT / "salt" / name).read_text().splitlines()
    kept = "\n".join(line for line in lines if line.partition(":")[0] in options)
    (tmp_path / "config").write_text(kept)
    read = salt.config.minion_config if "minion" in name else salt.config.master_config
    found = read(str(tmp_path / "config"))  # it refuses what is no algorithm of it
    assert {option: found[option] for option in options if "SHA1" in found[option]} == {}
