"""What can go wrong, as a tree. Every error is a sentence for the operator.

* StackError

  * PreflightError
  * MapError
  * AwsError
  * LocalCloudFailed
  * CommandError

    * MissingProgram
    * UnreachableError

  * SecretsError
  * BackupError

    * NoBackupError

  * LaunchError
  * ScaleError
  * ConvergeError
  * NotUpError
  * BusyError

`Interrupted` is a KeyboardInterrupt.
"""

from __future__ import annotations

from pathlib import Path


class StackError(Exception):
    """Anything that stops a verb.

    Args:
        what: the failure in one sentence, with the name of the machine on which it happened.
        hint: what to do next; empty when the sentence already says it.
        log: the file that keeps the whole output, if there is one.
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
    """A check before the first step failed; nothing has been changed."""


class MapError(StackError):
    """A map of cloud.maps.d cannot be read, or names what cannot be."""


class AwsError(StackError):
    """AWS refused a call, or did not answer."""


class LocalCloudFailed(StackError):
    """The local cloud is not installed, or reported an error."""


class CommandError(StackError):
    """A command ended with another exit code than 0.

    Args:
        what: as for every StackError, like `hint` and `log`.
        code: the exit code; None when the command did not end by itself.
        errors: what the command printed to standard error.
    """

    def __init__(
        self,
        what: str,
        hint: str = "",
        log: Path | None = None,
        code: int | None = None,
        errors: str = "",
    ) -> None:
        super().__init__(what, hint, log)
        self.code = code
        self.errors = errors


class MissingProgram(CommandError):
    """A program is not installed."""


class UnreachableError(CommandError):
    """SSH does not reach a machine, or lost its connection."""


class SecretsError(StackError):
    """A secret is missing, cannot be decrypted, or would be overwritten."""


class BackupError(StackError):
    """The Salt master's keys cannot be backed up, or a backup is refused."""


class NoBackupError(BackupError):
    """The bucket has no backup of the Salt master's keys."""


class LaunchError(StackError):
    """A machine does not exist, does not run, or its minion does not answer."""


class ScaleError(StackError):
    """A role cannot have so many machines, or not now."""


class ConvergeError(StackError):
    """A state failed, or the site does not answer although every state succeeded."""


class NotUpError(StackError):
    """The command needs a running stack, and there is none."""


class BusyError(StackError):
    """Another run changes the deployment."""


class Interrupted(KeyboardInterrupt):
    """The operator ended this run, and something goes on elsewhere.

    Args:
        what: what goes on, and where, in one sentence.
        hint: what to do next.
    """

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(f"{what} {hint}")
