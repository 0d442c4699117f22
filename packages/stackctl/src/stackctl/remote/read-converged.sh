#!/bin/sh
# Print the revision of the tree that was last rolled out to the end, and the digest of its pillar.
# Print nothing for what is missing.
# Arguments: FOLDER
cat "$1/converged" "$1/converged-pillar" 2>/dev/null || true
