#!/bin/sh
# Print the revision of the tree that the master serves, and the digest of the deployment's pillar.
# Print nothing for what is missing.
# Arguments: FOLDER DEPLOYMENT
cat "$1/current/REVISION" "$1/pillar/$2.sha256" 2>/dev/null || true
