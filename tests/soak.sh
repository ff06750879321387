#!/usr/bin/env bash
# Long forms of what `make test` tries once: each scenario goes on for MINUTES and ends
# with a line that says how it went; the first failure ends the whole. Needs root, and
# what `make test` installs.
# Usage: tests/soak.sh MINUTES [SCENARIO...]
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=$1
shift
[ "$#" -gt 0 ] || set -- kills disks clocks mounts sizes systemd neighbours
log=$(mktemp)
trap 'rm -f "$log"' EXIT

run() {
    "$@" >"$log" 2>&1 || {
        tail -100 "$log"
        echo "FAILED: $*"
        exit 1
    }
}

# Kills workers under load, at each point where it hurts.
kills() {
    SOAK_MINUTES=$minutes run cargo test --release --test survival -- --ignored --nocapture soak
    grep '^kills ' "$log"
}

# repeated NAME FILTER...: these tests of the whole daemon, again and again.
repeated() {
    local name=$1 rounds=0 end=$((SECONDS + minutes * 60))
    shift
    until [ "$SECONDS" -ge "$end" ] && [ "$rounds" -gt 0 ]; do
        run cargo test --release --test e2e -- "$@"
        grep -q ' [1-9][0-9]* passed; 0 failed' "$log"
        rounds=$((rounds + 1))
    done
    echo "$name: $rounds rounds of $(sed -n 's/.*ok\. \([0-9]*\) passed.*/\1/p' "$log") tests"
}

# Vault and log on disks that are full, read-only, failing or gone, while secrets are read.
disks() { repeated disks disk_vault:: disk_log:: lost_log::; }

# The wall clock jumps, while the daemon runs and while it does not.
clocks() { repeated clocks clock::; }

# The mount is taken away, hidden, aborted and covered.
mounts() { repeated mounts readiness::; }

# Programs that trust a file's size read it 10,000 times each while it changes: by path and
# through a bind mount, with and without the page cache.
sizes() {
    run cargo test --release --test e2e -- --ignored --nocapture --test-threads=1 sizes::soak
    grep -q ' [1-9][0-9]* passed; 0 failed' "$log"
    echo "sizes: 10,000 reads of each reader, $(grep -c ' rewrites$' "$log") ways"
}

# Everything of ours is restarted, killed and stopped while PID 1 looks into the mount.
systemd() {
    local rounds=25
    SYSTEMD_ROUNDS=$rounds run cargo test --release --test systemd pid_1
    grep -q ' [1-9][0-9]* passed; 0 failed' "$log"
    echo "systemd: $rounds rounds"
}

# Eight users list, ask, open and connect as much as they can: what a reader and a revocation
# notice of it.
neighbours() {
    SOAK_MINUTES=$minutes run cargo test --release --test e2e -- --ignored --nocapture neighbours::soak
    grep '^neighbours: ' "$log"
}

for scenario; do
    case $scenario in
        kills | disks | clocks | mounts | sizes | systemd | neighbours) "$scenario" ;;
        *)
            echo "soak: there is no scenario $scenario" >&2
            exit 2
            ;;
    esac
done
