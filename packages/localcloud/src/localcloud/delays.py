"""How long EC2 takes for what a client has to wait for, and for how long it keeps a console.

The values of Amazon's are minutes. Those here are seconds, so that a rehearsal stays quick, but a
client that does not wait fails here too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self


@dataclass(frozen=True)
class Delays:
    """Times of a cloud, in seconds.

    Args:
        console_posts: after an instance has started, stopped or rebooted, when EC2 takes a copy of
            its console. It shows the last copy and nothing newer. Amazon says "shortly after a
            transition", which is some minutes. What is printed after the last copy is never shown
            before the next transition.
        console_kept: how long EC2 keeps the last copy; "at least one hour".
        shutting_down: the least time for which a terminated instance keeps its addresses.
        public_address: after which an instance that has lost its elastic address has another public
            one; Amazon says within minutes. Until then it has no way out.
        volume_modifying: after a modification began, before the volume has its new size.
        volume_optimizing: before EC2 has ended the modification; Amazon says minutes to hours.
        volume_rest: in which a volume can be modified four times: a day, here too.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-instance-addressing.html
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_GetConsoleOutput.html
    """

    console_posts: tuple[float, ...] = (3, 10, 30, 90)
    console_kept: float = 3600
    shutting_down: float = 3
    public_address: float = 3
    volume_modifying: float = 2
    volume_optimizing: float = 10
    volume_rest: float = 24 * 3600

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> Self:
        """Return the delays that `dataclasses.asdict` has written as JSON."""
        return cls(**{**data, "console_posts": tuple(data["console_posts"])}) if data else cls()

    def last_post(self, since: datetime, now: datetime) -> datetime | None:
        """Return when the copy of a console was made that EC2 shows now; None: it shows none.

        Args:
            since: the instance's last transition.
            now: the time.
        """
        posts = [since + timedelta(seconds=seconds) for seconds in self.console_posts]
        made = max((post for post in posts if post <= now), default=None)
        if made is None or now - made > timedelta(seconds=self.console_kept):
            return None
        return made


INSTANT = Delays(
    console_posts=(0,),
    shutting_down=0,
    public_address=0,
    volume_modifying=0,
    volume_optimizing=0,
    volume_rest=0,
)
"""A cloud that does nothing late; for tests of other things."""
