#!/usr/bin/env bash
# Every check there is, from a clean clone. Nothing is skipped: what is missing
# is installed, and what cannot be had fails the run.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env "$@"; fi
}

# Mount points of this run's tests: all that they make is in a directory of this run's.
# Other daemons, and other runs, may come and go meanwhile.
mount_points() {
    cut -d' ' -f5 /proc/self/mountinfo | grep "^$TMPDIR/" | sort -u || true
}

start_docker() {
    if as_root docker info >/dev/null 2>&1; then return; fi
    local log=/tmp/jarvis-test-dockerd.log
    as_root bash -c "setsid dockerd --storage-driver=overlay2 >'$log' 2>&1 & echo \$! >'$1/dockerd.pid'"
    local tries=60
    until as_root docker info >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" = 0 ]; then
            tail -20 "$log" >&2
            echo 'the Docker engine does not start' >&2
            exit 1
        fi
        sleep 0.5
    done
}

scratch=$(mktemp -d)
# Root's, and like /tmp: a daemon trusts no directory of another user.
TMPDIR=$(as_root mktemp -d /tmp/jarvis-test-XXXXXX)
as_root chmod 1777 "$TMPDIR"
export TMPDIR
cleanup() {
    if [ -f "$scratch/dockerd.pid" ]; then as_root kill "$(cat "$scratch/dockerd.pid")" || true; fi
    rm -rf "$scratch"
    # What is mounted there still is not entered.
    as_root timeout -s KILL 30 rm -rf --one-file-system "$TMPDIR" || true
}
trap cleanup EXIT

if [ "$(id -u)" != 0 ]; then
    echo 'tests of mounts and other users need root: using sudo'
    export "CARGO_TARGET_$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')_RUNNER=sudo --preserve-env"
fi

step 'set-up'
as_root tests/setup.sh

step 'lints'
make --no-print-directory lint
command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny
# The advisory database is not checked here: it needs a network.
cargo deny --log-level error check licenses bans sources

step 'tests'
start_docker "$scratch"
cargo test --workspace

step 'left-overs'
left=$(mount_points)
if [ -n "$left" ]; then
    printf 'mounts were left behind:\n%s\n' "$left" >&2
    exit 1
fi
echo 'none'
