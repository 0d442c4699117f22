"""Salt's own compiler for one minion, without a master, a machine or root.

Modules stand in for what only a running stack can answer: this machine's address, the
master's key and those that it has accepted, its services.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import salt.config
import salt.modules
import salt.pillar
import salt.state
import salt.utils.templates

from plainpillar import DEPLOYMENT, ROOT, PlainPillar
from saltmodules import TREE, load

Chunk = dict[str, Any]

STAND_INS = {
    "network": """
def ip_addrs(cidr):
    return [__opts__["test_addresses"][__opts__["id"]]]
""",
    "master_key": """
def finger(path=None):
    return "00:11:22"
""",
    "saltutil": """
def wheel(name, match):
    assert (name, match) == ("key.list", "accepted")
    return {"return": {"minions": __opts__["test_accepted"]}, "success": True}
def cmd(tgt, fun, arg, tgt_type, timeout):
    assert tgt_type == "list"
    if fun == ["file.search", "service_config.outdated"]:
        plain = __opts__.get("test_without_tls", [])
        return {id: {"ret": {fun[0]: id in plain, fun[1]: {}}} for id in tgt}
    assert (fun, arg) == ("file.file_exists", ["/etc/salt/role.json"])
    return {id: {"ret": id not in __opts__.get("test_new", [])} for id in tgt}
""",
    # Without it, Salt has no state `service` and turns each `watch` of one into a `require`.
    "service": """
def start(name):
    raise NotImplementedError
def status(name):
    return True
