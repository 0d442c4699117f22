"""One row: visitors come, the fault happens, and all that follows until all is well again."""

from __future__ import annotations

import secrets
import time
from contextlib import ExitStack
from typing import Any

from tests.chaos import answers
from tests.chaos.rows import Row
from tests.chaos.scene import Scene, problems
from tests.chaos.visitors import PACES, Site, Visitors

from bench.progress import say
from wholestack import is_green

Run = dict[str, Any]
BEFORE_SECONDS = 4.0
LOOK_BACK = 3.0  # seconds beside the pace, without a failure: visitors are served
SERVED_SECONDS = 90.0  # after which nobody waits for that any more
GREEN_SECONDS = 240.0  # in which all has to be well again by itself: a timer starts machines
MASTERLESS_SECONDS = 20.0  # that is enough where nobody is there to start a machine
PAUSE = 0.25


class NotWell(Exception):
    """The stack is not well before a row; the text says what is wrong."""


def measure(scene: Scene, site: Site, row: Row) -> Run:
    """Measure a row once; whatever happens, the fault is ended.

    Returns:
        What the results keep.
    """
    prefix = f"chaos-{secrets.token_hex(4)}-"
    visitors = Visitors(site, prefix)
    names = scene.find(row.targets)
    say(f"  {', '.join(names)}")
    run: Run = {"machines": names, "lasted_s": 0.0}
    with visitors.coming(), ExitStack() as ends:
        time.sleep(BEFORE_SECONDS)
        since = time.time()
        for name in names:
            if row.of.mend is not None:
                ends.callback(row.of.mend, scene, name)
            row.of.strike(scene, name)
        _wait(visitors, time.time() + row.hold)
        if row.of.mend is not None:
            ends.close()
            run["lasted_s"] = round(time.time() - since, 1)
            _wait(visitors, time.time() + LOOK_BACK)
        run |= _recover(scene, since + run["lasted_s"], [] if row.of.mend else names)
        _wait(visitors, time.time() + LOOK_BACK)
    for kind, found in visitors.answers.items():
        run[kind] = answers.figures(found, since, PACES[kind])
    before = [one for found in visitors.answers.values() for one in found if one.ended < since]
    run["failed_before"] = sum(not one.good for one in before)
    run["ledger"] = visitors.ledger.verdict(scene.written(prefix)).as_dict()
    scene.forget(prefix)
    return run


def _wait(visitors: Visitors, sooner: float) -> None:
    """Wait until visitors of every kind are served, and until a moment."""
    ends = time.time() + SERVED_SECONDS
    while (now := time.time()) < ends:
        if now >= sooner and all(
            answers.served(list(found), now, LOOK_BACK + PACES[kind])
            for kind, found in visitors.answers.items()
        ):
            return
        time.sleep(PAUSE)


def _recover(scene: Scene, since: float, struck: list[str]) -> Run:
    """Wait until `stackctl status` has nothing to tell; where it goes on to, run `stackctl up`.

    Args:
        scene: the stack.
        since: the moment from which to count.
        struck: the machines and programs that nobody has brought back so far.
    """
    alone = bool({"salt-1", "EC2 API"} & {*struck})
    found: Run = {"by_itself": True, "up_s": 0.0}
    limit = MASTERLESS_SECONDS if alone else GREEN_SECONDS
    red = green(scene, limit)
    if red:
        found |= {"by_itself": False, "red": red}
        say(f"  not well by itself: {red}; stackctl up")
        began = time.time()
        try:
            scene.stack.up()
        except AssertionError as failed:
            found["up_failed"] = str(failed)[-2000:]
        found["up_s"] = round(time.time() - began, 1)
        red = green(scene, GREEN_SECONDS)
    found["well"] = not red
    found["well_s"] = round(time.time() - since, 1)
    return found


def green(scene: Scene, seconds: float) -> dict[str, str]:
    """Wait until all is green; return what is not after so many seconds."""
    ends = time.time() + seconds
    while True:
        try:
            rows = scene.stack.rows()
        except (AssertionError, ValueError) as error:
            red = {"status": str(error)[-500:]}
        else:
            red = problems(rows) | ({} if all(map(is_green, rows.values())) else site(rows))
        if not red or time.time() > ends:
            return red
        time.sleep(1)


def site(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Return what `status` says of the site, and of what could not be asked."""
    first = next(iter(rows.values()))
    return {"site": str(first["site"]), "errors": str(first["errors"])}
