#!/bin/sh
# Replace the file with the numbers of machines by the one from standard input.
# Arguments: FILE
set -eu
cat >"$1.new"
mv "$1.new" "$1"
