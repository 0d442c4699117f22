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

SECONDS = 30  # how long an answer holds: what one map run asks over and over, the next run asks anew


class Cache:
    """A small file of recent answers, safe to use from several processes at once."""

    def __init__(self, folder: str | Path, account: str) -> None:
        """Choose the file.

        Args:
            folder: Salt's cache directory.
            account: what tells one set of answers from another: region, endpoint, credentials. It is hashed.
        """
        self._path = Path(folder) / "ec2" / f"{hashlib.sha256(account.encode()).hexdigest()[:16]}.json"

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

    @contextlib.contextmanager
    def _answers(self) -> Iterator[dict[str, Any]]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            answers: dict[str, Any] = {}
            with contextlib.suppress(ValueError):
                answers = json.load(file)
            now = time.time()
            answers = {key: value for key, value in answers.items() if now < value["until"] < now + 3600}
            before = json.dumps(answers)
            yield answers
            if json.dumps(answers) != before:
                file.seek(0)
                file.truncate()
                json.dump(answers, file)
