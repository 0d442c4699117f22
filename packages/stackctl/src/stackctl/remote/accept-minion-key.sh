#!/bin/sh
# Have the Salt master accept the key on standard input as a minion's, and no other.
# Arguments: PKI MINION_ID
set -eu
pki=$1 id=$2
umask 022
# A dot at the beginning is no minion id, so that the master never takes a half of a key for one.
cat >"$pki/minions/.$id.next"
openssl pkey -pubin -in "$pki/minions/.$id.next" -noout
mv "$pki/minions/.$id.next" "$pki/minions/$id"
rm -f "$pki/minions_pre/$id" "$pki/minions_denied/$id" "$pki/minions_rejected/$id"
