#!/opt/salt/bin/python
"""Change the number of machines of a role on this Salt master.

`retire NAME…` takes machines away: the load balancers stop sending them requests, then EC2 destroys
them, and their keys go. `stackctl scale` and `stackctl up` call it. EC2 refuses to destroy a
machine that is protected; `retire --with-data NAME…` lifts that before.

`decide` looks at the load once, and adds a machine or takes one away, within the bounds of the
deployment's settings. A timer calls it. It runs the same commands as `stackctl`: salt-cloud with
the map, and the orchestration.

Whoever calls `retire` holds the locks on this master (packages/stackctl/src/stackctl/locks.py);
`decide` takes them for a change, and leaves the number as it is while another run has one.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

CONFIG = "/etc/salt/scale_machines.json"
SALT_CLOUD = ("salt-cloud", "--assume-yes", "--out=json", "--log-level=warning")
WITH_DATA = "--with-data"
UNFINISHED = ": not finished"
KEYS = ("minions", "minions_pre", "minions_denied", "minions_rejected")


class ScaleError(Exception):
    """A command failed, or a machine is not what it should be."""


@dataclass(frozen=True)
class Config:
    """What the master's state has written for this program.

    Attributes:
        role: whose number may change.
        minimum: how many machines it has at least.
        maximum: how many it has at most.
        edge: the role of the machines with the queue.
        counts: the file with the present number, which the map reads.
        state: the file in which this program remembers what it saw and did.
        pki: the folder of the keys.
        region: of EC2.
        project: the value of the machines' tag `project`.
        deployment: the value of their tag `deployment`.
        tree: the folder of the trees.
        locks: the files of stackctl's locks: a run's, and the jobs'.
        rules: see `decision`.
    """

    role: str
    minimum: int
    maximum: int
    edge: str
    counts: str
    state: str
    pki: str
    region: str
    project: str
    deployment: str
    tree: str
    locks: Sequence[str]
    rules: Mapping[str, float]


@dataclass(frozen=True)
class Load:
    """The load at one moment.

    Attributes:
        machines: how many the role has.
        queued: requests that wait at the load balancers.
        queue_ms: how long they wait on average.
        busy: the share of their time in which the machines' CPUs were busy since the last look, or
            waited for the hypervisor: an instance without CPU credits; None: this is the first one.
    """

    machines: int
    queued: int
    queue_ms: int
    busy: float | None

    def __str__(self) -> str:
        """Return the numbers in words."""
        busy = "unknown" if self.busy is None else f"{100 * self.busy:.0f} %"
        return (
            f"{self.machines} machines, {self.queued} queued, {self.queue_ms} ms in the queue,"
            f" CPU {busy}"
        )


@dataclass(frozen=True)
class State:
    """What this program remembers.

    Attributes:
        hot: looks in a row that asked for a machine more.
        cold: looks in a row that would do with one less.
        changed: the time of the last change, in seconds since 1970.
        last: what it was, in words.
        cpu: machine -> (busy, total) time of its CPUs so far.
    """

    hot: int = 0
    cold: int = 0
    changed: float = 0
    last: str = ""
    cpu: Mapping[str, Sequence[float]] = field(default_factory=dict)


# -- what to do ------------------------------------------------------------------------------------


def decision(config: Config, load: Load, state: State, now: float) -> tuple[int, State, str]:
    """Return the number of machines to have, what to remember, and why.

    `config.rules`: `queued` requests or `queue_milliseconds` or a share of `busy` is too much;
    below a share of `idle`, counted for one machine less and with an empty queue, there are too
    many. Too much has to be seen `hot_looks` times in a row, too little `cold_looks` times, and
    `cool_down_seconds` have to pass between two changes.
    """
    rules, n, busy = config.rules, load.machines, load.busy
    hot = (
        load.queued >= rules["queued"]
        or load.queue_ms >= rules["queue_milliseconds"]
        or (busy is not None and busy >= rules["busy"])
    )
    cold = not load.queued and busy is not None and n > 1 and busy * n / (n - 1) < rules["idle"]
    seen = replace(state, hot=state.hot + 1 if hot else 0, cold=state.cold + 1 if cold else 0)
    step, why = 0, "enough"
    if seen.hot >= rules["hot_looks"]:
        step, why = 1, "too few"
    elif seen.cold >= rules["cold_looks"]:
        step, why = -1, "too many"
    wanted = min(max(n + step, config.minimum), config.maximum)
    wait = state.changed + rules["cool_down_seconds"] - now
    if wanted == n:
        return n, seen, f"{why}, but that is the limit" if step else why
    if wait > 0 and config.minimum <= n <= config.maximum:
        return n, seen, f"{why}, but {wait:.0f} s are left since the last change"
    return wanted, replace(seen, hot=0, cold=0), why


def busy_share(
    before: Mapping[str, Sequence[float]], after: Mapping[str, Sequence[float]]
) -> float | None:
    """Return the mean share of busy time of the machines in both; None: there is none."""
    shares = [
        (busy - before[name][0]) / (total - before[name][1])
        for name, (busy, total) in after.items()
        if name in before and total > before[name][1] and busy >= before[name][0]
    ]
    return sum(shares) / len(shares) if shares else None


def cpu_times(stat: str) -> tuple[float, float]:
    """Return the busy and the whole time of all CPUs, from the text of /proc/stat (proc(5))."""
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.split()[1:9])
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


# -- doing it --------------------------------------------------------------------------------------


def retire(config: Config, names: Sequence[str], *, with_data: bool = False) -> None:
    """Take machines away; those that are gone already only leave their keys.

    Args:
        config: of this program.
        names: the machines.
        with_data: also those that are protected, because their disks may hold data.

    Raises:
        ScaleError: a load balancer does not answer, or EC2 does not destroy a machine.
    """
    run("salt-run", "state.orchestrate", "orch.drain", f"pillar={json.dumps({'drain': [*names]})}")
    if there := sorted({*names} & instances(config)):
        if with_data:
            run(*SALT_CLOUD, "--action", "disable_term_protect", *there)
        run(*SALT_CLOUD, "--destroy", *there)
        if left := sorted({*there} & instances(config)):
            raise ScaleError(f"salt-cloud has not destroyed {', '.join(left)}")
    forget(config, names)


def forget(config: Config, names: Sequence[str]) -> None:
    """Delete the keys of minions, and what the caches of the master hold of them."""
    import salt.cache  # noqa: PLC0415 - a second of CPU, which a look at the load does not need
    import salt.config  # noqa: PLC0415

    cache = salt.cache.factory(salt.config.master_config("/etc/salt/master"))
    for name in names:
        for folder in KEYS:
            Path(config.pki, folder, name).unlink(missing_ok=True)
        for bank in ("grains", "pillar"):
            cache.flush(bank, name)


def instances(config: Config) -> set[str]:
    """Return the names of the deployment's machines in EC2 that are not terminated."""
    import boto3  # noqa: PLC0415 - half a second of CPU, which a look at the load does not need

    client = boto3.client("ec2", region_name=config.region)
    filters = [
        {"Name": "tag:project", "Values": [config.project]},
        {"Name": "tag:deployment", "Values": [config.deployment]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    pages = client.get_paginator("describe_instances").paginate(Filters=filters)
    return {
        tag["Value"]
        for page in pages
        for group in page["Reservations"]
        for instance in group["Instances"]
        for tag in instance.get("Tags", [])
        if tag["Key"] == "Name"
    }


def accepted(config: Config) -> list[str]:
    """Return the machines whose keys this master has accepted, by name."""
    return sorted(path.name for path in Path(config.pki, "minions").iterdir())


def machines_of(config: Config, role: str) -> list[str]:
    """Return those of a role, by number."""
    numbered = [
        (int(number), name)
        for name in accepted(config)
        for before, _, number in [name.rpartition("-")]
        if before == role and number.isascii() and number.isdigit() and not number.startswith("0")
    ]
    return [name for _, name in sorted(numbered)]


def read_count(config: Config) -> int:
    """Return the number of machines that the map has."""
    return int(json.loads(Path(config.counts).read_text())["machine_counts"][config.role])


def write_count(config: Config, number: int) -> None:
    """Write the number of machines that the map has."""
    path = Path(config.counts)
    counts = json.loads(path.read_text())
    counts["machine_counts"][config.role] = number
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(counts) + "\n")
    scratch.replace(path)


def run(*command: str) -> str:
    """Run a command and return its output.

    Raises:
        ScaleError: it failed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, close_fds=False)
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr)
        reason = _reason(done.stdout + done.stderr)
        raise ScaleError(f"{' '.join(command[:3])} failed: {reason}")
    return done.stdout


def _reason(output: str) -> str:
    """Return why a command failed: what Salt says of a state, or else its last line.

    Salt's programs end with warnings about what they have not closed, whatever happened.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("unclosed ")]
    comments = [
        line.removeprefix("Comment: ")
        for before, line in pairwise(["", *lines])
        if line.startswith("Comment: ") and before != "Result: True"
    ]
    return (comments or lines[-1:] or ["no output"])[0]


def ask(names: Sequence[str], function: str, *arguments: str) -> dict[str, Any]:
    """Return machine -> answer, without those that do not answer or fail."""
    command = ("salt", "--out=json", "--static", "--timeout=10", "--list", ",".join(names))
    done = subprocess.run(
        [*command, function, *arguments], capture_output=True, text=True, check=False
    )
    try:
        answers = json.loads(done.stdout or "{}")
    except ValueError:
        return {}
    return {name: answer for name, answer in answers.items() if answer not in (False, "")}


def look(config: Config, state: State) -> tuple[Load, State]:
    """Return the load now.

    Raises:
        ScaleError: no load balancer answers.
    """
    machines = machines_of(config, config.role)
    edge = ask(machines_of(config, config.edge), "edge.load")
    loads = [answer for answer in edge.values() if isinstance(answer, Mapping)]
    if not loads:
        raise ScaleError("no load balancer answers")
    stats = ask(machines, "file.read", "/proc/stat")
    cpu = {name: cpu_times(text) for name, text in stats.items() if str(text).startswith("cpu ")}
    load = Load(
        read_count(config),
        sum(int(each["queued"]) for each in loads),
        max(int(each["queue_ms"]) for each in loads),
        busy_share(state.cpu, cpu),
    )
    return load, replace(state, cpu=cpu)


def change(config: Config, wanted: int) -> None:
    """Have so many machines, and let the orchestration bring that to all others.

    Raises:
        ScaleError: see `retire`; or a machine was not launched.
    """
    write_count(config, wanted)
    names = {f"{config.role}-{number}" for number in range(1, wanted + 1)}
    known = set(machines_of(config, config.role))
    told: list[str] = []
    if missing := sorted(names - known):
        # Not by the map: it would also launch what an operator has just taken away.
        run(*SALT_CLOUD, "--profile", config.role, "--parallel", *missing)
        known = set(machines_of(config, config.role))
        if left := sorted(names - known):
            raise ScaleError(f"salt-cloud has not launched {', '.join(left)}")
        told = [f"pillar={json.dumps({'new': missing})}"]
    if surplus := sorted(known - names):
        retire(config, surplus)
        told = []
    run("salt-run", "state.orchestrate", "orch.deploy", *told)


def decide(config: Config) -> None:
    """Look at the load once, and change the number of machines if that has to be.

    A change that was interrupted is finished once the cool-down has passed.

    Raises:
        ScaleError: see `look` and `change`; or a tree waits for its roll-out.
    """
    path = Path(config.state)
    state = State(**json.loads(path.read_text())) if path.exists() else State()
    load, state = look(config, state)
    now = time.time()
    wanted, state, why = decision(config, load, state, now)
    cooled = state.changed + config.rules["cool_down_seconds"] <= now
    unfinished = state.last.endswith(UNFINISHED) and cooled
    line = f"{load}; bounds {config.minimum}..{config.maximum}: {why}"
    if wanted == load.machines and not unfinished:
        _remember(path, state)
        print(line)
        return
    what = f"{config.role} {load.machines} -> {wanted}"
    print(f"{line}: {what}", flush=True)
    with hold(config, "scale", what) as held:
        # What was looked at may be over since.
        if not held or read_count(config) != load.machines:
            print("another run changes the deployment")
            return
        require_rolled_out(config)
        _change(config, wanted, state, f"{what} at {_time(now)} ({load})")
    print(f"done: {what}")


def _change(config: Config, wanted: int, state: State, last: str) -> None:
    # Before the change: one that fails is not tried again before the cool-down has passed.
    path = Path(config.state)
    _remember(path, replace(state, changed=time.time(), last=last + UNFINISHED))
    change(config, wanted)
    _remember(path, replace(state, changed=time.time(), last=last, cpu={}))


def _time(now: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))


