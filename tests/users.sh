#!/bin/sh
# users.sh [ROOT]: makes the users that the tests are run as, in the tree ROOT if one is
# named. Run as root; running it again changes nothing.
set -eu

root=${1:-/}
has() { chroot "$root" getent "$@" >/dev/null; }

has group jarvis-ops || groupadd --root "$root" --system jarvis-ops
# The worker's, and callers of all kinds.
for user in jarvis jarvis-runner jarvis-alice jarvis-bob jarvis-carol; do
    has passwd "$user" ||
        useradd --root "$root" --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
done
usermod --root "$root" -aG jarvis-ops jarvis-carol

# User namespaces with many ids, as useradd gives them to everybody who is no system user.
first=3000000
for user in jarvis-bob jarvis-carol; do
    last=$((first + 65535))
    grep -q "^$user:" "$root/etc/subuid" ||
        usermod --root "$root" --add-subuids "$first-$last" "$user"
    grep -q "^$user:" "$root/etc/subgid" ||
        usermod --root "$root" --add-subgids "$first-$last" "$user"
    first=$((last + 1))
done
