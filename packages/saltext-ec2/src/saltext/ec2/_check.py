"""All faults of a configuration at once, each with its file and line.

`salt-cloud -f check PROVIDER` reads every provider, profile and map, and asks EC2 whether images,
subnets, groups, elastic addresses and key pairs exist. A run of a map or a profile is checked in
the same way before anything is launched, without a call to EC2.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import salt.utils.dictupdate

from saltext.ec2 import _attachments, _key_pairs, _maps, _positions, _preflight, _request, options
from saltext.ec2._context import DRIVER, Context
from saltext.ec2._positions import Document, Unreadable
from saltext.ec2.errors import ConfigurationError, Ec2Error


@dataclass(frozen=True)
class Files:
    """The files of a configuration.

    Attributes:
        folder: where they lie.
        providers: the file of each provider.
        profiles: the file of each profile.
        unreadable: sentences about files that cannot be read.
    """

    folder: Path
    providers: dict[str, Document]
    profiles: dict[str, Document]
    unreadable: list[str]


def all_faults(context: Context, map_path: str = "") -> list[str]:
    """Return what is wrong with all providers, profiles and maps, as `FILE:LINE: sentence`.

    Args:
        context: Salt's configuration.
        map_path: a map that is checked beside those of `cloud.maps.d`.
    """
    checker = Checker(context, ask=True)
    found = [*checker.files.unreadable, *checker.main_file()]
    for alias in context.opts["providers"]:
        found += checker.provider(alias)
    for name in checker.files.profiles:
        found += checker.profile(name)
    for path in _map_files(checker.files.folder, map_path):
        found += checker.map_file(path)
    return list(dict.fromkeys(found))


def refuse_run(context: Context) -> None:
    """Refuse to run a map or a profile that has faults, before anything is launched.

    Raises:
        ConfigurationError: it has; the message is one line for each fault.
    """
    opts = context.opts
    selects = opts.get("selected_query_option") == "list_nodes_select"
    if selects and not opts.get("query.selection"):
        raise ConfigurationError(
            f"query.selection is not set: it lists the fields to select, in {options.MAIN} file"
        )
    checker = Checker(context)
    if unusable := [fault for alias in opts["providers"] for fault in checker.unusable(alias)]:
        raise ConfigurationError("\n".join(unusable))
    if any(opts.get(name) for name in ("destroy", "action", "selected_query_option")):
        return
    if found := list(dict.fromkeys(_run_faults(checker, opts))):
        raise ConfigurationError("\n".join(found))


def _run_faults(checker: Checker, opts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the faults of what is about to be launched."""
    maps = opts.get("maps") or {}
    if opts.get("map") and not str(opts["map"]).startswith("salt://"):
        yield from checker.main_file()
        yield from checker.map_file(Path(opts["map"]))
    elif data := opts.get("map_data") or maps.get(opts.get("map_pillar")):
        yield from checker.main_file()
        yield from checker.machines(Document(Path("map"), data), placed=False)
    elif opts.get("profile") in opts.get("profiles", {}):
        yield from checker.main_file()
        yield from checker.used(opts["profile"])
        yield from checker.profile(opts["profile"])


def _map_files(folder: Path, map_path: str) -> Iterable[Path]:
    paths = sorted(path for path in (folder / "cloud.maps.d").glob("*") if path.is_file())
    return [*paths, *([Path(map_path)] if map_path else [])]


