"""What can go wrong, each with the sentence the operator reads."""

from __future__ import annotations

from pathlib import Path


class StackError(Exception):
    """Something the operator must know: what failed, what to do about it, and where the log is.

    Args:
        what: the failure in one sentence, naming the machine it happened on.
        hint: what to do next; empty when the sentence already says it.
        log: the file that holds the whole output, if any.
    """

    def __init__(self, what: str, hint: str = "", log: Path | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint
        self.log = log

    def __str__(self) -> str:
        parts = [self.what, self.hint, f"Log: {self.log}" if self.log else ""]
        return " ".join(part for part in parts if part)


class PreflightError(StackError):
    """This host cannot do what was asked; nothing has been touched."""


class CommandError(StackError):
    """A command ended with another exit code than 0.

    Args:
        what: as for every StackError, like `hint` and `log`.
        code: the exit code; None where it did not come to one.
    """

    def __init__(
        self, what: str, hint: str = "", log: Path | None = None, code: int | None = None
    ) -> None:
        super().__init__(what, hint, log)
        self.code = code


class SecretsError(StackError):
    """A secret is missing, cannot be read or would be overwritten."""


class LaunchError(StackError):
    """A machine does not exist, does not run, or its minion does not answer."""


class ConvergeError(StackError):
    """A state failed, or the site does not answer although every state succeeded."""


class NotUpError(StackError):
    """The command needs a running stack and there is none."""
