"""Answers of EC2 that all machines of a map share, although each has a process of its own."""

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

SECONDS = 30  # for which an answer is used: within one run of a map, not from run to run
WAITED_FOR = 60  # seconds after its last `poll` for which a key is asked about


class Cache:
    """Two small files of recent answers, which several processes may use at once."""

    def __init__(self, folder: str | Path, account: str) -> None:
        """Choose the files.

        Args:
            folder: Salt's cache directory.
            account: the account and region that the answers belong to, as any text; it is hashed.
        """
        self._stem = Path(folder) / "ec2" / hashlib.sha256(account.encode()).hexdigest()[:16]

    def get(self, question: str, ask: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Return the recent answer to a question, or ask.

        The process that asks holds the file lock, so that others wait for its answer instead of
        asking too; `ask` must not use the cache itself. A failure is not kept.

        Args:
            question: the question, as any text.
            ask: asks it; the answer must be JSON.
            seconds: for which the answer is used.
        """
        with self._answers() as answers:
            if question not in answers:
                answers[question] = {"until": time.time() + seconds, "answer": ask()}
            return answers[question]["answer"]

    def put(self, question: str, answer: Any, seconds: float = SECONDS) -> None:
        """Keep an answer that the caller has already."""
        with self._answers() as answers:
            answers[question] = {"until": time.time() + seconds, "answer": answer}

    def poll(
        self, key: str, ask: Callable[[list[str]], dict[str, Any]], since: float, every: float
    ) -> Any:
        """Return a recent answer about one key; all processes that poll share the questions.

        One process asks every `every` seconds, about all keys that any process polls. All processes
        get its answer, or its failure.

        Args:
            key: such as an instance id.
            ask: asks about several keys; the answer is JSON, by key, without unknown keys.
            since: an answer from before this time (`time.time()`) is too old.
            every: seconds between two questions, and the longest pause before this one.

        Returns:
            The answer; None: `ask` does not know the key.

        Raises:
            ApiError: the call that asked has failed.
        """
        while True:
            with self._file("polls") as polls:
                now = time.time()
                waited = {
                    polled: until
                    for polled, until in polls.get("waited", {}).items()
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
            old = [key for key, kept in answers.items() if not now < kept["until"] < now + 3600]
            for question in old:
                del answers[question]
            yield answers

    @contextlib.contextmanager
    def _file(self, name: str) -> Iterator[dict[str, Any]]:
        """Lock one of the files, and write what the block changes; if it fails, write nothing."""
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
