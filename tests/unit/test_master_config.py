"""The master's configuration, as Salt reads it."""

from __future__ import annotations

import salt.config
import yaml

from plainpillar import ROOT


def test_keys_of_the_master_are_as_long_as_those_of_minions() -> None:
    """salt-cloud makes the minions' keys; a master's own default is shorter."""
    lines = (ROOT / "salt/master/files/master.conf.j2").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("keysize:")]
    opts = salt.config.apply_master_config(yaml.safe_load(line))
    assert opts["keysize"] == salt.config.DEFAULT_CLOUD_OPTS["keysize"] >= 4096
