"""What a test that fails shows of its machines."""

from __future__ import annotations


class Evidence:
    """Something of a test that keeps logs."""

    def logs(self) -> list[tuple[str, str]]:
        """Return the ends of the logs, each after a title."""
        raise NotImplementedError
