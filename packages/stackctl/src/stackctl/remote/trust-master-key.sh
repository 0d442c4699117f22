#!/bin/sh
# Have a Salt minion trust the master's key on standard input, and no other.
# Arguments: PROGRAMS FOLDER
set -eu
programs=$1 pki=$2
umask 022
cat >"$pki/minion_master.pub.next"
openssl pkey -pubin -in "$pki/minion_master.pub.next" -noout
finger=$("$programs/python" -c '
import sys
from salt.utils.crypt import pem_finger
print(pem_finger(sys.argv[1], sum_type="sha256"))' "$pki/minion_master.pub.next")
# For the day on which the file is gone: salt-cloud wrote this when the machine was launched.
sed -i "s/^master_finger:.*/master_finger: '$finger'/" /etc/salt/minion
mv "$pki/minion_master.pub.next" "$pki/minion_master.pub"
systemctl restart salt-minion
