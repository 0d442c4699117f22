#!/bin/sh
# Run a command that holds a lock until it ends, whatever becomes of the connection: what it writes
# is passed on, and thrown away once nobody reads it. Python programs end at a broken pipe.
# Print `locked`, and who holds it, with exit code 75, when another holds it for SECONDS.
# Arguments: FILE SECONDS HOLDER COMMAND [ARGUMENT...]
set -eu
file=$1 seconds=$2 holder=$3
shift 3
exec 9>>"$file"
flock --timeout "$seconds" 9 || { echo "locked $(cat "$file")"; exit 75; }
echo "$holder" >"$file"
pass_on() {
  cat || cat >/dev/null
}
run() {
  code=0
  "$@" 4>&- 5>&- || code=$?
  echo "$code" >&4
}
exec 5>&1
# 3 and 5: standard output, of the command and of this script; 4: the exit code.
exit "$({ { run "$@" 2>&1 >&3 3>&- | pass_on >&2 3>&-; } 3>&1 | pass_on >&5; } 4>&1)"
