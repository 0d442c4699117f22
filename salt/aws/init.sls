# The account holds everything that cloud.profiles.d names, and no machine yet.
# Applied from the operator's side, without a master: docs/runbooks.md.
include:
  - aws.network
  - aws.groups
  - aws.rules
  - aws.identity
