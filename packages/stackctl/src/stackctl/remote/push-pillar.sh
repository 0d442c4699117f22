#!/bin/sh
# Replace the pillar of a deployment by the one from standard input (tar), and note its digest.
# Arguments: FOLDER DEPLOYMENT DIGEST
set -eu
pillar=$1/pillar/$2
rm -rf "$pillar.new"
install -d -m 0700 "$1/pillar" "$pillar.new"
tar -x -C "$pillar.new"
rm -rf "$pillar"
mv "$pillar.new" "$pillar"
echo "$3" >"$pillar.sha256"
