"""The local cloud below the deployment `local`: the only module that imports `localcloud`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import localcloud.engine
import localcloud.firewall
import localcloud.image
import localcloud.neighbours
import localcloud.service
from localcloud.config import CloudConfig, Endpoint
from localcloud.errors import LocalCloudError
from localcloud.neighbours import Neighbour
from stackctl import local, preflight
from stackctl.account import aws_config
from stackctl.deployment import Deployment
from stackctl.errors import LocalCloudFailed, NotUpError, PreflightError
from stackctl.progress import Progress


@contextmanager
def _stack_errors() -> Iterator[None]:
    """Raise the local cloud's errors as stackctl's own, with the same text."""
    try:
        yield
    except LocalCloudError as error:
        raise LocalCloudFailed(str(error)) from error


class LocalCloud:
    """The account of the deployment `local`; see `stackctl.account.Account`."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._folder = local.cloud_folder(deployment)

    def config(self, image: str = "") -> CloudConfig:
        """Return the local cloud's configuration.

        Args:
            image: the tag of the machines' image, where machines are to be launched.
        """
        deployment = self._deployment
        port = deployment.base_pillar("endpoints")["https"]["port"]
        address = deployment.in_account(deployment.base_pillar("aws")["edge_address"]["name"])
        return CloudConfig(
            name=local.cloud_name(deployment),
            state_dir=self._folder,
            port=local.api_port(),
            image=image,
            publish={address: {port: (local.ADDRESS, local.https_port())}},
        )

    @_stack_errors()
    def check(self) -> None:
        """Raise PreflightError for anything that would stop `up` later; changes nothing."""
        preflight.check_docker(localcloud.engine.reachable)
        machines = len(self._deployment.machines())
        if self.runs():
            # The checks below passed when it was started. Now it uses the ports, and its machines
            # their memory; those that a larger map adds need more.
            if localcloud.engine.reachable():
                machines -= len(localcloud.service.machine_names(self.config()))
                if machines > 0:
                    preflight.check_memory(preflight.available_memory(), machines)
            return
        preflight.check_memory(preflight.available_memory(), machines)
        preflight.check_disk(self._deployment.state_dir)
        preflight.check_network()
        self._check_addresses()
        preflight.check_port(local.ADDRESS, local.api_port(), "STACK_API_PORT")
        # Machines of earlier versions hold the port. Now the kernel leads from it, and nobody does.
        machines_exist = localcloud.engine.reachable() and localcloud.service.machine_names(
            self.config()
        )
        if not machines_exist:
            preflight.check_port(local.ADDRESS, local.https_port(), "STACK_HTTPS_PORT")

    def _check_addresses(self) -> None:
        """Raise PreflightError when another network in Docker has addresses of this deployment."""
        if not localcloud.engine.reachable():
            return
        name, vpc = local.cloud_name(self._deployment), self._deployment.base_pillar("aws")["vpc"]
        client = localcloud.engine.connect()
        if others := localcloud.neighbours.overlapping(client, vpc["cidr"], name):
            raise PreflightError(
                f"Docker's network {others[0].network} has {others[0].cidr},"
                f" which is in {vpc['cidr']}, the network of this deployment.",
                _way_out(others[0]),
            )

    @_stack_errors()
    def runs(self) -> bool:
        """Return whether its API runs."""
        return localcloud.service.status(self._folder).running

    @_stack_errors()
    def pending(self) -> list[str]:
        """Return the steps that `start` would take; changes nothing."""
        steps = []
        if not localcloud.engine.reachable():
            steps.append("install docker.io if it is absent, and start the Docker engine")
        elif not localcloud.image.exists(
            localcloud.engine.connect(), localcloud.image.tag(self._deployment.salt_lock)
        ):
            steps.append("build the machine image with mmdebstrap, installing that if it is absent")
        if not localcloud.firewall.installed():
            steps.append("install nftables, for the rules of the security groups")
        if not self.runs():
            steps.append(f"start the local EC2 API on port {local.api_port()}")
        return steps

    @_stack_errors()
    def start(self, progress: Progress) -> Mapping[str, str]:
        """Start the engine, the image and the API where they are missing.

        Returns:
            The environment that leads boto3 to the API.
        """
        with progress.step("docker engine") as step:
            before = localcloud.engine.reachable()
            client = localcloud.engine.ensure(step.report)
            step.changed = not before
            if not before:  # an engine that does not run tells nothing of its networks
                self._check_addresses()
        with progress.step("machine image") as step:
            known = localcloud.image.tag(self._deployment.salt_lock)
            step.changed = not localcloud.image.exists(client, known)
            image = localcloud.image.ensure(client, step.report, self._deployment.salt_lock)
            step.detail = image
        with progress.step("EC2 API") as step:
            step.changed = not self.runs()
            endpoint = localcloud.service.start(self.config(image), step.report)
            step.detail = endpoint.url
        return endpoint.environment

    @_stack_errors()
    def environment(self) -> Mapping[str, str]:
        """Return the environment that leads boto3 to the API.

        Raises:
            NotUpError: the API does not run.
        """
        return self._endpoint().environment

    @_stack_errors()
    def settings(self) -> Mapping[str, object]:
        """Return where S3 and the EC2 API are.

        Raises:
            NotUpError: the API does not run.
        """
        endpoint = self._endpoint()
        host, port = endpoint.s3
        certificate = endpoint.s3_certificate.read_text()
        s3 = {"host": host, "port": port, "certificate": certificate}
        return {"s3": s3, "ec2_endpoint": endpoint.url}

    def _endpoint(self) -> Endpoint:
        endpoint = localcloud.service.endpoint(self._folder)
        if endpoint is None:
            raise NotUpError("The local cloud does not run.", "Bring the stack up first: make up")
        return endpoint

    def master_files(self, environment: Mapping[str, str]) -> Mapping[str, str]:
        """Return the files below ~/.aws that lead the master to this account.

        Its credentials are those of its instance role, as on AWS. Earlier versions put the owner's
        key into `credentials`.
        """
        url = environment["AWS_ENDPOINT_URL"]
        config = {"region": self._deployment.region(), "endpoint_url": url}
        return {
            "config": aws_config(config),
            "credentials": "# This machine has the credentials of its instance role.\n",
        }

    @_stack_errors()
    def destroy(self, progress: Progress, *, keep_image: bool) -> None:
        """Remove the machines, the API and the networks, and the image unless it is kept.

        Docker's engine is stopped if `start` has started it.
        """
        with progress.step("local cloud") as step:
            localcloud.service.destroy(self.config(), step.report)
            step.changed = True
        if not keep_image and localcloud.engine.reachable():
            with progress.step("machine image") as step:
                step.changed = localcloud.image.remove(localcloud.engine.connect())
        with progress.step("docker engine") as step:
            step.changed = localcloud.engine.stop_if_ours()
            step.detail = "stopped" if step.changed else "left as it was"


def _way_out(neighbour: Neighbour) -> str:
    """Return how an operator frees the addresses that another network has."""
    if not neighbour.cloud:
        return f"Remove that network if nothing uses it: docker network rm {neighbour.network}"
    if neighbour.state_dir and neighbour.state_dir.exists():
        checkout = local.checkout_of(neighbour.state_dir)
        return f"One local stack runs on a host. Remove the other one: make -C {checkout} down"
    return (
        "It is another local stack's. Remove that with `make down` in its checkout, or, if that is"
        f" gone: .venv/bin/python -m localcloud remove {neighbour.cloud}"
    )
