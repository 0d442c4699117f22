#!/bin/sh
# Unpack a tree from standard input (tar) into FOLDER/REVISION, and let FOLDER/current point to it.
# `current` changes only when the tree is complete. The tree before it is kept, all others go.
# Arguments: FOLDER REVISION
set -eu
folder=$1 revision=$2
tree=$folder/$revision
rm -rf "$tree.new"
install -d -m 0755 "$folder" "$tree.new"
tar -x -C "$tree.new"
echo "$revision" >"$tree.new/REVISION"
rm -rf "$tree"
mv "$tree.new" "$tree"
before=$(readlink "$folder/current" || true)
ln -sfn "$tree" "$folder/current"
for file in "$folder"/*/REVISION; do
    found=$(dirname "$file")
    case $found in
    "$tree" | "$before" | "$folder/current") ;;
    *) rm -rf "$found" ;;
    esac
done
