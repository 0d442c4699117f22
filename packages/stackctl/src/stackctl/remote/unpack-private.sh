#!/bin/sh
# Unpack files from standard input (tar) into a folder that only its owner can read.
# Other files in the folder stay.
# Arguments: FOLDER
set -eu
umask 077
mkdir -p "$1"
tar -x -C "$1"
