#!/bin/sh
# Give the Salt master another key, start it with that, and print the public half. The key is made
# beside the old one, so that the master is away only for its restart.
# Arguments: PKI MINION_ID
set -eu
umask 077
pki=$1 id=$2
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out "$pki/$id.pem.next"
openssl pkey -in "$pki/$id.pem.next" -pubout -out "$pki/$id.pub.next"
chmod 0400 "$pki/$id.pem.next"
chmod 0644 "$pki/$id.pub.next"
mv "$pki/$id.pub.next" "$pki/$id.pub"
mv "$pki/$id.pem.next" "$pki/$id.pem"
systemctl restart salt-master
cat "$pki/$id.pub"
