#!/bin/sh
# Apply a state without a Salt master, with the minion configuration from standard input.
# Print the result as JSON.
# Arguments: FOLDER SALT_CALL STATE
set -eu
install -d "$1"
cat >"$1/minion"
exec "$2" --local --config-dir "$1" --out=json state.apply "$3"
