#!/bin/sh
# Managed by salt/base. Units run this when they start or reload: it writes what the unit loads, a
# line for each path. salt/_modules/service_config.py compares that with the files.
# Usage: record-loaded RECORD PATH...
set -eu
umask 077
records=${RECORDS:-/run/stack/loaded}
record=$records/$1
shift
mkdir -p "$records"
rm -f "$record"
for path; do
    if [ -L "$path" ]; then
        content="link to $(readlink "$path")"
    elif [ -e "$path" ]; then
        content=$(sha256sum <"$path")
        content=${content%% *}
    else
        content=absent
    fi
    printf '%s\t%s\n' "$path" "$content"
done >"$record.new"
mv "$record.new" "$record"
