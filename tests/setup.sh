#!/bin/sh
# Installs what the tests need and makes their users. Run as root, on Debian or
# Ubuntu; running it again changes nothing.
set -eu

packages=''
need() { # need COMMAND PACKAGE...
    command -v "$1" >/dev/null 2>&1 || { shift && packages="$packages $*"; }
}
need fusermount3 fuse3
need shellcheck shellcheck
need setpriv util-linux
need umount mount
need dockerd docker.io
need iptables iptables
need busybox busybox-static
need cc gcc libc6-dev
if [ -n "$packages" ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    apt-get install -y -qq --no-install-recommends $packages >/dev/null
fi
command -v docker >/dev/null || { echo 'setup: no docker client' >&2; exit 1; }

getent group jarvis-ops >/dev/null || groupadd --system jarvis-ops
for user in jarvis-alice jarvis-bob jarvis-carol; do
    getent passwd "$user" >/dev/null ||
        useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
done
id -nG jarvis-carol | grep -qw jarvis-ops || usermod -aG jarvis-ops jarvis-carol

[ -c /dev/fuse ] || { echo 'setup: no /dev/fuse; run: modprobe fuse' >&2; exit 1; }
# Ordinary users mount with fusermount3, which needs the device.
chmod 0666 /dev/fuse
