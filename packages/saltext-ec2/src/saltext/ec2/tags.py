"""The tags that the driver itself sets on what it creates in EC2."""

DEPLOY_TAG = "salt-cloud:deploy"
"""On an instance: `pending` from its launch until its minion is installed, then `done`."""

RELEASE_TAG = "salt-cloud:release-with"
"""On an elastic address: the id of the instance with which the driver releases it."""
