"""`stackctl up` and `stackctl down`: the same steps for a rehearsal on this host and for a real account."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import yaml

import localcloud.engine
import localcloud.image
import localcloud.packages
import localcloud.service
from localcloud.config import CloudConfig
from stackctl import launch, local, preflight, salt, site, ssh_rotation, tree
from stackctl.deployment import Deployment
from stackctl.errors import ConvergeError, NotUpError, StackError
from stackctl.initialise import initialise
from stackctl.machines import (
    Machine,
    aws_environment,
    ec2_client,
    list_machines,
    require_master,
)
from stackctl.progress import Progress
from stackctl.run import Log
from stackctl.ssh import Shell, is_active


@dataclass(frozen=True)
class Result:
    """What `up` came to: the site's address, and whether anything was changed."""

    url: str
    changed: bool


# -- preflight -------------------------------------------------------------------------------------


def check_host(deployment: Deployment) -> None:
    """Raise PreflightError for anything that would stop `up` later on; touches nothing."""
    preflight.check_programs()
    if not deployment.is_local:
        preflight.check_operators(deployment)
        preflight.check_account(deployment)
        return
    preflight.check_docker(localcloud.engine.reachable)
    if localcloud.service.status(local.cloud_folder(deployment)).running:
        return  # what follows was true when it was started, and its own memory and ports are in use now
    preflight.check_memory(preflight.available_memory())
    preflight.check_disk(deployment.state_dir)
    preflight.check_network()
    preflight.check_port(local.ADDRESS, local.api_port(), "STACK_API_PORT")
    if not (localcloud.engine.reachable() and local_machines_exist(deployment)):
        preflight.check_port(local.ADDRESS, local.https_port(), "STACK_HTTPS_PORT")


def local_machines_exist(deployment: Deployment) -> bool:
    """Return whether containers of this deployment are there, holding the published ports."""
    return bool(localcloud.service.machine_names(cloud_config(deployment)))


# -- the local cloud -------------------------------------------------------------------------------


def cloud_config(deployment: Deployment, image: str = "") -> CloudConfig:
    """Return what the local cloud of this deployment is."""
    return CloudConfig(
        name=local.cloud_name(deployment),
        state_dir=local.cloud_folder(deployment),
        port=local.api_port(),
        image=image,
        publish={local.EDGE: {443: (local.ADDRESS, local.https_port())}},
    )


def start_local_cloud(deployment: Deployment, progress: Progress) -> Mapping[str, str]:
    """Start engine, image and API as far as they are missing; return the environment that leads to them."""
    with progress.step("docker engine") as step:
        before = localcloud.engine.reachable()
        client = localcloud.engine.ensure(step.report)
        step.changed = not before
    with progress.step("machine image") as step:
        known = localcloud.image.tag(deployment.salt_lock)
        step.changed = not localcloud.image.exists(client, known)
        image = localcloud.image.ensure(client, step.report, deployment.salt_lock)
        step.detail = image
    with progress.step("EC2 API") as step:
        step.changed = not localcloud.service.status(local.cloud_folder(deployment)).running
        endpoint = localcloud.service.start(cloud_config(deployment, image), step.report)
        step.detail = endpoint.url
    return endpoint.environment


@contextmanager
def account(deployment: Deployment) -> Iterator[None]:
    """Have boto3 use the deployment's account, and no other: for `local`, the running local cloud.

    Raises:
        NotUpError: the local cloud does not run.
        PreflightError: the credentials are another account's.
    """
    if not deployment.is_local:
        preflight.check_account(deployment)
        yield
        return
    endpoint = localcloud.service.endpoint(local.cloud_folder(deployment))
    if endpoint is None:
        raise NotUpError("The local cloud does not run.", "Bring the stack up first: make up")
    with aws_environment(endpoint.environment):
        yield


# -- up --------------------------------------------------------------------------------------------


