"""Tells whoever waits what is being measured."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Print a line with the time, beside the results."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
