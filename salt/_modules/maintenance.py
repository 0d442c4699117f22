"""Reboot machines, or upgrade their packages, while the others serve.

Everything but ``boot`` runs on the Salt master, in an orchestration (``salt/orch/reboot.sls``), and
asks the machines through the master's client. A machine is touched only when the others of its role
can go on without it, and the next one only when it serves again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from salt.exceptions import CommandExecutionError

# Set by Salt's loader.
__pillar__: dict[str, Any]
__salt__: dict[str, Any]

# Role -> the function that tells why the role cannot count on a machine; empty: it can.
UNFIT = {
    "lb": "site_address.unfit",
    "postgres": "patroni.unfit",
    "redis": "redis_role.unfit",
}
MASTER = "salt"  # its reboot ends what runs here, so `stackctl reboot` does it from outside
ANSWER_SECONDS = 30
PATIENCE_SECONDS = 90  # for others that are about to be fit, as after the machine before
LONG_SECONDS = 120
DRAIN_SECONDS = 75  # the longest answer of Airflow, as in salt/orch/drain.sls
BOOT_SECONDS = 600  # a machine without CPU credits
UPGRADE_SECONDS = 3600
_PAUSE = 2


def boot(proc: str = "/proc") -> str:
    """Return what tells this boot of the machine from all others.

    A container has the kernel of its host, and so its boot: there the start of its first process
    counts, too.

    Args:
        proc: the folder of the kernel's files.
    """
    kernel = Path(proc, "sys/kernel/random/boot_id").read_text().strip()
    # What follows the name of the program in brackets; the 22nd field of all is its start.
    fields = Path(proc, "1/stat").read_text().rpartition(")")[2].split()
    return f"{kernel} {fields[19]}"


def order(names: list[str]) -> list[str]:
    """Return machines in the order in which they are best rebooted.

    A server that leads comes after those that follow it, so there is one switchover; the master
    comes last.

    Args:
        names: minion ids.

    Raises:
        CommandExecutionError: the master has not accepted one of them.
    """
    known = __salt__["role.accepted"]()
    if strange := [name for name in names if name not in known]:
        raise CommandExecutionError(f"the master has accepted no minion {', '.join(strange)}")
    leading = {name for name in names if _leads(name)}
    roles = [*__pillar__["roles"]]
    return sorted(
        dict.fromkeys(names),
        key=lambda name: (
            _role(name) == MASTER,
            roles.index(_role(name)),
            name in leading,
            int(name.rpartition("-")[2]),
        ),
    )


def refusals(names: list[str]) -> dict[str, str]:
    """Return why each machine must not be away now; empty: it may.

    Args:
        names: minion ids.
    """
    return {name: _refusal(name) for name in names}


def pending(name: str) -> list[str]:
    """Return what an upgrade of a machine would do: its packages, or `reboot`.

    Args:
        name: its minion id.

    Raises:
        CommandExecutionError: it does not answer, or its package lists cannot be fetched.
    """
    packages: dict[str, Any] = _answer(name, "pkg.list_upgrades", UPGRADE_SECONDS)
    found = [f"{package} {version}" for package, version in sorted(packages.items())]
    if not found and (_answer(name, "drift.reboot_required") or _answer(name, "drift.outdated")):
        return ["reboot"]
    return found


def reboot(name: str, *, upgrade: bool = False, interrupt: bool = False) -> dict[str, Any]:
    """Take a machine out of service, reboot it, and bring it back.

    Args:
        name: its minion id.
        upgrade: whether to upgrade its packages before; where there is nothing to upgrade and no
            reboot waits, the machine is left alone.
        interrupt: also where nobody serves in its place meanwhile.

    Returns:
        ``upgraded``: package -> ``old`` and ``new``. ``drained``: what was done before.
        ``seconds``: how long the machine was out of service; 0: it was left alone.

    Raises:
        CommandExecutionError: it must not be away now, and why; or what failed. Where it was not
            rebooted, it serves again.
    """
    if _role(name) == MASTER:
        raise CommandExecutionError(f"{name} runs this: stackctl reboot {name}")
    if upgrade and not pending(name):
        return {"upgraded": {}, "drained": "", "seconds": 0}
    if not interrupt:
        _require_spare(name)
    status = _answer(name, "role.status")
    before = _answer(name, "maintenance.boot")
    began = time.monotonic()
    upgraded: dict[str, Any] = {}
    try:
        drained = _drained(name, interrupt=interrupt)
        if upgrade:
            upgraded = _answer(name, "pkg.upgrade", UPGRADE_SECONDS, dist_upgrade=True)
        # Its answer may be lost, as it stops.
        with contextlib.suppress(CommandExecutionError):
            _answer(name, "system.reboot")
        _await(lambda: _not_booted(name, before), BOOT_SECONDS)
        _await(lambda: _not_well(name, status["problem"]), BOOT_SECONDS)
    except CommandExecutionError:
        with contextlib.suppress(CommandExecutionError):  # the first reason counts
            _bring_back(name)
        raise
    _bring_back(name)
    return {"upgraded": upgraded, "drained": drained, "seconds": round(time.monotonic() - began)}


def _refusal(name: str) -> str:
    role, others = _role(name), _others(name)
    if role == "web":
        return _unbalanced(name)
    if role not in UNFIT:
        return ""
    if not others:
        return f"{name} is the only machine of its role"
    answers = {other: _why_unfit(other) for other in others}
    fit = [other for other, problem in answers.items() if not problem]
    # Those that vote have to be a majority without it.
    wanted = (len(others) + 1) // 2 + 1 if __pillar__["roles"][role].get("votes") else 1
    if len(fit) >= wanted:
        return ""
    problems = "; ".join(f"{other}: {problem}" for other, problem in answers.items() if problem)
    return f"without {name}, {wanted} of {', '.join(others)} have to serve: {problems}"


def _unbalanced(name: str) -> str:
    """Return why the load balancers need a web machine; empty: each has another one."""
    answering = 0
    for balancer in __salt__["role.accepted"]("lb"):
        try:
            up = _answer(balancer, "edge.up")
        except CommandExecutionError:
            continue  # it serves nobody
        answering += 1
        if not [server for server in up if server != name]:
            return f"{balancer} has no other web machine than {name} to ask"
    return "" if answering else "no load balancer answers"


def _why_unfit(name: str) -> str:
    try:
        return str(_answer(name, UNFIT[_role(name)]))
    except CommandExecutionError as error:
        return str(error)


def _require_spare(name: str) -> None:
    """Raise CommandExecutionError unless the others serve without a machine, soon."""
    try:
        _await(lambda: _refusal(name), PATIENCE_SECONDS if _others(name) else 0)
    except CommandExecutionError as error:
        raise CommandExecutionError(f"{name} must not be away now: {error}") from None


def _drained(name: str, *, interrupt: bool) -> str:
    """Have the others take over what a machine does; return what was done."""
    try:
        match _role(name):
            case "web":
                for balancer in _balancers():
                    _answer(balancer, "edge.drain", LONG_SECONDS, [[name]], seconds=DRAIN_SECONDS)
                return "no load balancer asks it"
            case "lb":
                _answer(name, "site_address.leave", LONG_SECONDS)
                _answer(name, "edge.leave", LONG_SECONDS, seconds=DRAIN_SECONDS)
                return "it has no client"
            case "postgres" if _others(name) and _leads(name):
                return f"{_answer(name, 'patroni.switch_over', LONG_SECONDS)} leads"
            case "redis" if _others(name) and _leads(name):
                # Redis hands over before it stops.
                _answer(name, "service.stop", LONG_SECONDS, ["redis-server"])
                return "another machine is the master"
    except CommandExecutionError:
        if not interrupt:
            raise
    return ""


def _bring_back(name: str) -> None:
    """Undo what `_drained` has done and the reboot has not."""
    match _role(name):
        case "web":
            for balancer in _balancers():
                _answer(balancer, "edge.bring_back", LONG_SECONDS, [[name]])
        case "lb":
            _answer(name, "service.reload", LONG_SECONDS, ["haproxy"])
        case "redis":
            _answer(name, "service.start", LONG_SECONDS, ["redis-server"])


def _balancers() -> list[str]:
    """Return the load balancers that answer: the others ask no web machine."""
    names: list[str] = __salt__["role.accepted"]("lb")
    return [name for name, problem in ((each, _silence(each)) for each in names) if not problem]


def _silence(name: str) -> str:
    try:
        _answer(name, "test.ping")
    except CommandExecutionError as error:
        return str(error)
    return ""


def _leads(name: str) -> bool:
    """Return whether a machine of a store is the one that takes writes."""
    with contextlib.suppress(CommandExecutionError):
        match _role(name):
            case "postgres":
                return bool(_answer(name, "patroni.is_primary"))
            case "redis":
                told = _answer(name, "redis_role.told")
                return str(told["replication"]).startswith("master")
    return False


def _not_booted(name: str, before: str) -> str:
    """Return why a machine has not booted yet; empty: it has."""
    try:
        now = _answer(name, "maintenance.boot", 5)
    except CommandExecutionError as error:
        return str(error)
    return "" if now != before else f"{name} still runs: it has not rebooted"


def _not_well(name: str, problem: str) -> str:
    """Return why a machine does not serve as before; empty: it does.

    Args:
        name: its minion id.
        problem: what was wrong with it before.
    """
    try:
        status = _answer(name, "role.status")
    except CommandExecutionError as error:
        return str(error)
    if status["state"] != "active":
        return f"{status['unit']} is {status['state']}"
    if status["problem"] not in ("", problem):
        return str(status["problem"])
    return _why_unfit(name) if _role(name) in UNFIT and _others(name) else ""


def _await(problem: Callable[[], str], seconds: float) -> None:
    """Wait until a function returns an empty text; raise CommandExecutionError with its last."""
    deadline = time.monotonic() + seconds
    while found := problem():
        if time.monotonic() >= deadline:
            raise CommandExecutionError(found)
        time.sleep(_PAUSE)


def _role(name: str) -> str:
    return str(__salt__["role.of"](name))


def _others(name: str) -> list[str]:
    role = _role(name)
    accepted: Iterable[str] = __salt__["role.accepted"](role) if role else ()
    return [each for each in accepted if each != name]


def _answer(
    name: str,
    function: str,
    patience: int = ANSWER_SECONDS,
    arguments: Sequence[Any] = (),
    **keywords: Any,
) -> Any:
    """Return what a function returns on a machine; raise CommandExecutionError without that."""
    answers = __salt__["saltutil.cmd"](
        [name],
        function,
        arg=list(arguments),
        kwarg=keywords,
        tgt_type="list",
        timeout=patience,
    )
    answer = answers.get(name)
    if not answer or "ret" not in answer:
        raise CommandExecutionError(f"{name} does not answer")
    if answer.get("retcode"):
        last = str(answer["ret"]).strip().splitlines()[-1:] or ["it failed"]
        raise CommandExecutionError(f"{name}: {last[0].removeprefix('ERROR: ')}")
    return answer["ret"]