def up(
    deployment: Deployment,
    progress: Progress,
    log: Log,
    *,
    on_failure: launch.OnFailure = "keep",
    show: Callable[[launch.Result], None] = lambda _: None,
) -> Result:
    """Bring the whole stack up, or whatever of it is missing or not as the tree says.

    Args:
        deployment: which one.
        progress: where to show the steps.
        log: where to keep what they print.
        on_failure: see `launch.apply`.
        show: gets what became of the machines, when anything did.

    Raises:
        StackError: what failed, on which machine, and what to do. A later run goes on from there.
    """
    with progress.step("preflight") as step:
        check_host(deployment)
        if missing := preflight.missing_packages():
            localcloud.packages.install(missing, step.report)
            step.changed, step.detail = True, f"installed {', '.join(missing)}"
    variables = start_local_cloud(deployment, progress) if deployment.is_local else {}
    with progress.step("secrets") as step:
        if deployment.is_local:
            made = initialise(deployment, local.base_url())
            step.changed, step.detail = bool(made), f"made {len(made)}" if made else ""
        deployment.settings()
    with aws_environment(variables):
        with progress.step("AWS foundation") as step:
            outcome = salt.apply_locally(deployment, log, "aws")
            step.changed, step.detail = bool(outcome.changed), _count(len(outcome.changed))
        client = ec2_client(deployment)
        with Shell(deployment, client, log) as shell:
            with progress.step("SSH key") as step:
                step.changed = ssh_rotation.follow_store(deployment, client, shell)

            def launched(
                title: str, side: launch.Side, names: list[str], words: list[str]
            ) -> launch.Result:
                return launch.step(
                    progress, title, side, client, names, words, log, on_failure, show
                )

            name = deployment.master()
            operator = salt.Operator(deployment, shell, log)
            first = launched(name, operator, [name], launch.profile_words(deployment, name))
            machine = require_master(deployment, first.machines)
            anew = bool(first.changed)
            master, pushed = _start_master(
                deployment, shell, machine, progress, log, variables, anew=anew
            )
            others = launched(
                "machines", master, list(deployment.machines()), launch.map_words(deployment)
            )
            _converge(master, progress, pushed=pushed, predict=not others.changed)
        url = site.address(deployment)
        with progress.step("site") as step:
            site.require_healthy(deployment)
            step.detail = url
    return Result(url, progress.changes > 0)


def _count(changes: int) -> str:
    return f"{changes} changes" if changes != 1 else "1 change"


def _start_master(
    deployment: Deployment,
    shell: Shell,
    machine: Machine,
    progress: Progress,
    log: Log,
    variables: Mapping[str, str],
    *,
    anew: bool,
) -> tuple[salt.Master, bool]:
    """Have the Salt master run from this tree; return it, and whether the tree had to be pushed.

    Args:
        deployment: whose master.
        shell: the way in.
        machine: the master's.
        progress: where to show it.
        log: where to keep what commands print.
        variables: what leads to the local cloud; empty: the account is Amazon's.
        anew: its minion was installed just now, with a key that the master does not know yet.
    """
    with progress.step("Salt master") as step:
        step.report("pushing the tree")
        pushed, revision = tree.push(deployment, shell, machine, log)
        if variables:
            files = local.credentials_files(deployment, variables)
            shell.script(
                machine,
                ["unpack-private", "/root/.aws"],
                what=f"pointing {machine.name} at the local cloud",
                stdin=tree.files_archive(files),
            )
        changed = 0
        if pushed or anew or not is_active(shell, machine, "salt-master"):
            step.report("applying its state")
            changed = _bootstrap_master(deployment, shell, machine, log)
        step.changed = pushed or bool(changed)
        step.detail = f"revision {revision[:12]}{'-dirty' if 'dirty' in revision else ''}"
        step.warning = tree.untracked_warning(deployment, log)
    return salt.Master(shell, machine, log), pushed


