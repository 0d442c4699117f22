# Managed by salt/base: a login that nobody uses for half an hour ends, and dumps no memory.
# shellcheck shell=dash
ulimit -c 0
TMOUT=1800
readonly TMOUT
export TMOUT
