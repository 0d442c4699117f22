"""`stackctl down`: removes the local stack with everything that it left on this host."""

from __future__ import annotations

import shutil

from stackctl.account import open_local
from stackctl.deployment import Deployment
from stackctl.errors import StackError
from stackctl.locks import Holder, on_this_host
from stackctl.progress import Progress


def require_local(deployment: Deployment) -> None:
    """Raise StackError unless the deployment may be removed by one command."""
    if not deployment.is_local:
        raise StackError(
            f"'{deployment.name}' is in an AWS account, and no local stack.",
        )


def down(
    deployment: Deployment, progress: Progress, *, keep_image: bool, wait: bool = False
) -> None:
    """Remove the local stack.

    Args:
        deployment: must be `local`; a real account's machines are destroyed by salt-cloud.
        progress: where to show the steps.
        keep_image: keep the machine image, so that the next `up` takes less time.
        wait: for another run that changes the deployment.

    Raises:
        StackError: the deployment is not `local`.
        BusyError: another run changes the deployment.
    """
    require_local(deployment)
    with on_this_host(deployment, Holder.this("down"), progress.note, wait=wait):
        open_local(deployment).destroy(progress, keep_image=keep_image)
        with progress.step("keys and secrets") as step:
            shutil.rmtree(deployment.pillar_dir, ignore_errors=True)
            shutil.rmtree(deployment.state_dir, ignore_errors=True)
            step.changed = True
