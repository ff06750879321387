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