def _bootstrap_master(deployment: Deployment, shell: Shell, machine: Machine, log: Log) -> int:
    """Apply the master's own state without a master, from the tree that was just pushed; return the changes."""
    config = {
        "id": machine.name,
        "file_client": "local",
        "file_roots": {"base": [f"{tree.HOME}/current/salt"]},
        "pillar_roots": {
            "base": [f"{tree.HOME}/pillar/{deployment.name}", f"{tree.HOME}/current/pillar/base"]
        },
        "gpg_keydir": tree.GPG_KEYS,
        "module_dirs": [
            f"{tree.HOME}/current/salt"
        ],  # `state.apply NAME` syncs no modules by itself
        "hash_type": "sha256",
    }
    text = yaml.safe_dump(config)
    output = shell.script(
        machine,
        ["bootstrap-master", f"{tree.HOME}/bootstrap", "/opt/salt/bin/salt-call", "master"],
        stdin=text,
        what=f"making {machine.name} the Salt master",
        accept=(0, 1, 2),
    )
    outcome = salt.read_states(machine.name, salt.parse_documents(output).get("local"))
    salt.raise_on_failure([outcome], log)
    return len(outcome.changed)


def _converge(master: salt.Master, progress: Progress, *, pushed: bool, predict: bool) -> None:
    with progress.step("states") as step:
        if predict:
            step.report("comparing every machine with the tree")
            # A state may not be able to predict before an earlier one has really run: the orchestration judges.
            with contextlib.suppress(ConvergeError):
                if pushed:
                    master.sync()
                if not any(one.changed for one in master.predict()):
                    step.detail = "0 changes"
                    return
        step.report("orchestration deploy")
        runs = master.orchestrate("orch.deploy", step.report)
        changes = sum(len(one.changed) for one in runs)
        step.changed, step.detail = changes > 0, _count(changes)


def plan(deployment: Deployment) -> list[str]:
    """Check this host and return what `up` would do, in words; touches nothing.

    Raises:
        PreflightError: as `up` would.
    """
    check_host(deployment)
    steps = [
        f"deployment {deployment.name}: {', '.join(deployment.machines())} in {deployment.region()}"
    ]
    if deployment.is_local:
        if not localcloud.engine.reachable():
            steps.append("install docker.io if it is absent, and start the Docker engine")
        elif not localcloud.image.exists(
            localcloud.engine.connect(), localcloud.image.tag(deployment.salt_lock)
        ):
            steps.append("build the machine image with mmdebstrap, installing that if it is absent")
        if not localcloud.service.status(local.cloud_folder(deployment)).running:
            steps.append(f"start the local EC2 API on port {local.api_port()}")
            return steps
    with account(deployment):
        existing = list_machines(ec2_client(deployment))
        missing = [name for name in deployment.machines() if name not in existing]
        steps += [f"launch {name}" for name in missing]
        if not missing:
            steps.append("compare every machine with the tree, and converge what differs")
    return steps


# -- down ------------------------------------------------------------------------------------------


def require_local(deployment: Deployment) -> None:
    """Raise StackError unless the deployment may be taken away by one command."""
    if not deployment.is_local:
        raise StackError(
            f"stackctl down takes only the deployment 'local' away, not '{deployment.name}'.",
            "Destroy real machines by name, on the master: salt-cloud --destroy NAME (docs/runbooks.md).",
        )


def down(deployment: Deployment, progress: Progress, *, keep_image: bool) -> None:
    """Take the local stack away with everything it left on this host.

    Args:
        deployment: must be the local one; a real account's machines are destroyed by salt-cloud, knowingly.
        progress: where to show it.
        keep_image: leave the machine image, so that the next `up` is quick.

    Raises:
        StackError: the deployment is not the local one.
    """
    require_local(deployment)
    with progress.step("local cloud") as step:
        localcloud.service.destroy(cloud_config(deployment), step.report)
        step.changed = True
    if not keep_image and localcloud.engine.reachable():
        with progress.step("machine image") as step:
            step.changed = localcloud.image.remove(localcloud.engine.connect())
    with progress.step("docker engine") as step:
        step.changed = localcloud.engine.stop_if_ours()
        step.detail = "stopped" if step.changed else "left as it was"
    with progress.step("keys and secrets") as step:
        shutil.rmtree(deployment.pillar_dir, ignore_errors=True)
        shutil.rmtree(deployment.state_dir, ignore_errors=True)
        step.changed = True
