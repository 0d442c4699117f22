#!/bin/sh
# Take a lock for as long as standard input brings something every minute, and print `held`.
# Print `locked`, and who holds it, with exit code 75, when another holds it.
# Arguments: FILE HOLDER
set -eu
file=$1 holder=$2
exec 9>>"$file"
flock --timeout 2 9 || { echo "locked $(cat "$file")"; exit 75; }
echo "$holder" >"$file"
echo held
while timeout 60 dd bs=1 count=1 2>/dev/null | grep -q .; do :; done
