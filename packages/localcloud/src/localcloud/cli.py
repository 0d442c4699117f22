"""The command `localcloud`: builds the machines' image, serves the API, and destroys a cloud."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from localcloud import __version__, engine, image, service
from localcloud.config import CloudConfig, Endpoint, write_private
from localcloud.errors import LocalCloudError, NotRunning
from localcloud.limits import Limits

Verb = Callable[[argparse.Namespace], int]


def main(args: list[str] | None = None) -> int:
    """Run one verb of the command line and return the exit code."""
    options = _parser().parse_args(args)
    try:
        code: int = options.verb(options)
    except LocalCloudError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="localcloud", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def add(verb: Verb, name: str, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        added.set_defaults(verb=verb, parser=added)
        return added

    make = add(_image, "image", "build the machines' image if it is missing, and print its tag")
    make.add_argument(
        "requirements",
        type=Path,
        metavar="REQUIREMENTS",
        help="hash-locked requirements, which the image gets in a virtual environment at /opt/salt",
    )
    serve = add(_serve, "serve", "serve the API of the cloud in STATE_DIR, in the foreground")
    serve.add_argument("--name", help="configure a cloud of this name first")
    serve.add_argument(
        "--port", type=int, default=4566, help="with --name: port of the API (default: %(default)s)"
    )
    serve.add_argument("--image", help="with --name: tag that `localcloud image` has printed")
    limit = add(_limit, "limit", "give the account limits, until the API restarts; none: no limits")
    limit.add_argument("--vcpus", type=int, help="quota of vCPUs; a new account may have 5")
    limit.add_argument("--plan", choices=["FREE", "PAID"], help="the account's plan")
    limit.add_argument("--unverified", action="store_true", help="AWS examines the account")
    for name, text in (("not-offered", "does not have a type"), ("exhausted", "has none left")):
        limit.add_argument(
            f"--{name}", action="append", default=[], metavar="ZONE=TYPE", help=f"a zone {text}"
        )
    spend = add(_credits, "credits", "spend the CPU credits of machines; none: all have theirs")
    spend.add_argument(
        "--spent", action="append", default=[], metavar="NAME", help="glob for their Name tags"
    )
    others = [
        serve,
        limit,
        spend,
        add(_status, "status", "show whether the API of the cloud in STATE_DIR answers"),
        add(_env, "env", "print the shell commands that point AWS clients at the cloud"),
        add(_stop, "stop", "stop the API of the cloud in STATE_DIR; its machines go on"),
    ]
    destroy = add(
        _destroy, "destroy", "remove the cloud: API, machines, networks, volumes and saved state"
    )
    destroy.add_argument(
        "--keep-image",
        action="store_true",
        help="keep the machines' image and the engine that localcloud has started",
    )
    destroy.add_argument(
        "--dry-run", action="store_true", help="only print which machines would be removed"
    )
    remove = add(
        _remove, "remove", "remove what a cloud has left whose STATE_DIR is gone, all but the image"
    )
    remove.add_argument("name", metavar="NAME", help="the cloud's name, as its networks begin")
    for parser_of_verb in (*others, destroy):
        parser_of_verb.add_argument("state_dir", type=Path, metavar="STATE_DIR")
    return parser


def _image(options: argparse.Namespace) -> int:
    print(image.ensure(engine.ensure(print), print, options.requirements))
    return 0


def _serve(options: argparse.Namespace) -> int:
    from localcloud import server  # noqa: PLC0415 -- moto takes a second to import

    if options.name:
        if not options.image:
            options.parser.error("--name needs --image: the tag that `localcloud image` prints")
        state_dir = options.state_dir.resolve()
        config = CloudConfig(options.name, state_dir, options.port, options.image)
        write_private(config.path, config.dump())
    return server.main(CloudConfig.read(options.state_dir))


def _status(options: argparse.Namespace) -> int:
    now = service.status(options.state_dir)
    answer = "answers" if now.healthy else "does not answer"
    print(f"{answer} (process {now.pid or '-'}, log {now.log})")
    return 0 if now.healthy else 1


def _env(options: argparse.Namespace) -> int:
    for name, value in _running(options.state_dir).environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _running(state_dir: Path) -> Endpoint:
    endpoint = service.endpoint(state_dir)
    if endpoint is None:
        raise NotRunning(f"No cloud answers in {state_dir}. Start it: localcloud serve STATE_DIR")
    return endpoint


def _limit(options: argparse.Namespace) -> int:
    from localcloud.faults import FaultClient  # noqa: PLC0415 -- the others need no Docker client

    endpoint = _running(options.state_dir)
    given: dict[str, Any] = {"pending_verification": options.unverified}
    for name in ("not_offered", "exhausted"):
        given[name] = {}
        for pair in getattr(options, name):
            zone, _, kind = pair.partition("=")
            given[name][zone] = (*given[name].get(zone, ()), kind)
    for name in ("vcpus", "plan"):
        if getattr(options, name) is not None:
            given[name] = getattr(options, name)
    FaultClient(endpoint).set_limits(Limits(**given))
    return 0


def _credits(options: argparse.Namespace) -> int:
    from localcloud.faults import FaultClient  # noqa: PLC0415 -- the others need no Docker client

    FaultClient(_running(options.state_dir)).spend_credits(*options.spent)
    return 0


def _stop(options: argparse.Namespace) -> int:
    service.stop(options.state_dir)
    return 0


def _remove(options: argparse.Namespace) -> int:
    service.remove(options.name, print)
    return 0


def _destroy(options: argparse.Namespace) -> int:
    config = CloudConfig.read(options.state_dir)
    if options.dry_run:
        for name in service.machine_names(config):
            print(f"would remove {name}")
        return 0
    service.destroy(config, print)
    if not options.keep_image and engine.reachable():
        image.remove(engine.connect())
        engine.stop_if_ours()
    return 0
