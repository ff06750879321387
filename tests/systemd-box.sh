#!/usr/bin/env bash
# Boots the host's own systemd in a Docker container, for tests that install
# units and drive them. Needs root, dockerd, nothing to download.
#   systemd-box.sh start NAME DIR     boot; DIR is laid over the image's root
#   systemd-box.sh exec NAME CMD...   run CMD inside, at most 60 s, times
#                                     JARVIS_TEST_PATIENCE on a slow machine
#   systemd-box.sh stop NAME          remove container and image
set -euo pipefail

usage() { sed -n '4,7s/^# *//p' "$0" >&2; exit 2; }
limit=$((60 * ${JARVIS_TEST_PATIENCE:-1}))
image() { printf 'systemd-box-%s' "$1"; }

stop() {
    timeout "$limit" docker rm -f "$1" >/dev/null 2>&1 || true
    timeout "$limit" docker rmi -f "$(image "$1")" >/dev/null 2>&1 || true
}

# The inner limit ends CMD itself; the outer one only ends the docker client.
in_box() {
    local name=$1; shift
    timeout -k 5 $((limit + 10)) docker exec "$name" timeout -k 5 $limit "$@"
}

tree() {
    local root=$1 dir=$2 d f
    for d in bin sbin lib lib32 lib64 libx32; do
        if [[ -L /$d ]]; then ln -s "usr/$d" "$root/$d"; fi
    done
    mkdir -p "$root"/{dev,proc,sys,usr,run,mnt,opt,srv,home,var/{lib,log,cache,spool,tmp}}
    mkdir -p "$root"/etc/systemd/system
    mkdir -m 700 "$root/root"
    mkdir -m 1777 "$root/tmp"
    chmod 1777 "$root/var/tmp"
    for f in passwd group shadow nsswitch.conf pam.d ld.so.cache ld.so.conf ld.so.conf.d \
        dbus-1 security fuse.conf alternatives; do
        if [[ -e /etc/$f ]]; then cp -a "/etc/$f" "$root/etc/$f"; fi
    done
    # An empty or missing id means "first boot", where presets enable every unit.
    tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
    # Units from /usr that act on the host's kernel or wait for a terminal.
    for f in dev-hugepages.mount sys-kernel-{config,debug,tracing}.mount \
        proc-sys-fs-binfmt_misc.automount systemd-{binfmt,modules-load,sysctl,logind}.service \
        systemd-remount-fs.service systemd-udevd.service systemd-udev-trigger.service kmod-static-nodes.service \
        systemd-journald-audit.socket getty.target console-getty.service; do
        ln -s /dev/null "$root/etc/systemd/system/$f"
    done
    cat >"$root/init.sh" <<'INIT'
set -e
# Docker's view of the cgroup tree is read-only: mount our own. The private
# cgroup namespace keeps it beneath this container's groups.
version=$(stat -fc %T /sys/fs/cgroup)
umount -R /sys/fs/cgroup
if [ "$version" = cgroup2fs ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while read -r name hierarchy _; do
        # 0: not mounted as v1 on the host, so not possible here (the header has text).
        [ "$hierarchy" -gt 0 ] 2>/dev/null || continue
        mkdir "/sys/fs/cgroup/$name"
        mount -t cgroup -o "$name" cgroup "/sys/fs/cgroup/$name" || rmdir "/sys/fs/cgroup/$name"
    done </proc/cgroups
    mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
# In a container systemd leaves the root private; a unit with its own mount
# namespace would then never see mounts made after it started.
mount --make-rshared /
exec /sbin/init
INIT
    cp -a "$dir/." "$root/"
    # cp -a gave it the owner and mode of $dir, and of mktemp's directory before.
    chown 0:0 "$root"
    chmod 755 "$root"
}

start() {
    local name=$1 dir=$2 root d state='' deadline
    for d in usr bin sbin lib run tmp; do
        if [[ -e $dir/$d ]]; then echo "$dir/$d would be hidden in the box" >&2; exit 2; fi
    done
    stop "$name"
    root=$(mktemp -d)
    # shellcheck disable=SC2064  # expand now: the variables are local
    trap "rm -rf '$root'; stop '$name'" EXIT
    tree "$root" "$dir"
    tar -C "$root" --numeric-owner -c . | timeout "$limit" docker import - "$(image "$name")" >/dev/null
    # SYS_RESOURCE is missing on the host too. -t gives systemd a console.
    timeout "$limit" docker run -dt --name "$name" --hostname "$name" --cap-add ALL --cap-drop SYS_RESOURCE \
        --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
        --device /dev/fuse --cgroupns=private --network none \
        --tmpfs /run --tmpfs /run/lock --tmpfs /tmp -e container=docker \
        -v /usr:/usr:ro "$(image "$name")" sh /init.sh >/dev/null
    deadline=$((SECONDS + limit))
    while ((SECONDS < deadline)); do
        state=$(timeout 10 docker exec "$name" systemctl is-system-running 2>/dev/null) || true
        case $state in
            # degraded: the boot is over, some unit failed; that is the test's business.
            running | degraded)
                rm -rf "$root"
                trap - EXIT
                return 0
                ;;
            maintenance) break ;;
        esac
        [[ $(timeout 10 docker inspect -f '{{.State.Running}}' "$name" 2>&1) == true ]] || break
        sleep 0.2
    done
    {
        echo "$name did not boot within $limit s (state: ${state:-none})"
        timeout 10 docker exec "$name" timeout 5 systemctl --no-pager list-jobs || true
        timeout 10 docker exec "$name" timeout 5 journalctl -b --no-pager -n 200 || true
        timeout 10 docker logs --tail 200 "$name" || true
    } >&2
    exit 1
}

(($# >= 2)) || usage
command=$1; shift
case $command in
    start) [[ $# -eq 2 && -d $2 ]] || usage; start "$@" ;;
    exec) (($# >= 2)) || usage; in_box "$@" ;;
    stop) stop "$1" ;;
    *) usage ;;
esac
