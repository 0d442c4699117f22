"""Salt's commands: masterless and salt-cloud on this host, `salt` and `salt-run` on the master."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from saltext.ec2.options import TABLE
from stackctl.deployment import Deployment
from stackctl.errors import (
    BusyError,
    CommandError,
    ConvergeError,
    LaunchError,
    StackError,
    UnreachableError,
)
from stackctl.files import private_directory, write_private
from stackctl.locks import Jobs
from stackctl.machines import Machine
from stackctl.run import Log, run
from stackctl.ssh import Shell, script_command
from stackctl.states import (
    Migration,
    StateRun,
    parse_documents,
    raise_on_failure,
    read_orchestration,
    read_states,
)
from stackctl.tree import HOME

SALT_CLOUD_OPTIONS = ("--assume-yes", "--out=json", "--log-level=warning")
# For each machine: EC2, then the driver's waits for sshd and for the deploy script.
MACHINE_SECONDS = 600 + sum(
    TABLE[name].default for name in ("ssh_connect_timeout", "deploy_timeout")
)
PING_SECONDS = 10  # that a minion has to answer one ping: without CPU credits it needs some 3
STATES_SECONDS = 900  # that a run waits for states that a machine still applies
FILES_ON_MACHINE = "/opt/salt-deploy"  # cloud.deploy.d/salt-minion.sh reads them there
PKI = "/etc/salt/pki"  # on the machines
MASTER_PKI = f"{PKI}/master"
SALT = "/opt/salt/bin"
COUNTS = "/etc/salt/cloud.conf.d/machines.conf"  # on the master; salt/master/init.sls makes it
SCALE = "/usr/local/lib/scale_machines.py"  # on the master
ANY_RESULT = (0, 1, 2)  # exit codes of Salt's commands: failures are read from their output


def file_map(deployment: Deployment) -> dict[str, str]:
    """Return the files that the deploy script needs: path on this host -> path on the machine.

    salt/master/files/cloud.j2 has the same for the files on the master, and the proxy there.
    """
    minion = deployment.root / "salt" / "minion" / "files"
    paths = {
        "requirements.txt": deployment.salt_lock,
        "salt-minion.service": minion / "salt-minion.service",
        "stack.conf": minion / "stack.conf",
    }
    return {str(path): f"{FILES_ON_MACHINE}/{name}" for name, path in paths.items()}


def operator_configuration(deployment: Deployment) -> Path:
    """Write this host's Salt configuration for the deployment, and return its folder.

    The provider, profiles, map and deploy script in it are links to the checkout's own.
    """
    folder = private_directory(deployment.state_dir / "salt")
    private_directory(folder / "run")
    common = {
        "pki_dir": str(folder / "pki"),
        "cachedir": str(folder / "cache"),
        "sock_dir": str(folder / "run"),
        "log_file": str(folder / "salt.log"),
    }
    base_pillar = deployment.root / "pillar" / "base"
    minion = {
        "id": "operator",
        "file_client": "local",
        "file_roots": {"base": [str(deployment.root / "salt")]},
        "pillar_roots": {"base": [str(deployment.pillar_dir), str(base_pillar)]},
        # `state.apply NAME` does not sync modules.
        "module_dirs": [str(deployment.root / "salt")],
        "hash_type": "sha256",
    }
    cloud = {
        "private_key": str(deployment.ssh_key),
        "ssh_interface": "private_ips" if deployment.is_local else "public_ips",
        "file_map": file_map(deployment),
        "enable_cloud_grains": False,
        "owned_by": deployment.owner(),
        # Only the master is launched from here, and it is its own master.
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
    """Return the path of a Salt program in the environment of this process."""
    return str(Path(sys.executable).parent / name)


# -- on this host ----------------------------------------------------------------------------------


def apply_locally(deployment: Deployment, log: Log, states: str, *, test: bool = False) -> StateRun:
    """Apply states masterless on this host, as minion `operator`, and return the result.

    Raises:
        ConvergeError: a state failed.
    """
    folder = operator_configuration(deployment)
    command = [program("salt-call"), "--local", "--config-dir", str(folder), "--out=json"]
    output = run(
        [*command, "state.apply", states, f"test={test}"],
        log=log,
        what=f"applying {states} from this host",
        accept=ANY_RESULT,
    )
    result = read_states("operator", parse_documents(output).get("local"))
    raise_on_failure([result], log, deployment.region())
    return result


class Operator:
    """This host, from which the Salt master is launched: no master exists yet that could do it."""

    def __init__(self, deployment: Deployment, shell: Shell, log: Log) -> None:
        self._deployment = deployment
        self._shell = shell
        self._log = log

    @property
    def deployment(self) -> Deployment:
        """The deployment whose Salt master it launches."""
        return self._deployment

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:
        """Run salt-cloud here, for so many machines, and return its JSON."""
        folder = operator_configuration(self._deployment)
        command = [program("salt-cloud"), "--config-dir", str(folder), *args, *SALT_CLOUD_OPTIONS]
        return run(command, log=self._log, what="salt-cloud", timeout=machines * MACHINE_SECONDS)

    def answering(self, machines: Mapping[str, Machine], deadline: float) -> set[str]:
        """Return the machines whose minion answers its own master.

        Where no master runs yet, a minion that runs is enough: nobody can ask it.
        """
        return {name for name, machine in machines.items() if self._has_minion(machine, deadline)}

    def _has_minion(self, machine: Machine, deadline: float) -> bool:
        while True:
            with contextlib.suppress(StackError):  # its sshd may still be starting
                self._shell.trust(machine)
                if self._answers(machine):
                    return True
            if time.monotonic() > deadline:
                return False
            time.sleep(1)

    def _answers(self, machine: Machine) -> bool:
        what = f"asking the minion of {machine.name}"
        state = self._shell.script(machine, ["own-minion", PKI, machine.name], what=what).strip()
        if state != "ask":
            return state == "unasked"
        return ask_minions(self._shell, machine, ["list", machine.name, "test.ping"], 5) == {
            machine.name: True
        }

    def reach(self, machine: Machine) -> None:
        """Log in to a machine; raise StackError."""
        self._shell.trust(machine)
        self._shell.run(machine, ["true"], what=f"SSH to {machine.name}")


# -- on the master ---------------------------------------------------------------------------------


def reason(answer: str) -> str:
    """Return the last line of what Salt says about a function that failed."""
    return answer.strip().splitlines()[-1].removeprefix("ERROR: ").rstrip(".")


def ask_minions(
    shell: Shell,
    master: Machine,
    question: Sequence[str],
    seconds: int,
    *,
    silent: int | None = None,
) -> dict[str, object]:
    """Return minion -> answer of those that answer in time.

    Args:
        shell: a shell on the master.
        master: the Salt master.
        question: type of the target, target, function, and its arguments.
        seconds: after which no answer is awaited.
        silent: seconds after which a minion is given up that does not answer a ping either.

    Raises:
        UnreachableError: SSH does not reach the master.
        CommandError: the Salt master does not answer.
    """
    args = ["ask-minions", f"{SALT}/python", str(seconds), str(silent or seconds), *question]
    return parse_documents(shell.script(master, args, what="asking the minions"))


class Master:
    """The Salt master's own commands."""

    def __init__(self, shell: Shell, machine: Machine, log: Log, jobs: Jobs | None = None) -> None:
        """Keep the context.

        Args:
            shell: a shell on the machines.
            machine: the master.
            log: the log that an error names.
            jobs: runs what changes machines; None: this object only asks.
        """
        self._shell = shell
        self._log = log
        self._jobs = jobs
        self.machine = machine

    @property
    def deployment(self) -> Deployment:
        """The deployment whose machines it commands."""
        return self._shell.deployment

    def _job(self, args: Sequence[str], *, task: str, **options: Any) -> str:
        """Run a command that changes machines; see `stackctl.locks.Jobs.run`."""
        if self._jobs is None:
            raise TypeError(f"{task} needs the lock of the jobs")
        return self._jobs.run(self.machine, args, task=task, **options)

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

    def ask(self, args: Sequence[str], *, what: str, timeout: float = 1800) -> dict[str, object]:
        """Run `salt` with these arguments and return minion -> result."""
        command = ["salt", "--out=json", "--static", *args]
        return parse_documents(self.command(command, what=what, accept=ANY_RESULT, timeout=timeout))

    def salt_cloud(self, args: Sequence[str], machines: int) -> str:
        """Run salt-cloud on the master, for so many machines, and return its JSON."""
        command = ["salt-cloud", *args, *SALT_CLOUD_OPTIONS]
        return self._job(command, task="salt-cloud", timeout=machines * MACHINE_SECONDS)

    def reach(self, machine: Machine) -> None:
        """Log in to a machine by way of the master; raise StackError."""
        self._shell.trust(machine)
        self._shell.run(machine, ["true"], master=self.machine, what=f"SSH to {machine.name}")

    def answering(self, names: Iterable[str], deadline: float) -> set[str]:
        """Return the minions that answer a ping before the deadline (`time.monotonic()`).

        Raises:
            LaunchError: the master's own minion is among them and does not answer; then no minion
                can be asked.
        """
        wanted = set(names)
        found: set[str] = set()
        while wanted - found:
            silent = ",".join(sorted(wanted - found))
            answers = self._ping(silent)
            found |= {name for name, answer in answers.items() if answer is True and name in wanted}
            if time.monotonic() > deadline:
                break
        name = self.machine.name
        if name in wanted - found:
            raise LaunchError(
                f"{name} gets no answer from its own minion, so it cannot ask the others.",
                "stackctl up repairs that minion."
                f" See: stackctl exec {name} -- journalctl -u salt-master -u salt-minion -n 50",
                self._log.path,
            )
        return found

    def _ping(self, names: str) -> dict[str, object]:
        """Return minion -> True for those of a list that answer soon."""
        question = ["list", names, "test.ping"]
        try:
            return ask_minions(self._shell, self.machine, question, PING_SECONDS)
        except UnreachableError:
            raise
        except CommandError:  # the Salt master itself does not answer, or not yet
            return {}

    def sync(self) -> None:
        """Bring the tree's modules, states, pillar and addresses to every machine.

        The orchestration does the same first.
        """
        for target, *function in (
            ("*", "saltutil.sync_modules"),
            ("*", "saltutil.sync_states"),
            (self.machine.name, "machine_addresses.record"),
            ("*", "saltutil.refresh_pillar", "wait=True", "timeout=60"),
        ):
            command = ["salt", target, "--out=json", "--static", *function]
            self.command(command, what=function[0])

    def accepted(self) -> list[str]:
        """Return the minions whose keys the master has accepted."""
        command = ["salt-key", "--out=json", "--list=accepted"]
        found = parse_documents(self.command(command, what="listing the keys"))
        return [str(name) for name in found.get("minions", [])]

    def recorded_counts(self) -> dict[str, int]:
        """Return role -> number of machines, as salt-cloud on the master reads it."""
        text = self.command(["cat", COUNTS], what="reading the numbers of machines", accept=(0, 1))
        found = (yaml.safe_load(text) or {}).get("machine_counts") or {}
        return {str(role): int(number) for role, number in found.items()}

    def record_counts(self, counts: Mapping[str, int]) -> None:
        """Write role -> number of machines for salt-cloud on the master."""
        self._job(
            script_command(["write-counts", COUNTS]),
            task="writing the numbers of machines",
            stdin=json.dumps({"machine_counts": dict(counts)}) + "\n",
        )

    def retire(
        self, names: Sequence[str], report: Callable[[str], None], *, with_data: bool = False
    ) -> None:
        """Have machines drained and destroyed, and forget their keys; see scale_machines.py.

        Args:
            names: the machines.
            report: receives a line of progress.
            with_data: also those that are protected.
        """
        report(f"draining {', '.join(names)}")
        options = ["--with-data"] if with_data else []
        command = [f"{SALT}/python", SCALE, "retire", *options, *names]
        self._job(command, task=f"retire {' '.join(names)}")

    def note_converged(self) -> None:
        """Note that the tree and the pillar which the master serves are rolled out."""
        args = ["note-converged", HOME, self.deployment.name]
        self._shell.script(self.machine, args, what="noting the revision")

    def require_quiet(self, note: Callable[[str], None], *, wait: bool) -> None:
        """Raise BusyError while a machine applies states, as when a release is rolled out.

        Args:
            note: told what this waits for.
            wait: until they are applied; see `wait_for_states`.
        """
        if wait:
            self.wait_for_states(note)
        elif what := self._first_run()[0]:
            raise BusyError(f"{what} still runs.", "Wait for it, or let this wait for it: --wait")

    def _first_run(self) -> tuple[str, str, str]:
        """Return a run of states in words, its machine and its job; all empty: there is none."""
        question = ["glob", "*", "saltutil.is_running", "state.*"]
        answers = ask_minions(self._shell, self.machine, question, 5)
        for name, jobs in sorted(answers.items()):
            for job in jobs if isinstance(jobs, list) else ():
                jid = str(job.get("jid"))
                return f"{job.get('fun')} on {name} (job {jid})", name, jid
        return "", "", ""

    def wait_for_states(self, note: Callable[[str], None]) -> None:
        """Wait until no machine applies states: two runs at once on a machine are refused.

        An orchestration whose salt-run was killed leaves such a run behind.

        Args:
            note: told what this waits for.

        Raises:
            ConvergeError: a run has not ended after `STATES_SECONDS`.
        """
        deadline = time.monotonic() + STATES_SECONDS
        while True:
            what, name, jid = self._first_run()
            if not what:
                return
            if time.monotonic() > deadline:
                raise ConvergeError(
                    f"{what} still runs.",
                    f"Wait for it, or end it: stackctl salt -- {name} saltutil.kill_job {jid}",
                    self._log.path,
                )
            note(f"waiting for {what}, which still runs")
            time.sleep(2)

    def predict(self, migration: Migration, machines: Iterable[str]) -> list[StateRun]:
        """Return what the orchestration would change on each machine; changes nothing.

        One machine is asked for the migration's states in place of its highstate: they contain it,
        and the database belongs to no machine's highstate.

        Args:
            migration: the machine, and the states.
            machines: the machines of the map; others that the master knows are asked too.

        Raises:
            ConvergeError: a state failed or a machine gave no answer.
        """
        asked = migration.machine
        questions = (
            (["-C", f"not {asked}", "state.highstate"], set(machines) - {asked}),
            ([asked, "state.apply", migration.states], {asked}),
        )
        with ThreadPoolExecutor() as pool:
            return [run for runs in pool.map(self._predict, questions) for run in runs]

    def _predict(self, question: tuple[list[str], set[str]]) -> list[StateRun]:
        args, machines = question
        answers = self.ask(["--timeout=60", *args, "test=True"], what="predicting the states")
        # With --static, Salt leaves a machine that does not answer out of its output.
        runs = [read_states(name, answers.get(name)) for name in sorted({*answers, *machines})]
        raise_on_failure(runs, self._log)
        return runs

    def orchestrate(
        self, name: str, report: Callable[[str], None], pillar: Mapping[str, object] | None = None
    ) -> list[StateRun]:
        """Run an orchestration and return the state runs in it, in order.

        Args:
            name: of its SLS file.
            report: receives what is done.
            pillar: what it is told besides the master's pillar.

        Raises:
            ConvergeError: a step or a state in it failed.
        """
        report(name)
        told = [f"pillar={json.dumps(pillar)}"] if pillar else []
        output = self._job(
            ["salt-run", "--out=json", "state.orchestrate", name, *told],
            task=f"orchestration {name}",
            accept=ANY_RESULT,
        )
        data = parse_documents(output).get("data")
        runs = read_orchestration(
            next(iter(data.values()), None) if isinstance(data, Mapping) else data
        )
        raise_on_failure(runs, self._log)
        return runs
