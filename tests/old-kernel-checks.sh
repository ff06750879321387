#!/bin/bash
# Runs in the machine that old-kernel.sh boots: the suites, a line for each.
set -u

# An emulator takes its time: the tests wait the longer, the daemon's own limits are as ever.
export JARVIS_TEST_PATIENCE=6
export SOAK_MINUTES=$KILLS_MINUTES
# One after another: two processors are emulated.
export RUST_TEST_THREADS=1
log=/run/check.log
failed=0

# check NAME COMMAND...: what it prints is shown if it fails.
check() {
    local name=$1 began=$SECONDS
    shift
    if [ -n "$SUITES" ] && [[ " $SUITES " != *" $name "* ]]; then return; fi
    if timeout -k 5 3600 "$@" >"$log" 2>&1; then
        echo "ok $name: $(grep -hE '(^| )kills [0-9]|^test result' "$log" | tail -2 | tr '\n' ' ')in $((SECONDS - began)) s"
    else
        failed=1
        cat "$log"
        echo "FAILED $name in $((SECONDS - began)) s"
    fi
}

modprobe fuse
chmod 0666 /dev/fuse
echo "kernel $(uname -r), $(systemctl --version | head -1)"
setsid dockerd --storage-driver=overlay2 >/run/dockerd.log 2>&1 &
check docker timeout 300 sh -c 'until docker info; do sleep 1; done'
check survival /checks/survival --ignored --nocapture soak
check sandbox /checks/sandbox
for suite in workers crash start_stop control files versions rotation revocation identity readiness disk_vault disk_log; do
    check "$suite" /checks/e2e "$suite::"
done
check systemd /checks/systemd
if [ "$failed" = 0 ]; then echo 'all suites passed'; fi
