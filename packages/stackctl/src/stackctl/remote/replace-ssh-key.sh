#!/bin/sh
# Replace one public key by another in a file of authorized keys; all other keys stay.
# Arguments: FILE OLD NEW (keys as `type body`)
set -eu
file=$1 old=$2 new=$3
{
    grep -vF -e "${old#* }" -e "${new#* }" "$file" || true
    echo "$new"
} >"$file.new"
chown --reference="$file" "$file.new"
chmod --reference="$file" "$file.new"
mv "$file.new" "$file"
