#!/usr/bin/env bash
# Boots Debian 12's kernel (6.1: no FUSE_NOTIFY_RESEND) in an emulator and runs
# old-kernel-guest.sh there as its init. Fetches the kernel; needs root only to
# install packages.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=target/old-kernel
bin=${CARGO_TARGET_DIR:-target}/debug
root=$dir/root
console=$dir/console.log

# The newest 6.1 that apt knows of, also where the meta package has moved on.
newest() {
    apt-cache show linux-image-cloud-amd64 2>/dev/null |
        grep -oE '^Depends: linux-image-6\.1\.[^ ,]+' | cut -d' ' -f2 | sort -V | tail -1
}

fetch() {
    package=$(newest) && [ -n "$package" ] || return 1
    kernel=$dir/$package
    [ -e "$kernel/complete" ] && return
    rm -rf "$kernel" && mkdir -p "$kernel" &&
        (cd "$kernel" && apt-get -qq -o APT::Sandbox::User=root download "$package" >/dev/null) &&
        dpkg-deb -x "$kernel/$package"_*.deb "$kernel" && touch "$kernel/complete"
}

tests/need.sh cc gcc qemu-system-x86_64 qemu-system-x86 cpio cpio busybox busybox-static xz xz-utils
# Lists that are missing, or so old that the package is gone from the server.
if ! fetch; then
    if [ "$(id -u)" = 0 ]; then apt-get update -qq; else sudo apt-get update -qq; fi
    if ! fetch; then
        echo "apt has no 6.1 kernel to download; Debian 12's sources have one" >&2
        exit 1
    fi
fi

cargo build
# What a sandboxed worker is refused must be refused with an old Landlock, too.
cargo test --no-run --test sandbox
sandbox=$(cargo test --no-run --test sandbox 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p')

rm -rf "$root"
mkdir -p "$root"/{bin,dev,etc,proc,sys,run,tmp,var/lib}
cp "$(command -v busybox)" "$bin/jarvis-secretsd" "$bin/jarvisctl" "$root/bin"
cp "$sandbox" "$root/bin/sandbox"
# An emulated processor unpacks this: debug information is most of it.
strip -g "$root/bin/"{jarvis-secretsd,jarvisctl,sandbox}
for program in "$root/bin/"{jarvis-secretsd,jarvisctl,sandbox}; do ldd "$program"; done |
    grep -oE '/[^ ]+' | sort -u | xargs cp -L --parents -t "$root"
module=$(find "$kernel/lib/modules" -name 'fuse.ko*')
case $module in
    *.xz) xz -dc "$module" >"$root/fuse.ko" ;;
    *) cp "$module" "$root/fuse.ko" ;;
esac
id=0
for user in root jarvis jarvis-runner alice bob; do
    echo "$user:x:$id:$id::/:/bin/sh" >>"$root/etc/passwd"
    echo "$user:x:$id:" >>"$root/etc/group"
    id=$((id + 1000))
done
install -m 0600 /dev/null "$root/etc/shadow"
install -m 0755 tests/old-kernel-guest.sh "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc -R 0:0) | gzip -1 >"$dir/initramfs"

# A guest that panics reboots, which ends the emulator; one that hangs is ended.
timeout -k 5 300 qemu-system-x86_64 -accel tcg -cpu max -m 1G -nographic -no-reboot -net none \
    -kernel "$kernel"/boot/vmlinuz-* -initrd "$dir/initramfs" \
    -append 'console=ttyS0 panic=-1 quiet' </dev/null |
    sed -u 's/\r//g' | tee "$console" | grep --line-buffered -E '^(ok|FAILED|all) ' || true
if ! grep -qE '^all [0-9]+ checks passed$' "$console"; then
    tail -40 "$console" >&2
    echo "the old kernel's checks did not all pass; $console has everything" >&2
    exit 1
fi
