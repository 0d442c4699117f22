"""What a machine is sent: one archive with the deploy script and everything it needs.

The files have the names and places that Salt's own `salt.utils.cloud.bootstrap` gives them, which
deploy scripts know: `minion`, `minion.pem`, `minion.pub`, `grains` … beside the script.
"""

from __future__ import annotations

import io
import shlex
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import salt.config
import salt.utils.cloud

from saltext.ec2.errors import ConfigurationError


def build(vm_: Mapping[str, Any], opts: Mapping[str, Any]) -> bytes:
    """Return a tar archive of the deploy script, its files, and `run`, which runs the script.

    Args:
        vm_: the machine as Salt's core hands it to `create`, with the keys that the core made.
        opts: Salt's configuration.

    Raises:
        ConfigurationError: a script or a file of `file_map` does not exist.
    """

    def setting(name: str, default: Any = None) -> Any:
        return salt.config.get_cloud_config_value(name, vm_, opts, default=default)

    file_map = setting("file_map") or {}
    files = _files(vm_, opts, setting)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            data = content.encode()
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        for number, source in enumerate(file_map):
            tar.add(_local(source, "file_map"), f"files/{number}", filter=_owned_by_root)
    return buffer.getvalue()


def _files(
    vm_: Mapping[str, Any], opts: Mapping[str, Any], setting: Callable[..., Any]
) -> dict[str, tuple[str, int]]:
    """Return the content and mode of each file, by name."""
    minion = salt.utils.cloud.minion_config(opts, vm_)
    script_name = setting("script") or "bootstrap-salt"
    script = _rendered(str(script_name), vm_, opts, minion)

    files: dict[str, tuple[str, int]] = {
        "deploy.sh": (script, 0o700),
        "minion.pem": (vm_.get("priv_key") or "", 0o600),
        "minion.pub": (vm_.get("pub_key") or "", 0o644),
    }
    if grains := minion.pop("grains", None):
        files["grains"] = (salt.utils.cloud.salt_config_to_yaml(grains), 0o600)
    if opts.get("enable_cloud_grains", True):
        minion["grains"] = {
            "salt-cloud": {key: vm_.get(key) for key in ("driver", "provider", "profile")}
        }
    files["minion"] = (salt.utils.cloud.salt_config_to_yaml(minion), 0o600)
    if setting("make_master") is True:
        files["master"] = (
            salt.utils.cloud.salt_config_to_yaml(salt.utils.cloud.master_config(opts, vm_)),
            0o600,
        )
        files["master.pem"] = (vm_.get("master_pem") or "", 0o600)
        files["master.pub"] = (vm_.get("master_pub") or "", 0o644)
    for minion_id, key in (vm_.get("preseed_minion_keys") or {}).items():
        files[f"preseed-minion-keys/{minion_id}"] = (key, 0o600)
    if path := setting("master_sign_pub_file"):
        files["master_sign.pub"] = (_local(path, "master_sign_pub_file").read_text(), 0o644)

    destinations = list((setting("file_map") or {}).values())
    files["run"] = (_runner(setting, script, destinations, opts), 0o700)
    return files


def _rendered(
    name: str, vm_: Mapping[str, Any], opts: Mapping[str, Any], minion: Mapping[str, Any]
) -> str:
    """Return the deploy script, which may be a template."""
    folders = ["", *opts.get("deploy_scripts_search_path", ())]
    paths = [Path(folder, name + end) for folder in folders for end in ("", ".sh")]
    path = next((path for path in paths if path.is_file()), name)
    try:
        script = salt.utils.cloud.os_script(name, vm_, opts, minion)
    except Exception as error:
        raise ConfigurationError(f"script {path} cannot be rendered: {error}") from error
    if not script:
        raise ConfigurationError(f"there is no deploy script {name} in deploy_scripts_search_path")
    return str(script)


def _local(path: str, option: str) -> Path:
    if not Path(path).exists():
        raise ConfigurationError(f"{option}: {path} does not exist on this machine")
    return Path(path)


def _owned_by_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


def _runner(
    setting: Callable[..., Any], script: str, destinations: Sequence[str], opts: Mapping[str, Any]
) -> str:
    """Return the script that copies the files, then runs all commands and the deploy script."""
    lines = ["#!/bin/sh", "set -eu", 'here=$(cd "$(dirname "$0")" && pwd)']
    for number, destination in enumerate(destinations):
        lines += [
            f"mkdir -p {shlex.quote(str(Path(destination).parent))}",
            f'cp -rT "$here/files/{number}" {shlex.quote(destination)}',
        ]
    lines += [f"sh -c {shlex.quote(command)}" for command in setting("preflight_cmds") or []]
    environment = setting("script_env") or {}
    if not isinstance(environment, Mapping):
        raise ConfigurationError(f"script_env must be a mapping, not {environment!r}")
    lines += [f"export {key}={shlex.quote(str(value))}" for key, value in environment.items()]
    command = '"$here/deploy.sh"'
    if "bootstrap-salt" in script:  # as Salt's core recognizes its own script
        flags = {
            "-F": setting("force_minion_config", default=False),
            "-S": setting("make_syndic", default=False),
            "-M": setting("make_master") is True,
            "-N": setting("make_minion", default=True) is False,
            "-K": setting("keep_tmp", default=False),
        }
        command += ' -c "$here"' + "".join(f" {flag}" for flag, wanted in flags.items() if wanted)
        if setting("preseed_minion_keys"):
            command += ' -k "$here/preseed-minion-keys"'
    lines.append(f"{command} {setting('script_args') or ''}".rstrip())
    inline = setting("inline_script") or []
    commands = [inline] if isinstance(inline, str) else inline
    lines += [f"sh -c {shlex.quote(command)}" for command in commands]
    # With --parallel, the core runs the main file's start_action from the master.
    action = setting("start_action")
    if action and not (opts.get("parallel") and action == opts.get("start_action")):
        lines.append(f"salt-call {action}")
    return "\n".join(lines) + "\n"