class Checker:
    """Collects faults of one configuration.

    Attributes:
        context: Salt's configuration.
        files: its files.
        ask: whether EC2 is asked for what the options name.
    """

    def __init__(self, context: Context, *, ask: bool = False) -> None:
        self.context, self.ask = context, ask
        self.files = read_files(context.opts)
        self._faulty: set[str] = set()  # the profiles and providers with faults of their own

    def _at(self, alias: str) -> Context:
        return dataclasses.replace(self.context, provider_name=f"{alias}:{DRIVER}")

    def main_file(self) -> Iterator[str]:
        """Yield the faults of the main file."""
        for fault in options.main_faults(self.context.opts):
            yield f"{self.context.opts.get('conf_file')}: {fault}"

    def provider(self, alias: str) -> Iterator[str]:
        """Yield the faults of a provider."""
        if DRIVER not in self.context.opts["providers"].get(alias, {}):
            return
        document = self.files.providers.get(alias)
        for fault in self._at(alias).provider_faults():
            self._faulty.add(alias)
            own = _own(document, alias)
            if "extends" not in own or fault.option in own or fault.option == "location":
                yield _placed(document, (alias, fault.option), str(fault))

    def unusable(self, alias: str) -> Iterator[str]:
        """Yield the faults that keep EC2 from being asked for the machines of a provider."""
        if DRIVER in self.context.opts["providers"].get(alias, {}):
            for fault in self._at(alias).query_faults():
                yield _placed(self.files.providers.get(alias), (alias, fault.option), str(fault))

    def profile(self, name: str) -> Iterator[str]:
        """Yield the faults of a profile, and of a machine of it."""
        opts, document = self.context.opts, self.files.profiles.get(name)
        own, profile = _own(document, name), opts["profiles"].get(name)
        if profile is None:
            yield _placed(document, (name, "provider"), self._lost(name, own))
            return
        alias, _, driver = str(profile.get("provider")).partition(":")
        if driver != DRIVER:
            return
        if options.faults(profile, f"profile {name}"):
            self._faulty.add(name)
        for fault in options.faults(own or profile, f"profile {name}"):
            yield _placed(document, (name, fault.option), str(fault))
        bases = {_own(file, other).get("extends") for other, file in self.files.profiles.items()}
        if name not in bases and name not in self._faulty:
            vm_ = merged(self.context.opts, alias, profile, {"name": name, "profile": name})
            for fault in self._machine(alias, vm_):
                yield _placed(document, (name, fault.option), f"profile {fault}")

    def _lost(self, name: str, own: Mapping[str, Any]) -> str:
        """Return why the core has no profile that a file defines."""
        provider = str(own.get("provider", ""))
        alias = provider.partition(":")[0]
        if not provider:
            return f"profile {name}: provider is not set"
        if ":" in provider and alias in self.context.opts["providers"]:
            return f"profile {name}: salt-cloud drops it: write provider: {alias}"
        return f"profile {name}: there is no provider {provider}"

    def used(self, profile_name: str) -> Iterator[str]:
        """Yield the faults of the provider that a profile uses."""
        profile = self.context.opts["profiles"][profile_name]
        alias, _, driver = str(profile.get("provider")).partition(":")
        if driver == DRIVER:
            yield from self.provider(alias)

    def map_file(self, path: Path) -> Iterator[str]:
        """Yield the faults of a map."""
        try:
            document = _positions.read_map(path, self.context.opts)
        except Unreadable as error:
            yield f"{path}:{error.line}: {error}"
            return
        yield from self.machines(document)

    def machines(self, document: Document, *, placed: bool = True) -> Iterator[str]:
        """Yield the faults of a map's machines, and of the profiles and providers they use."""
        where = document if placed else None
        checked: set[str] = set()
        for profile_name, mapped in document.data.items():
            if profile_name == "include":
                continue
            profile = self.context.opts["profiles"].get(profile_name)
            if profile is None:
                text = f"there is no profile {profile_name}"
                yield _placed(where, (profile_name,), text)
                continue
            if not str(profile.get("provider")).endswith(f":{DRIVER}"):
                continue
            if not self.ask and profile_name not in checked:  # `all_faults` checks all profiles
                checked.add(profile_name)
                yield from self.used(profile_name)
                yield from self._profile_options(profile_name)
            try:
                entries = list(_entries(mapped))
            except ConfigurationError as error:
                yield _placed(where, (profile_name,), f"profile {profile_name}: {error}")
                continue
            for name, overrides in entries:
                for option, text in self._machine_of_map(profile_name, name, overrides):
                    yield _placed(where, (profile_name, name, option), text)

    def _profile_options(self, name: str) -> Iterator[str]:
        """Yield the faults of a profile's options, but not of a machine with these alone."""
        profile, document = self.context.opts["profiles"][name], self.files.profiles.get(name)
        for fault in options.faults(profile, f"profile {name}"):
            self._faulty.add(name)
            yield _placed(document, (name, fault.option), str(fault))

    def _machine_of_map(
        self, profile_name: str, name: str, overrides: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """Yield the option and the text of each fault of a machine."""
        profile = self.context.opts["profiles"][profile_name]
        provider = str(overrides.get("provider") or profile["provider"])
        found = options.faults(overrides, f"{name} (profile {profile_name})")
        yield from ((fault.option, str(fault)) for fault in found)
        if problem := self._wrong_provider(provider):
            yield "provider", f"{name}: {problem}"
            return
        alias = provider.partition(":")[0]
        if provider != profile["provider"] and not self.ask:
            yield from (("provider", text) for text in self.provider(alias))
        if not found and profile_name not in self._faulty:
            given = {**overrides, "name": overrides.get("name", name), "profile": profile_name}
            for fault in self._machine(alias, merged(self.context.opts, alias, profile, given)):
                yield fault.option, str(fault)

    def _wrong_provider(self, provider: str) -> str:
        alias, _, driver = provider.partition(":")
        if DRIVER in self.context.opts["providers"].get(alias, {}) and driver != DRIVER:
            return f"provider: {provider} must be written {alias}:{DRIVER} in a map"
        if alias not in self.context.opts["providers"]:
            return _maps.no_provider(provider, self.context.opts)
        return ""

    def _machine(self, alias: str, vm_: Mapping[str, Any]) -> list[options.Fault]:
        """Return the faults of a machine whose sources have none."""
        context, name = self._at(alias), str(vm_["name"])
        provider = context.configured_provider() or {}
        found = options.misplaced(vm_, provider, name, context.opts)
        if alias in self._faulty:
            return found
        plan, more = _preflight.collect(context, vm_)
        found += more
        if self.ask and not found:
            found += _missing(context, plan, name)
        return found


def merged(
    opts: Mapping[str, Any], alias: str, profile: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a machine as the core merges it of provider, profile and what is given of its own."""
    made = copy.deepcopy(dict(opts["providers"][alias][DRIVER]))
    made.pop("profiles", None)
    for options_given in (profile, given):
        salt.utils.dictupdate.update(made, copy.deepcopy(dict(options_given)))
    return made


def _missing(context: Context, plan: _preflight.Plan, name: str) -> list[options.Fault]:
    """Return what a machine names and EC2 does not have."""
    found = []
    try:
        connection = context.connect_to_query()
        launch = _request.Launch(connection, plan.options, name, plan.userdata, plan.deploy)
        for place in _request.places(launch):
            _request.build(place)
        _attachments.address_ids(connection, plan.options)
        if keyname := plan.options.get("keyname"):
            _key_pairs.describe(connection, keyname)
    except Ec2Error as error:
        text = str(error).removeprefix(f"{name}: ")
        option = next(
            (word for word in text.replace(":", " ").split() if word in options.TABLE), ""
        )
        found.append(options.Fault(name, option, text))
    return found


def _entries(mapped: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the machines of one profile in a map, and what the map says of each.

    Raises:
        ConfigurationError: they are no names, and no mappings of names to options.
    """
    if not isinstance(mapped, (str, Mapping, list, tuple, type(None))):
        raise ConfigurationError(f"{mapped!r} is no list of machines")
    for entry in [mapped] if isinstance(mapped, (str, Mapping)) else mapped or []:
        if isinstance(entry, str):
            yield entry, {}
        elif isinstance(entry, Mapping):
            for name, overrides in entry.items():
                if not isinstance(overrides, (Mapping, bool, type(None))):
                    raise ConfigurationError(f"the options of {name} are no mapping")
                yield str(name), dict(overrides) if isinstance(overrides, Mapping) else {}
        else:
            raise ConfigurationError(f"{entry!r} is no name of a machine")


def _own(document: Document | None, name: str) -> Mapping[str, Any]:
    """Return what a file says of a provider or profile."""
    data: Any = document.data if document else {}
    for section in ("providers", "profiles"):
        if isinstance(data.get(section), Mapping) and name in data[section]:
            data = data[section]
    own = data.get(name)
    return own if isinstance(own, Mapping) else {}


def _placed(document: Document | None, keys: tuple[str, ...], text: str) -> str:
    """Return a sentence with the file and the line of what it is about."""
    if document is None:
        return text
    for section in ("providers", "profiles"):
        if (section, keys[0]) in document.lines:
            keys = (section, *keys)
    note = " (the line is that of the rendered map)" if document.rendered else ""
    return f"{document.place(*keys)}: {text}{note}"


def read_files(opts: Mapping[str, Any]) -> Files:
    """Read the files that define providers and profiles."""
    main = Path(opts.get("conf_file") or "/etc/salt/cloud")
    files = Files(main.parent, {}, {}, [])
    for kind, found in (("providers", files.providers), ("profiles", files.profiles)):
        folder = main.parent
        paths = [folder / f"cloud.{kind}", *sorted((folder / f"cloud.{kind}.d").glob("*.conf"))]
        for path in [path for path in (main, *paths) if path.is_file()]:
            try:
                document = _positions.read(path)
            except Unreadable as error:
                files.unreadable.append(f"{path}:{error.line}: {error}")
                continue
            data = document.data.get(kind) if path == main else document.data
            if isinstance(data, Mapping):
                found.update(dict.fromkeys(map(str, data), document))
    return files
