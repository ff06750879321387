#!/bin/sh
# Installs what the tests need and makes their users. Run as root, on Debian or
# Ubuntu; running it again changes nothing.
set -eu

# Only what every user can run counts, not what is in somebody's home.
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

"$(dirname "$0")/need.sh" fusermount3 fuse3 shellcheck shellcheck setpriv util-linux newuidmap uidmap \
    mount mount mkfs.ext4 e2fsprogs dockerd docker.io iptables iptables busybox busybox-static cc gcc curl curl strace strace \
    prometheus prometheus python3 python3 node nodejs javac default-jdk-headless perl perl \
    openssl openssl ssh-keygen openssh-client sshd openssh-server nginx nginx-light

# Python's module is no command: its package's file stands for it.
[ -e /usr/lib/python3/dist-packages/cryptography ] ||
    "$(dirname "$0")/need.sh" the-module-cryptography python3-cryptography

# The server's programs are not in the path. A cluster of its own is not wanted.
if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
    mkdir -p /etc/postgresql-common/createcluster.d
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.d/jarvis-tests.conf
    "$(dirname "$0")/need.sh" the-postgres-server postgresql
fi

"$(dirname "$0")/users.sh"

if [ ! -c /dev/fuse ]; then
    echo 'setup: there is no /dev/fuse; run: modprobe fuse' >&2
    exit 1
fi
# Ordinary users mount with fusermount3, which needs the device.
chmod 0666 /dev/fuse
