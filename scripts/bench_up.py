"""Time `up` from nothing, with the image at hand, and with nothing to do.

Exit with 1 if a target is missed. The local stack is removed twice. Programs that apt has installed
stay, so "from nothing" means without the image, not without Docker.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

TARGET_SECONDS = {"from nothing": 600.0, "image at hand": 180.0, "nothing to do": 30.0}


def stackctl(*arguments: str) -> float:
    """Run one stackctl command and return its seconds; raise CalledProcessError when it fails."""
    begin = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "stackctl", *arguments], check=True, stdout=subprocess.DEVNULL
    )
    return time.monotonic() - begin


def main() -> int:
    """Measure, print a line each, and return the exit code."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    stackctl("down")
    seconds = {"from nothing": stackctl("up")}
    stackctl("down", "--keep-image")
    seconds["image at hand"] = stackctl("up")
    seconds["nothing to do"] = stackctl("up")
    for name, value in seconds.items():
        print(f"{name:<14} {value:6.1f} s   target {TARGET_SECONDS[name]:.0f} s")
    subprocess.run([sys.executable, "-m", "stackctl", "status"], check=False)
    return int(any(value > TARGET_SECONDS[name] for name, value in seconds.items()))


if __name__ == "__main__":
    sys.exit(main())
