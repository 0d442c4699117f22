#!/bin/sh
# Import the private GPG key from standard input into a key ring that only root can read.
# Arguments: FOLDER
set -eu
install -d -m 0700 "$1"
gpg --homedir "$1" --batch --quiet --import
