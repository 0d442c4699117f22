"""Machines without CPU credits, which are named when a run fails: they are slow, and not broken."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from stackctl.errors import ConvergeError, LaunchError, StackError
from stackctl.machines import Machine
from stackctl.salt import ask_minions
from stackctl.ssh import Shell

BEGINNING = "out of CPU credits"  # of what `cpu_credits.told` answers (salt/_modules)
TOLD_SECONDS = 30  # that a minion has to answer
SILENT_SECONDS = 6  # after which one is given up that does not answer a ping either


def spent(shell: Shell, master: Machine) -> list[str]:
    """Return the machines that say that their credits are spent, sorted.

    A question that fails leaves the list empty: it is asked because something has failed already.
    """
    question = ["glob", "*", "cpu_credits.told"]
    try:
        answers = ask_minions(shell, master, question, TOLD_SECONDS, silent=SILENT_SECONDS)
    except StackError:
        return []
    return sorted(name for name, said in answers.items() if str(said).startswith(BEGINNING))


@contextlib.contextmanager
def named(shell: Shell, master: Machine) -> Iterator[None]:
    """Have the hint of an error in the block begin with the machines without credits.

    Args:
        shell: a shell on the master.
        master: the Salt master.
    """
    try:
        yield
    except (ConvergeError, LaunchError) as error:
        if names := spent(shell, master):
            are = "is" if len(names) == 1 else "are"
            error.hint = (
                f"{', '.join(names)} {are} {BEGINNING} and slow:"
                f" docs/runbooks.md, 'A machine is {BEGINNING}'. {error.hint}"
            ).strip()
        raise
