#!/bin/sh
# Make a new key of a Salt minion beside the one that it uses, and print its public half.
# Arguments: FOLDER
set -eu
umask 077
openssl genpkey -quiet -algorithm RSA -pkeyopt rsa_keygen_bits:4096 -out "$1/minion.pem.next"
openssl pkey -in "$1/minion.pem.next" -pubout -out "$1/minion.pub.next"
chmod 0400 "$1/minion.pem.next"
cat "$1/minion.pub.next"