""",
}

# The execution modules of Salt that the states' Jinja uses. Jinja's import would load all.
OF_SALT = frozenset({"config", "cp", "file", "hashutil", "match", "pillar", "state"})


def _shipped_modules() -> set[str]:
    found = pkgutil.iter_modules(salt.modules.__path__)
    return {module.name for module in found} - STAND_INS.keys()


def addresses() -> dict[str, str]:
    """Return minion id -> address of the whole map."""
    return {
        minion_id: f"10.20.1.{number}"
        for number, minion_id in enumerate(DEPLOYMENT.machines(), start=10)
    }


@dataclass
class Compiled:
    """The result of compiling some states for one minion.

    Attributes:
        sls: the names of the SLS files that took part, included ones too.
        chunks: the low chunks, one for each state function.
        errors: the messages of Salt's compiler.
    """

    sls: set[str]
    chunks: list[Chunk]
    errors: list[str] = field(default_factory=list)


class Compiler:
    """Pillar and states of one minion."""

    def __init__(
        self,
        minion_id: str,
        folder: Path,
        pillar: PlainPillar,
        grains: Mapping[str, Any] | None = None,
        *,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        """Prepare a minion.

        Args:
            minion_id: its id.
            folder: an empty folder to work in.
            pillar: the deployment's root, in front of `pillar/base`.
            grains: more grains, true or not.
            given: pillar of the command line.
        """
        self._given = dict(given or {})
        self._record = folder / "addresses.json"
        modules = folder / "modules"
        modules.mkdir(parents=True)
        for name, source in STAND_INS.items():
            (modules / f"{name}.py").write_text(source)
        (modules / "_pillar").symlink_to(TREE / "_pillar")
        own_grains = {
            "id": minion_id,
            "os": "Debian",
            "os_family": "Debian",
            "saltversioninfo": [3008],
            "host": "machine",
        }
        self.opts = salt.config.minion_config(None)
        self.opts.update(
            {  # `|=` does nothing here
                "id": minion_id,
                "file_client": "local",
                "file_roots": {"base": [str(TREE)]},
                "pillar_roots": {"base": [str(pillar.path), str(ROOT / "pillar/base")]},
                "root_dir": str(folder),
                "cachedir": str(folder / "cache"),
                "extension_modules": str(folder / "extmods"),
                "module_dirs": [str(modules), str(TREE / "_modules")],
                "ext_pillar": [{"machine_addresses": str(self._record)}],
                "states_dirs": [str(TREE / "_states")],
                "disable_modules": sorted(_shipped_modules() - OF_SALT),
                "test_accepted": sorted(addresses()),
                "grains": own_grains | dict(grains or {}),
            }
        )
        self.know(addresses())

    def know(self, known: Mapping[str, str]) -> None:
        """Have the pillar hold these addresses, minion id -> address."""
        self.opts["test_addresses"] = dict(known)
        self._record.write_text(json.dumps(known))

    def pillar(self) -> dict[str, Any]:
        """Return the pillar, with `_errors` where Salt found any."""
        client = salt.pillar.Pillar(self.opts, self.opts["grains"], self.opts["id"], "base")
        return dict(client.compile_pillar())

    def highstate(self) -> Compiled:
        """Compile what the top file gives this minion."""
        top = self._salt.get_top()
        compiled = self._compile(self._salt.top_matches(top))
        compiled.errors += self._salt.verify_tops(top)
        return compiled

    def top(self) -> list[str]:
        """Return the SLS files that the top file names for this minion, in their order."""
        matches: dict[str, list[str]] = self._salt.top_matches(self._salt.get_top())
        return matches.get("base", [])

    def states(self, *sls: str) -> Compiled:
        """Compile the named SLS files."""
        return self._compile({"base": list(sls)})

    def call(self, chunk: Chunk, chunks: list[Chunk]) -> dict[str, Any]:
        """Run one state of a run that has these chunks, and return its result."""
        result: dict[str, Any] = self._salt.state.call(chunk, chunks)
        return result

    @cached_property
    def _salt(self) -> Any:
        return salt.state.HighState(self.opts, pillar_override=self._given)

    def _compile(self, matches: dict[str, list[str]]) -> Compiled:
        compiler = self._salt
        compiler.building_highstate.clear()  # the state of an earlier compilation
        high, errors = compiler.render_highstate(matches)
        sls = {
            body["__sls__"]
            for body in high.values()
            if isinstance(body, dict) and "__sls__" in body
        }
        sls |= {name for names in matches.values() for name in names}
        if errors:
            return Compiled(sls, [], errors)
        high, extend_errors = compiler.state.reconcile_extend(high)
        errors = extend_errors + compiler.state.verify_high(high)
        high, requisite_errors = compiler.state.requisite_in(high)
        chunks, chunk_errors = compiler.state.compile_high_data(high)
        return Compiled(sls, chunks, errors + requisite_errors + chunk_errors)

    def render(self, chunk: Chunk) -> dict[str, Any]:
        """Render the template of a `file.managed` chunk with its context alone."""
        context = dict(chunk.get("defaults") or {}) | dict(chunk.get("context") or {})
        source = TREE / str(chunk["source"]).removeprefix("salt://")
        rendered: dict[str, Any] = salt.utils.templates.TEMPLATE_REGISTRY[chunk["template"]](
            str(source),
            to_str=True,
            context=context,
            opts=self.opts,
            saltenv="base",
            salt=self._salt.state.functions,
            grains={},
            pillar={},
        )
        return rendered


def missing_requisites(chunks: list[Chunk]) -> Iterator[str]:
    """Yield every requisite that refers to no state."""
    known = {(chunk["state"], chunk[key]) for chunk in chunks for key in ("__id__", "name")}
    known |= {("sls", chunk["__sls__"]) for chunk in chunks}
    known |= {("id", chunk["__id__"]) for chunk in chunks}
    for chunk in chunks:
        for kind in (
            "require",
            "require_any",
            "watch",
            "watch_any",
            "onchanges",
            "onchanges_any",
            "onfail",
            "prereq",
        ):
            for requisite in chunk.get(kind, []):
                pair = (
                    next(iter(requisite.items()))
                    if isinstance(requisite, dict)
                    else ("id", requisite)
                )
                if pair not in known:
                    where = f"{chunk['__sls__']}: {chunk['__id__']}: {kind}"
                    yield f"{where}: {pair[0]}: {pair[1]} does not exist"


def unknown_options(chunk: Chunk) -> Iterator[str]:
    """Yield every option that the state function does not take; Salt may ignore it silently."""
    function = _state_function(chunk["state"], chunk["fun"])
    if function is None:
        yield f"{chunk['__id__']}: there is no state {chunk['state']}.{chunk['fun']}"
        return
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        accepted = set(chunk) - SILENTLY_IGNORED
    else:
        accepted = set(parameters)
    for option in set(chunk) - accepted - OF_EVERY_STATE:
        if not option.startswith("__"):
            yield f"{chunk['__id__']}: {chunk['state']}.{chunk['fun']} does not take '{option}'"


# https://docs.saltproject.io/en/latest/ref/states/requisites.html and global_state_arguments.html
OF_EVERY_STATE = frozenset(salt.state.STATE_INTERNAL_KEYWORDS) | {
    "name",
    "state",
    "fun",
    "order",
    "names",
}
# Plausible, wrong, and swallowed by **kwargs.
SILENTLY_IGNORED = frozenset({"show_diff", "diff", "perms", "chmod", "owner"})


def _state_function(module: str, name: str) -> Any:
    own = (TREE / "_states" / f"{module}.py").is_file()
    loaded = load("_states", module) if own else _installed(module)
    aliases: dict[str, str] = getattr(loaded, "__func_alias__", {})
    original = next((real for real, alias in aliases.items() if alias == name), name)
    return getattr(loaded, original, None)


# State name -> module, where they differ.
VIRTUAL = {"pkg": "pkg", "salt": "saltmod", "http": "http"}


def _installed(module: str) -> Any:
    try:
        return importlib.import_module(f"salt.states.{VIRTUAL.get(module, module)}")
    except ModuleNotFoundError:
        return None
