#!/bin/sh
# Print what is known of the minion on the Salt master's own machine, without asking it: `stopped`,
# `starting`, `unasked` when no master runs that could ask it, and else `ask`. A master that runs
# first accepts this minion's key: only root on this machine can have changed it.
# Arguments: PKI MINION_ID
set -eu
pki=$1 id=$2
systemctl is-active --quiet salt-minion || { echo stopped; exit; }
case $(systemctl is-active salt-master || true) in
active) ;;
activating | deactivating | reloading) echo starting; exit ;;
*) echo unasked; exit ;;
esac
if ! cmp -s "$pki/minion/minion.pub" "$pki/master/minions/$id"; then
    install -D -m 0644 "$pki/minion/minion.pub" "$pki/master/minions/$id"
    rm -f "$pki/master/minions_pre/$id" "$pki/master/minions_denied/$id" \
        "$pki/master/minions_rejected/$id"
fi
echo ask
