# The account has everything that cloud.profiles.d names, and no machine yet.
# The operator's own minion applies this without a master: docs/runbooks.md.
include:
  - aws.network
  - aws.groups
  - aws.rules
  - aws.identity
