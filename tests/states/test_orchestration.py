"""The orchestration with a real master and two real minions, which are all of the stack.

The minions run on this host, so they get no production state: only the orchestration and the
execution modules are the tree's own. Their states do nothing. For both to be enough, they stand for
the other roles too.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import salt.cache
import yaml
from saltfactories.daemons.master import SaltMaster
from saltfactories.manager import FactoriesManager

from plainpillar import ROOT
from stackctl.errors import ConvergeError
from stackctl.run import Log
from stackctl.states import StateRun, raise_on_failure, read_orchestration

MACHINES = ("web-1", "web-2")
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
        for name, value in (("stores", "{}"), ("others", "web"), ("balancers", "[]")):
            setting = rf"(?s){{% set {name} = .*? %}}"
            deploy, found = re.subn(setting, f"{{% set {name} = {value} %}}", deploy, count=1)
            assert found == 1
        everywhere, roles = re.subn(
            r"\['role.accepted'\]\('.+'\)", "['role.accepted']('web')", deploy
        )
        assert roles == 3
        # A machine applies states once at a time.
        self._write("salt/orch/deploy.sls", everywhere.replace("    - parallel: True\n", ""))
        shutil.copytree(ROOT / "salt/_modules", tree / "_modules")
        self._write("salt/top.sls", yaml.safe_dump({"base": {"*": ["airflow.release"]}}))
        self._write("salt/smoke/init.sls", NOTHING)
        self._write("salt/airflow/artefact.sls", NOTHING)
        self._write("salt/airflow/release.sls", NOTHING)
        self._write("salt/airflow/migrate.sls", MIGRATION.format(victim=folder / VICTIM))
        self._write("pillar/top.sls", yaml.safe_dump({"base": {"*": ["roles", "mine"]}}))
        for name in ("roles", "mine"):
            shutil.copy(ROOT / f"pillar/base/{name}.sls", folder / "pillar")
        self.set_cidr("0.0.0.0/0")
        overrides = {
            "interface": "127.0.0.1",
            "file_roots": {"base": [str(tree)]},
            "pillar_roots": {"base": [str(folder / "pillar")]},
            "module_dirs": [str(tree)],  # as salt/master/files/master.conf.j2
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

    def set_cidr(self, cidr: str) -> None:
        """Change the network of the machines in the pillar."""
        self._write("pillar/aws.sls", yaml.safe_dump({"aws": {"vpc": {"cidr": cidr}}}))

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
        """Return minion id -> what the mine holds."""
        cache = salt.cache.factory(self.master.config)
        return {name: cache.fetch("mine", name).get("private_address") for name in self.minions}


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
    runs = site.orchestrate()
    raise_on_failure(runs, log)
    assert all(site.addresses().values())


def test_changed_network_arrives_in_the_same_run(site: Site, log: Log) -> None:
    site.set_cidr("203.0.113.0/24")
    raise_on_failure(site.orchestrate(), log)
    assert list(site.addresses().values()) == [[]] * len(site.minions)


def test_machine_that_falls_silent_fails_the_run_by_name(site: Site, log: Log) -> None:
    site.kill_between_database_and_web("web-2")
    with pytest.raises(ConvergeError, match=r"^web-2: no answer"):
        raise_on_failure(site.orchestrate(), log)
    # From now on, the first step of each run names it.
    with pytest.raises(ConvergeError, match=r"^deploy-modules: .* failed on minions: web-2 "):
        raise_on_failure(site.orchestrate(), log)
