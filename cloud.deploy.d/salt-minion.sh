#!/bin/sh
# Installs Salt from a lockfile with hashes into /opt/salt, installs the minion's pre-seeded keys,
# starts the minion and checks that it runs. salt-cloud uploads the minion's configuration and keys
# beside this script, and by `file_map` the lockfile and the files of salt/minion; from salt-1 also
# apt's configuration with the proxy there, without which a machine has to have a way out itself. A
# second run completes an interrupted run.
set -eu

staged=$(dirname "$(readlink -f "$0")")
files=/opt/salt-deploy
lockfile=$files/requirements.txt
venv=/opt/salt
installed=$venv/requirements.txt
# Seconds, for cloud-init and for apt's locks. On an image of some months' age, the security updates
# of the first boot take minutes of a t2.micro, with a kernel among them.
timeout=900

# What salt/base manages later.
apt_proxy=/etc/apt/apt.conf.d/60-stack-proxy

say() { echo "salt-minion deploy: $*"; }
die() { say "$*" >&2; exit 1; }

for name in requirements.txt salt-minion.service stack.conf; do
    [ -s "$files/$name" ] || die "$files/$name is missing: set file_map in the cloud configuration"
done
[ -s "$staged/minion" ] || die "$staged/minion is missing: this script is run by salt-cloud"

# Before anything fetches packages, also by itself.
proxy=
if [ -s "$files/apt-proxy.conf" ]; then
    install -m 0644 "$files/apt-proxy.conf" "$apt_proxy"
    proxy=$(sed -n 's/^Acquire::https::Proxy "\(.*\)";$/\1/p' "$apt_proxy")
    [ -n "$proxy" ] || die "$files/apt-proxy.conf names no proxy for https"
else
    rm -f "$apt_proxy"
fi

# In the machine's first minutes cloud-init still runs, and apt's daily jobs may hold apt's locks.
if command -v cloud-init >/dev/null; then
    timeout "$timeout" cloud-init status --wait >/dev/null ||
        say "cloud-init has failed; continuing"
fi
# What apt and pip print of a 403 does not say that it may be the proxy's.
refused() {
    [ -n "$proxy" ] && printf %s "$1" | grep -q '403 *Forbidden' &&
        die "$2: the proxy $proxy refused a host: put it into proxy:hosts of pillar/base/proxy.sls," \
            "and run up again. Its name is in \`journalctl -u squid\` on salt-1, or here: $1"
    return 0
}
# `apt-get install` can wait for its locks, `apt-get update` cannot; and it ends well when it could
# fetch nothing, unless it is told otherwise.
apt_update() {
    deadline=$(($(date +%s) + timeout))
    until output=$(apt-get update -qq --error-on=any 2>&1); do
        refused "$output" "apt-get update"
        [ "$(date +%s)" -lt "$deadline" ] || die "apt-get update: $output"
        sleep 2
    done
}

if cmp -s "$lockfile" "$installed"; then
    say "the locked Salt is installed already"
else
    say "installing Salt from the lockfile"
    export DEBIAN_FRONTEND=noninteractive
    apt_update
    output=$(apt-get install -y -qq -o "DPkg::Lock::Timeout=$timeout" --no-install-recommends \
        python3-venv ca-certificates gnupg 2>&1) || {
        refused "$output" "apt-get install"
        die "apt-get install: $output"
    }
    rm -rf "$venv"
    python3 -m venv "$venv"
    # pip builds wheels here, because /tmp may be mounted noexec.
    mkdir -p "$venv/build"
    export TMPDIR="$venv/build"
    pip() {
        output=$(https_proxy=$proxy "$venv/bin/pip" install --quiet --no-cache-dir --no-deps \
            --require-hashes "$@" 2>&1) || {
            refused "$output" "pip install"
            die "pip install: $output"
        }
    }
    # Salt alone has no wheel. pip would fetch what builds it without version and hash, so it is
    # built with what the lockfile has.
    awk '/^[^ #]/ { is_salt = /^salt==/ } !is_salt' "$lockfile" > "$venv/build/wheels.txt"
    pip --only-binary :all: -r "$venv/build/wheels.txt"
    pip --no-build-isolation -r "$lockfile"
    unset TMPDIR
    rm -rf "$venv/build"
    cp "$lockfile" "$installed"
fi
for command in salt-call salt-minion; do
    ln -sf "$venv/bin/$command" "/usr/local/bin/$command"
done

install -d -m 0755 /etc/salt /etc/salt/minion.d
install -d -m 0700 /etc/salt/pki/minion
install -m 0600 "$staged/minion.pem" /etc/salt/pki/minion/minion.pem
install -m 0644 "$staged/minion.pub" /etc/salt/pki/minion/minion.pub
# Without this file, the minion checks the master's key against master_finger again.
rm -f /etc/salt/pki/minion/minion_master.pub
install -m 0644 "$staged/minion" /etc/salt/minion
if [ -s "$staged/grains" ]; then
    install -m 0644 "$staged/grains" /etc/salt/grains
fi

install -m 0644 "$files/salt-minion.service" /etc/systemd/system/salt-minion.service
install -m 0644 "$files/stack.conf" /etc/salt/minion.d/stack.conf
systemctl daemon-reload
systemctl enable --quiet salt-minion.service
systemctl restart salt-minion.service

rm -rf "$files"
systemctl is-active --quiet salt-minion.service ||
    die "salt-minion does not run; see: journalctl -u salt-minion"
say "salt-minion runs as {{ vm['name'] }}"
