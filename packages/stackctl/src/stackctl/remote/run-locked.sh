#!/bin/sh
# Run a command that holds a lock until it ends, whatever becomes of the connection.
# Print `locked`, and who holds it, with exit code 75, when another holds it for SECONDS.
# Arguments: FILE SECONDS HOLDER COMMAND [ARGUMENT...]
set -eu
file=$1 seconds=$2 holder=$3
shift 3
exec 9>>"$file"
flock --timeout "$seconds" 9 || { echo "locked $(cat "$file")"; exit 75; }
echo "$holder" >"$file"
exec "$@"
