#!/bin/busybox sh
# shellcheck shell=dash
# The init of the machine that old-kernel.sh boots: the daemon on a kernel that
# cannot send requests again. Prints a line for each check, then powers off.
set -u

mountpoint=/run/jarvis/secrets
file=$mountpoint/team/db/password
count=0
failed=0

# check WHAT COMMAND...: the command must succeed.
check() {
    what=$1
    shift
    count=$((count + 1))
    if "$@"; then
        echo "ok $what"
    else
        failed=$((failed + 1))
        echo "FAILED $what"
    fi
}

# Emulated, everything takes its time.
eventually() {
    tries=600
    until "$@"; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || return 1
        sleep 0.1
    done
}

old_kernel() { case $(uname -r) in 6.1.*) ;; *) return 1 ;; esac }
init() { jarvisctl init >/dev/null; }
logged() { grep -q "$1" /tmp/daemon.log; }
# doctor fails for what it finds.
doctor_warns() { jarvisctl doctor 2>&1 | grep -q 'older than 6.9'; }
mounts() { [ "$(grep -c " $mountpoint .* jarvis-secrets " /proc/self/mountinfo)" = "$1" ]; }
unconnected() { [ -z "$(ls /sys/fs/fuse/connections)" ]; }
store() { jarvisctl set team/db/password --from-file "$1" >/dev/null; }
# reads VALUE [FILE]
reads() { su alice -c "cat ${2:-$file}" 2>/dev/null | cmp -s - "$1"; }
verifies() { jarvisctl audit verify | grep -q " $1 of them after an unclean end"; }
told() { jarvisctl --json audit query --action start | grep -q "$1"; }

refused() {
    said=$(su bob -c "cat $file" 2>&1) && return 1
    [ "$said" = "cat: can't open '$file': Permission denied" ]
}

worker() {
    children=$(cat "/proc/$daemon/task/$daemon/children")
    for pid in $children; do
        if [ "$(cat "/proc/$pid/comm")" = jarvis-worker ]; then echo "$pid"; fi
    done
}

# Leaves its pid in `daemon`.
start() {
    # Opened for both: to open the reading end alone waits for a writer, and the
    # end of any orphan, whose parent is this process, interrupts that.
    exec 3<>/tmp/ready
    jarvis-secretsd --config /var/lib/jarvis/config.toml >/tmp/ready 2>>/tmp/daemon.log 3<&- &
    daemon=$!
    line=$(timeout 20 head -n 1 <&3)
    exec 3<&-
    [ "${line%%:*}" = ready ]
}

confined() { grep -q '^Seccomp:[[:space:]]*2$' "/proc/$(worker)/status"; }

# There is one worker, as there is no standby, and it is another one.
replaced() {
    now=$(worker)
    [ "$now" -gt 0 ] && [ "$now" != "$before" ]
}

cut_off() {
    said=$(cat /tmp/bound/team/db/password 2>&1) && return 1
    [ "${said##*: }" = 'Transport endpoint is not connected' ]
}

# Who waits for a byte of the open handle gets an error in its place, in time.
breaks() {
    wait "$waiting"
    [ $? = 1 ] && [ ! -s /tmp/waited ]
}

# dies SIGNAL UNCLEAN: the worker gets the signal; starts after an unclean end
# are then so many.
dies() {
    before=$(worker)
    exec 9<"$file"
    check "SIG$1: a handle is held" test "$(head -c 9 <&9 | wc -c)" = 9
    kill "-$1" "$before"
    timeout 60 cat <&9 >/tmp/waited 2>/dev/null &
    waiting=$!
    check 'the handle gives an error and no bytes' breaks
    check 'the exact bytes are read after a new mount' eventually reads /tmp/first
    exec 9<&-
    check 'there is one mount' mounts 1
    check 'there is one worker, a new one' replaced
    check 'it has shut itself in' confined
    check 'who may not read is still refused' refused
    check 'the log verifies and counts the death' verifies "$2"
}

run() {
    check 'the kernel is a 6.1' old_kernel
    check 'the sandbox refuses what it should' sandbox --quiet
    head -c 5000 /dev/urandom >/tmp/first
    head -c 5000 /dev/urandom >/tmp/second

    check 'a vault is made' init
    cat >/var/lib/jarvis/policy.yaml <<'POLICY'
clients:
  admin:
    match: {uid: 0}
    allow: ["*"]
    verbs: ["*"]
  alice:
    allow: ["team/**"]
POLICY
    mkfifo /tmp/ready
    # As for a container that was there before the daemon.
    mkdir /run/jarvis /tmp/above /tmp/bound
    mount --make-shared /run
    mount --bind /run/jarvis /tmp/above
    mount --make-rslave /tmp/above
    check 'the daemon is ready' start
    check 'it says that keeping the mount needs Linux 6.9' logged 'keeping the mount needs Linux 6.9'
    check 'so does the doctor' doctor_warns
    check 'its worker has shut itself in' confined
    check 'a secret is stored' store /tmp/first
    check 'who may read it does' reads /tmp/first
    check 'who may not is refused with EACCES' refused

    mount --bind "$mountpoint" /tmp/bound
    check 'a bind mount of the mount shows the secret' reads /tmp/first /tmp/bound/team/db/password
    dies KILL 1
    check 'it tells of the signal' told 'signal: 9'
    check 'the bind mount of the mount is cut off' cut_off
    umount /tmp/bound
    check 'one of the directory above shows the new mount' reads /tmp/first /tmp/above/secrets/team/db/password
    # The end of the last fd cut the old mount. Where fusectl is, that does.
    mount -t fusectl fusectl /sys/fs/fuse/connections
    dies STOP 2

    check 'a change is taken' store /tmp/second
    check 'and is read' reads /tmp/second

    kill -KILL "$daemon"
    wait "$daemon"
    check 'a killed daemon can be started again' start
    check 'there is still one mount' mounts 1
    check 'the change is there' reads /tmp/second

    kill -TERM "$daemon"
    check 'the daemon ends well' wait "$daemon"
    check 'no mount is left' mounts 0
    check 'nor a connection of one' unconnected
    check 'the log verifies' verifies 3
}

/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
insmod /fuse.ko
# The firmware left its last line open.
echo
run
if [ "$failed" = 0 ]; then
    echo "all $count checks passed"
else
    cat /tmp/daemon.log
fi
poweroff -f
