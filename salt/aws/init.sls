# The account has everything that cloud.profiles.d names, but for the machines themselves.
# The operator's own minion applies this without a master: docs/runbooks.md.
include:
  - aws.names
  - aws.network
  - aws.groups
  - aws.rules
  - aws.machines
  - aws.identity
  - aws.address
  - aws.bucket
  - aws.endpoint
