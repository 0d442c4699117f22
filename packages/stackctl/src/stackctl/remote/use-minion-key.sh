#!/bin/sh
# Have a Salt minion use the key that new-minion-key has made, and no other.
# Arguments: FOLDER
set -eu
mv "$1/minion.pub.next" "$1/minion.pub"
mv "$1/minion.pem.next" "$1/minion.pem"
systemctl restart salt-minion