def require_rolled_out(config: Config) -> None:
    """Raise ScaleError when the orchestration would roll out a tree that `up` has not finished."""
    served, done = Path(config.tree, "current", "REVISION"), Path(config.tree, "converged")
    if done.exists() and done.read_text() != served.read_text():
        raise ScaleError("the tree on this master is not rolled out yet: stackctl up")


@contextmanager
def hold(config: Config, verb: str, task: str) -> Iterator[bool]:
    """Take the locks, say in their files who has them, and yield whether they were free.

    The programs that run meanwhile have them too, as long as they run.
    """
    who = {"who": "the Salt master", "pid": os.getpid(), "verb": verb, "task": task}
    with ExitStack() as stack:
        files = [stack.enter_context(Path(path).open("a+")) for path in config.locks]
        try:
            for file in files:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        for file in files:
            os.set_inheritable(file.fileno(), True)
            file.truncate(0)
            file.write(json.dumps({**who, "since": _time(time.time())}))
            file.flush()
        yield True


def _remember(path: Path, state: State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(asdict(state)))
    scratch.replace(path)


def exit_code(task: Callable[[Config], None], config: str) -> int:
    """Do something with the configuration in a file; print why it failed."""
    try:
        task(Config(**json.loads(Path(config).read_text())))
    except ScaleError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def main(arguments: Sequence[str], config: str = CONFIG) -> int:
    """Return the exit code."""
    verb, *names = arguments
    if verb != "retire":
        return exit_code(decide, config)
    machines = [name for name in names if name != WITH_DATA]
    return exit_code(partial(retire, names=machines, with_data=WITH_DATA in names), config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
