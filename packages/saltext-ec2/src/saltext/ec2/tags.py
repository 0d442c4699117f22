"""The tags that the driver itself sets on what it creates in EC2."""

DEPLOY_TAG = "salt-cloud:deploy"
"""On an instance: `pending` from its launch until its minion is installed, then `done`."""

HOST_KEY_TAG = "salt-cloud:host-key"
"""On an instance: one of the SSH host keys that its console has shown, as `type key`. EC2 forgets a
console; this tells other hosts, such as a new master, what the first one has read there."""

RELEASE_TAG = "salt-cloud:release-with"
"""On an elastic address: the id of the instance with which the driver releases it."""
