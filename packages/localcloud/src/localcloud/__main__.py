"""Runs the API in the foreground: `python -m localcloud serve STATE_DIR`; makes the machines' image: `… image LOCK`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from localcloud import engine, image, service
from localcloud.config import CloudConfig


def main(arguments: list[str] | None = None) -> int:
    """Parse the command line and do as the verb says; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m localcloud", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser(
        "serve", help="run the API in the foreground, as configured in STATE_DIR/config.json"
    )
    serve.add_argument(
        "--name", help="serve a cloud of this name, and write the configuration first"
    )
    serve.add_argument(
        "--port", type=int, default=4566, help="with --name: port of the API (default: %(default)s)"
    )
    serve.add_argument(
        "--image",
        default="localcloud/machine:13",
        help="with --name: image of machines (default: %(default)s)",
    )
    stop = verbs.add_parser("stop", help="end the API process of STATE_DIR; machines go on")
    status = verbs.add_parser("status", help="tell whether the API of STATE_DIR answers")
    make = verbs.add_parser(
        "image", help="have Docker's engine run and hold the machines' image, whatever is absent"
    )
    make.add_argument(
        "requirements",
        type=Path,
        metavar="LOCK",
        help="hash-locked requirements of the image's Salt",
    )
    for verb in (serve, stop, status):
        verb.add_argument("state_dir", type=Path, metavar="STATE_DIR")
    options = parser.parse_args(arguments)
    if options.verb == "serve":
        from localcloud import server  # noqa: PLC0415 -- moto takes a second to import

        path = options.state_dir / "config.json"
        if options.name:
            config = CloudConfig(
                options.name, options.state_dir.resolve(), options.port, options.image
            )
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.write_text(config.dump())
        return server.main(CloudConfig.load(path.read_text()))

    if options.verb == "image":
        image.ensure(engine.ensure(print), print, options.requirements)
        return 0
    if options.verb == "stop":
        service.stop(options.state_dir)
        return 0
    now = service.status(options.state_dir)
    print(
        f"{'answers' if now.healthy else 'does not answer'} (process {now.pid or '-'}, log {now.log})"
    )
    return 0 if now.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
