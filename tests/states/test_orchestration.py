"""The orchestration with a real master and two real minions, which are all of the stack.

The minions run on this host, so they get no production state: only the orchestration and the
execution modules are the tree's own. Their states do nothing. For both to be enough, they stand for
the other roles too.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from salt.client import LocalClient
from saltfactories.daemons.master import SaltMaster
from saltfactories.manager import FactoriesManager

from plainpillar import ROOT
from stackctl.errors import ConvergeError
from stackctl.run import Log
from stackctl.states import StateRun, raise_on_failure, read_orchestration

MACHINES = ("web-1", "web-2")
EC2 = "ec2.json"
RECORD = """
import shutil
def record():
    shutil.copy("{ec2}", "{record}")
    return True
"""
NOTHING = "nothing:\n  test.nop: []\n"
# While this file exists, the migration on web-1 kills the process that it names, and its children.
VICTIM = "victim"
MIGRATION = """
kill-victim:
  cmd.run:
    - name: kill -KILL $(cat {victim}) $(pgrep -P $(cat {victim})) && rm {victim}
    - onlyif: test -e {victim}
"""


class Site:
    """A master whose minions have the ids of the map."""

    def __init__(self, folder: Path, factories: FactoriesManager) -> None:
        self._folder = folder
        tree = folder / "salt"
        deploy = (ROOT / "salt/orch/deploy.sls").read_text()
        # The machines of a store and the load balancers have a step each, which would be those of
        # the web machines again.
        for setting, value in (
            ("for role in", "[]"), ("set others =", "web"), ("set balancers =", "[]")
        ):  # fmt: skip
            tag = rf"{{% {setting} .+? %}}"
            deploy, found = re.subn(tag, f"{{% {setting} {value} %}}", deploy, count=1)
            assert found == 1
        everywhere, roles = re.subn(
            r"\['role.accepted'\]\('.+'\)", "['role.accepted']('web')", deploy
        )
        assert roles == 2
        # A machine applies states once at a time.
        self._write("salt/orch/deploy.sls", everywhere.replace("    - parallel: True\n", ""))
        shutil.copytree(ROOT / "salt/_modules", tree / "_modules")
        self._write("salt/top.sls", yaml.safe_dump({"base": {"*": ["airflow.release"]}}))
        self._write("salt/base/init.sls", NOTHING)
        self._write("salt/smoke/init.sls", NOTHING)
        self._write("salt/airflow/artefact.sls", NOTHING)
        self._write("salt/airflow/release.sls", NOTHING)
        self._write("salt/airflow/migrate.sls", MIGRATION.format(victim=folder / VICTIM))
        self._write("pillar/top.sls", yaml.safe_dump({"base": {"*": ["roles"]}}))
        shutil.copy(ROOT / "pillar/base/roles.sls", folder / "pillar")
        # EC2 is a file here.
        shutil.copytree(ROOT / "salt/_pillar", tree / "_pillar")
        self._write(
            "salt/_modules/machine_addresses.py",
            RECORD.format(ec2=folder / EC2, record=folder / "addresses.json"),
        )
        self.move_machines("10.20.1.")
        overrides = {
            "interface": "127.0.0.1",
            "file_roots": {"base": [str(tree)]},
            "pillar_roots": {"base": [str(folder / "pillar")]},
            # As salt/master/files/master.conf.j2.
            "module_dirs": [str(tree)],
            "ext_pillar": [{"machine_addresses": str(folder / "addresses.json")}],
            "log_level_logfile": "warning",
            "timeout": 5,
            "gather_job_timeout": 3,
        }
        master = factories.salt_master_daemon("orchestrating", overrides=overrides)
        assert isinstance(master, SaltMaster)
        self.master = master
        minion = {"autoload_dynamic_modules": False, "log_level_logfile": "warning"}
        self.minions = {
            name: master.salt_minion_daemon(name, overrides=minion) for name in MACHINES
        }

    def _write(self, name: str, content: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def move_machines(self, network: str) -> dict[str, str]:
        """Give each machine another address in EC2, and return id -> address."""
        addresses = {name: f"{network}{number}" for number, name in enumerate(MACHINES)}
        self._write(EC2, json.dumps(addresses))
        return addresses

    def kill_between_database_and_web(self, name: str) -> None:
        """Have a minion die during the migration of the next orchestration."""
        self._write(VICTIM, str(self.minions[name].pid))

    def orchestrate(self) -> list[StateRun]:
        """Run the orchestration and return its state runs."""
        done = self.master.salt_run_cli().run("state.orchestrate", "orch.deploy", _timeout=240)
        assert isinstance(done.data, dict), done.stdout + done.stderr
        answer = done.data.get("data", done.data)
        (steps,) = answer.values()
        return read_orchestration(steps)

    def addresses(self) -> dict[str, Any]:
        """Return minion id -> the addresses in the pillar that the minion holds in memory."""
        with LocalClient(mopts=deepcopy(self.master.config)) as client:
            return dict(
                client.cmd("*", "pillar.get", ["addresses"], timeout=30, kwarg={"unmask": True})
            )


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, salt_factories: FactoriesManager
) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"), salt_factories)
    with ExitStack() as running:
        for daemon in (site.master, *site.minions.values()):
            running.enter_context(daemon.started())
        yield site


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path, "test")


def test_all_machines_answer(site: Site, log: Log) -> None:
    raise_on_failure(site.orchestrate(), log)


def test_new_addresses_arrive_in_the_same_run(site: Site, log: Log) -> None:
    addresses = site.move_machines("10.20.2.")
    raise_on_failure(site.orchestrate(), log)
    assert site.addresses() == dict.fromkeys(site.minions, addresses)


def test_machine_that_falls_silent_fails_the_run_by_name(site: Site, log: Log) -> None:
    site.kill_between_database_and_web("web-2")
    with pytest.raises(ConvergeError, match=r"^web-2: no answer"):
        raise_on_failure(site.orchestrate(), log)
    # From now on, the first step of each run names it.
    with pytest.raises(ConvergeError, match=r"^deploy-modules: .* failed on minions: web-2 "):
        raise_on_failure(site.orchestrate(), log)
