#!/bin/sh
# Note that the tree which the master serves is rolled out.
# Arguments: FOLDER
set -eu
cmp -s "$1/current/REVISION" "$1/converged" || cp "$1/current/REVISION" "$1/converged"
