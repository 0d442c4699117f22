"""Answers of the API that the machines of one map share, though each is made in a process of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from saltext.ec2.errors import ApiError

SECONDS = (
    30  # how long an answer holds: what one map run asks over and over, the next run asks anew
)
WAITED_FOR = 60  # seconds for which a thing is asked about along with others, after somebody last waited for it


class Cache:
    """Two small files of recent answers, safe to use from several processes at once."""

    def __init__(self, folder: str | Path, account: str) -> None:
        """Choose the files.

        Args:
            folder: Salt's cache directory.
            account: what tells one set of answers from another: region, endpoint, credentials. It is hashed.
        """
        self._stem = Path(folder) / "ec2" / hashlib.sha256(account.encode()).hexdigest()[:16]

    def get(self, question: str, ask: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Return the recent answer to a question, or ask.

        Whoever asks holds the lock, so that the others wait for one answer instead of asking as well; `ask` must not
        use the cache itself. A failure is not kept.

        Args:
            question: what is asked.
            ask: how; it returns what JSON can hold.
            seconds: how long the answer holds.
        """
        with self._answers() as answers:
            if question not in answers:
                answers[question] = {"until": time.time() + seconds, "answer": ask()}
            return answers[question]["answer"]

    def put(self, question: str, answer: Any, seconds: float = SECONDS) -> None:
        """Keep an answer that came by other ways."""
        with self._answers() as answers:
            answers[question] = {"until": time.time() + seconds, "answer": answer}

    def poll(
        self, key: str, ask: Callable[[list[str]], dict[str, Any]], since: float, every: float
    ) -> Any:
        """Return what is known of one thing since a moment, asking together with all who wait for another.

        However many processes wait, for however many things, there is one question in `every` seconds. It is about
        all of them; whoever's turn it is asks, and a failure is everybody's.

        Args:
            key: what is waited for.
            ask: how to ask about several; it returns what JSON can hold, by key, of those that exist.
            since: the moment (`time.time()`); an older answer does not do.
            every: seconds from one question to the next, and so the longest that this may wait before it asks.

        Returns:
            The answer; None: `ask` knows nothing of it.

        Raises:
            ApiError: the question failed.
        """
        while True:
            with self._file("polls") as polls:
                now = time.time()
                waited = {
                    one: until
                    for one, until in polls.get("waited", {}).items()
                    if now < until < now + 3600
                }
                polls["waited"] = waited | {key: now + WAITED_FOR}
                asked = min(polls.get("asked", 0), now)
                if since <= asked and key in polls["about"]:
                    if polls["failure"]:
                        raise ApiError(*polls["failure"])
                    return polls["known"].get(key)
                pause = asked + every - now
                if pause <= 0:
                    polls.update(asked=now, about=sorted(polls["waited"]), known={}, failure=None)
                    try:
                        polls["known"] = ask(polls["about"])
                    except ApiError as error:
                        polls["failure"] = [str(error), error.code]
            time.sleep(max(pause, 0))

    @contextlib.contextmanager
    def _answers(self) -> Iterator[dict[str, Any]]:
        with self._file("answers") as answers:
            now = time.time()
            for question in [
                one for one, kept in answers.items() if not now < kept["until"] < now + 3600
            ]:
                del answers[question]
            yield answers

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[dict[str, Any]]:
        """Lock one of the files; what the block makes of its content is written, unless the block fails."""
        path = self._stem.with_name(f"{self._stem.name}-{name}.json")
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            before = file.read()
            content: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                content = json.loads(before)
            yield content
            if (after := json.dumps(content)) != before:
                file.seek(0)
                file.truncate()
                file.write(after)
