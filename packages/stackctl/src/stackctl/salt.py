"""Salt as the operator uses it: masterless and salt-cloud from this host, `salt` and `salt-run` on the master."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stackctl.deployment import Deployment
from stackctl.driver import OPTIONS
from stackctl.errors import CommandError, ConvergeError, LaunchError, StackError
from stackctl.files import private_directory, write_private
from stackctl.machines import Machine
from stackctl.run import Log, run
from stackctl.ssh import Shell, is_active

SALT_CLOUD_OPTIONS = ("--assume-yes", "--out=json", "--log-level=warning")
# For each machine, in serial one after another: EC2, then what the driver waits for sshd and the deploy script.
MACHINE_SECONDS = 600 + sum(
    float(OPTIONS[name].default) for name in ("ssh_connect_timeout", "deploy_timeout")
)
LOCK = "/run/salt-cloud.lock"
LOCK_SECONDS = 300  # that a salt-cloud on the master waits for another one there
LOCKED = 75  # EX_TEMPFAIL of sysexits.h, which salt-cloud has no use for
COMMENT_LENGTH = 300  # of a failed state, in an error; the log has the rest
MIGRATES = "web-1"  # to which salt/orch/deploy.sls applies airflow.migrate
LOCK_ON_MACHINE = "/opt/salt-deploy/requirements.txt"  # read there by cloud.deploy.d/salt-minion.sh


def operator_configuration(deployment: Deployment) -> Path:
    """Write this host's Salt configuration for the deployment, and return its folder.

    The provider, profiles, map and deploy script in it are links to the repository's own.
    """
    folder = private_directory(deployment.state_dir / "salt")
    private_directory(folder / "run")
    common = {
        "pki_dir": str(folder / "pki"),
        "cachedir": str(folder / "cache"),
        "sock_dir": str(folder / "run"),
        "log_file": str(folder / "salt.log"),
    }
    minion = {
        "id": "operator",
        "file_client": "local",
        "file_roots": {"base": [str(deployment.root / "salt")]},
        "pillar_roots": {
            "base": [str(deployment.pillar_dir), str(deployment.root / "pillar" / "base")]
        },
        "module_dirs": [
            str(deployment.root / "salt")
        ],  # `state.apply NAME` syncs no modules by itself
        "hash_type": "sha256",
    }
    cloud = {
        "private_key": str(deployment.ssh_key),
        "ssh_interface": "private_ips" if deployment.is_local else "public_ips",
        "file_map": {str(deployment.salt_lock): LOCK_ON_MACHINE},
        "enable_cloud_grains": False,
        # Only salt-1 is launched from here, and it is its own master.
        "minion": {"master": "127.0.0.1"},
    }
    for name, content in {
        "master": common,
        "minion": common | minion,
        "cloud": common | cloud,
    }.items():
        write_private(folder / name, yaml.safe_dump(content, sort_keys=False))
    for name in ("cloud.providers.d", "cloud.profiles.d", "cloud.maps.d", "cloud.deploy.d"):
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(deployment.root / name)
    return folder


def program(name: str) -> str:
    """Return the path of a Salt program in the environment this runs in."""
    return str(Path(sys.executable).parent / name)


# -- results ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StateRun:
    """What applying states to one machine came to.

    Attributes:
        minion: the machine.
        total: states run.
        changed: ids of the states that changed something, or would with `test=True`.
        failed: id and comment of the states that failed.
    """

    minion: str
    total: int
    changed: tuple[str, ...]
    failed: tuple[str, ...]


def read_states(minion: str, result: Any) -> StateRun:
    """Judge one minion's answer to a state run.

    Args:
        minion: whose answer.
        result: a mapping of state results; anything else (a list of errors, a text, False) is a failure.
    """
    if not isinstance(result, Mapping) or not result:
        reasons = result if isinstance(result, list) and result else [result or "no answer"]
        return StateRun(minion, 0, (), tuple(str(reason) for reason in reasons))
    changed: list[str] = []
    failed: list[str] = []
    for key, state in result.items():
        if not isinstance(state, Mapping) or "result" not in state:
            failed.append(f"{key}: {state}")
            continue
        name = str(state.get("__id__", key))
        if state["result"] is False:
            failed.append(
                f"{name}: {textwrap.shorten(str(state.get('comment', '')), COMMENT_LENGTH, placeholder=' …')}"
            )
        elif state["result"] is None or state.get("changes"):
            changed.append(name)
    return StateRun(minion, len(result), tuple(changed), tuple(failed))


def parse_documents(output: str) -> dict[str, Any]:
    """Merge the JSON objects that `salt --out=json` prints one after another, minion by minion."""
    decoder = json.JSONDecoder()
    merged: dict[str, Any] = {}
    position = output.find("{")
    while position >= 0:
        try:
            document, end = decoder.raw_decode(output, position)
        except json.JSONDecodeError:
            position = output.find("{", position + 1)
            continue
        merged.update(document)
        position = output.find("{", end)
    return merged


def raise_on_failure(runs: Iterable[StateRun], log: Log) -> None:
    """Raise ConvergeError for the first failed state, saying how many there are."""
    failures = [(one.minion, text) for one in runs for text in one.failed]
    if failures:
        minion, text = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise ConvergeError(
            f"{minion}: {text}{more}.",
            "Mend the cause and run the same command again: it goes on from here.",
            log.path,
        )


# -- from this host --------------------------------------------------------------------------------


def apply_locally(deployment: Deployment, log: Log, states: str, *, test: bool = False) -> StateRun:
    """Apply states masterless on this host, as minion `operator`, and return what they changed.

    Raises:
        ConvergeError: a state failed.
    """
    folder = operator_configuration(deployment)
    output = run(
        [program("salt-call"), "--local", "--config-dir", str(folder), "--out=json", "state.apply", states,
         f"test={test}"],
        log=log,
        what=f"applying {states} from this host",
        accept=(0, 1, 2),
    )  # fmt: skip
    result = read_states("operator", parse_documents(output).get("local"))
    raise_on_failure([result], log)
    return result


class Operator:
    """This host, from which the one machine is launched that no master can launch: the master."""

    def __init__(self, deployment: Deployment, shell: Shell, log: Log) -> None:
        self._deployment = deployment
        self._shell = shell
        self._log = log

    def salt_cloud(self, words: Sequence[str], machines: int) -> str:
        """Run salt-cloud here, for so many machines, and return its JSON; its exit code says little."""
        folder = operator_configuration(self._deployment)
        command = [program("salt-cloud"), "--config-dir", str(folder), *words, *SALT_CLOUD_OPTIONS]
        return run(command, log=self._log, what="salt-cloud", timeout=machines * MACHINE_SECONDS)

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        """Return the names of the machines whose minion runs: before there is a master, it can answer nobody."""
        return {name for name, machine in machines.items() if self._has_minion(machine, deadline)}

    def _has_minion(self, machine: Machine, deadline: float) -> bool:
        while True:
            with contextlib.suppress(StackError):  # its sshd may still be starting
                self._shell.trust(machine)
                if is_active(self._shell, machine, "salt-minion"):
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(1)

    def reach(self, machine: Machine) -> None:
        """Log in to a machine; raise StackError."""
        self._shell.trust(machine)
        self._shell.run(machine, ["true"], what=f"SSH to {machine.name}")


# -- on the master ---------------------------------------------------------------------------------


class Master:
    """The Salt master's own commands."""

    def __init__(self, shell: Shell, machine: Machine, log: Log) -> None:
        self._shell = shell
        self._log = log
        self.machine = machine

    def command(
        self,
        args: Sequence[str],
        *,
        what: str,
        accept: Sequence[int] = (0,),
        timeout: float = 1800,
    ) -> str:
        """Run a command on the master and return its output; see `stackctl.run.run`."""
        return self._shell.run(self.machine, args, what=what, accept=accept, timeout=timeout)

    def salt_cloud(self, words: Sequence[str], machines: int) -> str:
        """Run salt-cloud on the master, for so many machines, and return its JSON; its exit code says little.

        Only one at a time: that of a run which was interrupted here goes on there.

        Raises:
            LaunchError: another one still runs.
        """
        lock = ["flock", f"--timeout={LOCK_SECONDS}", f"--conflict-exit-code={LOCKED}", LOCK]
        timeout = LOCK_SECONDS + machines * MACHINE_SECONDS
        try:
            return self.command(
                [*lock, "salt-cloud", *words, *SALT_CLOUD_OPTIONS],
                what="salt-cloud",
                timeout=timeout,
            )
        except CommandError as error:
            if error.code != LOCKED:
                raise
        name = self.machine.name
        raise LaunchError(
            f"Another salt-cloud still runs on {name}, perhaps of a run that was interrupted: wait until it has ended"
            f" (stackctl exec {name} -- pgrep -a salt-cloud).",
            log=self._log.path,
        )

    def reach(self, machine: Machine) -> None:
        """Log in to a machine by way of the master; raise StackError."""
        self._shell.trust(machine)
        self._shell.run(machine, ["true"], master=self.machine, what=f"SSH to {machine.name}")

    def answering(self, names: Iterable[str], deadline: float) -> set[str]:
        """Return which of the minions answer a ping before the deadline (`time.monotonic()`).

        Raises:
            LaunchError: the master was to ask its own minion too, and that is silent: so would be all others.
        """
        wanted = set(names)
        found: set[str] = set()
        while wanted - found:
            output = self.command(
                [
                    "salt",
                    "--list",
                    ",".join(sorted(wanted - found)),
                    "--out=json",
                    "--static",
                    "--timeout=5",
                    "test.ping",
                ],
                what="asking the minions",
                accept=(0, 1, 2),
            )
            found |= {
                name
                for name, answer in parse_documents(output).items()
                if answer is True and name in wanted
            }
            if time.monotonic() > deadline:
                break
        if self.machine.name in wanted - found:
            raise LaunchError(
                f"{self.machine.name} does not hear its own minion, so the silence of others says nothing.",
                f"See: stackctl exec {self.machine.name} -- journalctl -u salt-master -u salt-minion -n 50",
                self._log.path,
            )
        return found

    def sync(self) -> None:
        """Bring the tree's own modules and states to every machine, as the orchestration does first."""
        for kind in ("modules", "states"):
            self.command(
                ["salt", "*", "--out=json", "--static", f"saltutil.sync_{kind}"],
                what=f"syncing {kind}",
            )

    def predict(self) -> list[StateRun]:
        """Return what the orchestration would change on each machine; changes nothing.

        One machine is asked for `airflow.migrate` in place of its highstate, which that holds: the database with its
        first user belongs to no machine's.

        Raises:
            ConvergeError: a state failed or a machine gave no answer.
        """
        questions = (
            ["-C", f"not {MIGRATES}", "state.highstate"],
            [MIGRATES, "state.apply", "airflow.migrate"],
        )
        with ThreadPoolExecutor() as pool:
            return [one for runs in pool.map(self._predict, questions) for one in runs]

    def _predict(self, words: Sequence[str]) -> list[StateRun]:
        output = self.command(
            ["salt", "--out=json", "--static", "--timeout=60", *words, "test=True"],
            what="predicting the states",
            accept=(0, 1, 2),
        )
        runs = [
            read_states(name, result) for name, result in sorted(parse_documents(output).items())
        ]
        if not runs:
            raise ConvergeError(
                "No machine predicted its states.", "See: stackctl status", self._log.path
            )
        raise_on_failure(runs, self._log)
        return runs

    def orchestrate(self, name: str, report: Callable[[str], None]) -> list[StateRun]:
        """Run an orchestration and return the state runs it caused, in order.

        Raises:
            ConvergeError: a step or a state in it failed.
        """
        report(name)
        output = self.command(
            ["salt-run", "--out=json", "state.orchestrate", name],
            what=f"orchestration {name}",
            accept=(0, 1, 2),
        )
        data = parse_documents(output).get("data")
        runs = read_orchestration(
            next(iter(data.values()), None) if isinstance(data, Mapping) else data
        )
        raise_on_failure(runs, self._log)
        return runs


def read_orchestration(steps: Any) -> list[StateRun]:
    """Judge the result of `state.orchestrate`: the steps' own failures, and those of every state on every machine."""
    if not isinstance(steps, Mapping):
        return [read_states("master", steps)]
    runs: list[StateRun] = []
    for step in sorted(steps.values(), key=lambda one: one.get("__run_num__", 0)):
        changes = step.get("changes") or {}
        # Only steps that applied states say so; what a function returned is no state.
        per_minion = changes["ret"] if changes.get("out") == "highstate" else {}
        inner = [read_states(minion, result) for minion, result in per_minion.items() if result]
        runs += inner
        if step.get("result") is False and not any(one.failed for one in inner):
            runs.append(
                StateRun(
                    str(step.get("__id__")), 0, (), (" ".join(str(step.get("comment")).split()),)
                )
            )
    return runs
