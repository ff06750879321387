#!/usr/bin/env bash
# Runs the main suites on the kernels that people have: boots Debian 12 (Linux 6.1,
# systemd 252) and Debian 13 (Linux 6.12, systemd 257) in an emulator, survival first.
#   old-kernel.sh [RELEASE...]   bookworm, trixie; both if none is named
# What was built here runs there, so this machine's C library must not be newer than
# theirs. Needs root (debootstrap), and Debian's archive. KILLS_MINUTES: how long
# workers are killed (3). SUITES: what old-kernel-checks.sh is to run (all).
set -euo pipefail
cd "$(dirname "$0")/.."

built=${CARGO_TARGET_DIR:-$PWD/target}
dir=$built/old-kernel
packages=linux-image-cloud-amd64,systemd,systemd-sysv,dbus,udev,kmod,fuse3,mount,e2fsprogs
packages=$packages,python3,strace,curl,procps,openssl,perl,passwd,docker.io,iptables
packages=$packages,busybox-static,openssh-client,uidmap

# fetch RELEASE: its root file system, as long as it is not there.
fetch() {
    [ -e "$dir/$1/complete" ] && return
    rm -rf "${dir:?}/$1"
    mkdir -p "$dir/$1"
    # A package of its own since Debian 13; part of docker.io before.
    [ "$1" = bookworm ] || packages=$packages,docker-cli
    debootstrap --variant=minbase --include="$packages" "$1" "$dir/$1/root" \
        http://deb.debian.org/debian >"$dir/$1/debootstrap.log" 2>&1 || {
        tail -20 "$dir/$1/debootstrap.log" >&2
        return 1
    }
    # The checks end the machine; nothing else is to run there.
    for unit in tmp.mount docker.service docker.socket containerd.service systemd-timesyncd.service \
        apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer fstrim.timer; do
        chroot "$dir/$1/root" systemctl --quiet mask "$unit"
    done
    # Debian empties /tmp at boot, which this tree may lie below.
    : >"$dir/$1/root/etc/tmpfiles.d/tmp.conf"
    # Only what an emulator takes its time for.
    rm -rf "$dir/$1"/root/var/{cache/apt,lib/apt/lists}/* "$dir/$1"/root/usr/share/{doc,locale,man}
    touch "$dir/$1/complete"
}

# The test programs that cargo has built, by name.
test_program() { jq -r "select(.profile.test and .target.name == \"$1\") | .executable // empty" "$dir/programs"; }

# lay RELEASE: the tree and what was built, at the paths that the tests were built with.
lay() {
    local root=$dir/$1/root tree=$dir/$1/root$PWD suite
    rm -rf "$dir/$1/root$PWD" "$root/checks"
    mkdir -p "$tree" "$root$built/debug/examples" "$root/checks"
    git ls-files -z | tar -c --null -T - | tar -x -C "$tree"
    cp "$built"/debug/jarvis{-secretsd,ctl} "$root$built/debug/"
    for suite in survival sandbox systemd e2e; do cp "$(test_program "$suite")" "$root/checks/$suite"; done
    cp "$built/debug/examples/jarvis-secretsd-clock" "$root/checks/clock"
    strip -g "$root$built"/debug/jarvis{-secretsd,ctl} "$root"/checks/*
    tests/users.sh "$root"
    cp tests/old-kernel-checks.sh "$root/checks/run"
    cat >"$root/etc/systemd/system/checks.service" <<UNIT
[Unit]
After=basic.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
WorkingDirectory=$PWD
Environment=KILLS_MINUTES=${KILLS_MINUTES:-3} "SUITES=${SUITES:-}"
ExecStart=/checks/run
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
UNIT
    chroot "$root" systemctl --quiet add-wants multi-user.target checks.service
    chroot "$root" systemctl --quiet mask serial-getty@ttyS0.service
    rm -f "$dir/$1/image"
    truncate -s 6G "$dir/$1/image"
    mkfs.ext4 -q -F -d "$root" "$dir/$1/image"
}

# boot RELEASE: a guest that panics reboots, which ends the emulator; one that hangs is ended.
boot() {
    local console=$dir/$1/console.log
    timeout -k 5 "${LIMIT:-7200}" qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 3G \
        -nographic -no-reboot -net none \
        -kernel "$dir/$1"/root/boot/vmlinuz-* -initrd "$dir/$1"/root/boot/initrd.img-* \
        -drive "file=$dir/$1/image,format=raw,if=virtio,cache=unsafe" \
        -append 'root=/dev/vda rw console=ttyS0 panic=-1 quiet' </dev/null |
        sed -u 's/\r//g' | tee "$console" | grep --line-buffered -E '^(ok|FAILED|kernel|all) ' || true
    if ! grep -q '^all suites passed$' "$console"; then
        tail -60 "$console" >&2
        echo "$1: not all passed; $console has everything" >&2
        return 1
    fi
}

tests/need.sh cc gcc qemu-system-x86_64 qemu-system-x86 debootstrap debootstrap mkfs.ext4 e2fsprogs jq jq
[ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || tests/need.sh the-keys debian-archive-keyring
mkdir -p "$dir"
cargo build
cargo build --examples
cargo test --no-run --message-format=json --test survival --test sandbox --test systemd --test e2e >"$dir/programs"
failed=0
[ $# -gt 0 ] || set -- bookworm trixie
for release; do
    case $release in
        bookworm | trixie) fetch "$release" && lay "$release" && boot "$release" || failed=1 ;;
        *) echo "no such release: $release" >&2; exit 2 ;;
    esac
done
exit $failed
