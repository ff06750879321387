#!/usr/bin/env bash
# What jarvis-secretsd does, in a minute: `make run`. With DEMO=1 it ends after
# the show, otherwise it stays up until Ctrl-C. Root or not; everything is in a
# temporary directory.
set -euo pipefail

bin=${BIN:-$(cd "$(dirname "$0")/.." && pwd)/target/debug}
home=$(mktemp -d /tmp/jarvis-demo.XXXXXX)
chmod 0755 "$home"
export JARVIS_MOUNT=$home/secrets JARVIS_DIR=$home/etc
daemon=
# The daemon would make it immutable, and rm could not remove it.
mkdir "$home/secrets"

cleanup() {
    if [ -n "$daemon" ] && kill -TERM "$daemon" 2>/dev/null; then wait "$daemon" || true; fi
    rm -rf "$home"
}
trap cleanup EXIT
trap 'echo; echo "stopping"; exit 0' INT TERM

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
# Shows a command, then runs it.
show() {
    printf '$ %s\n' "$*"
    "$@"
}
jarvisctl() { "$bin/jarvisctl" "$@"; }

say 'A vault, its keys, a configuration and a policy'
show jarvisctl init >/dev/null
if [ "$(id -u)" = 0 ]; then
    # The processes without privilege run as these; systemd/jarvis.sysusers.conf
    # makes them where the daemon is installed.
    for user in jarvis jarvis-runner; do
        getent passwd "$user" >/dev/null ||
            show useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$user"
    done
    reader=daemon
    as_reader() { setpriv --reuid=daemon --regid=daemon --clear-groups "$@"; }
    as_stranger() { setpriv --reuid=nobody --regid=nogroup --clear-groups "$@"; }
else
    if ! command -v fusermount3 >/dev/null; then
        echo 'without root this needs fusermount3: install the package fuse3' >&2
        exit 1
    fi
    reader=$(id -un)
    as_reader() { "$@"; }
fi
cat >"$JARVIS_DIR/policy.yaml" <<EOF
default_deny: true
clients:
  admin:
    match: {uid: $(id -u)}
    allow: ["*"]
    deny: []
    verbs: ["*"]
  application:
    match: {user: $reader}
    allow: ["db/*", app_token]
EOF
# Any free port, so that a daemon on this machine is not disturbed.
sed -i 's/^# listen = .*/listen = "127.0.0.1:0"/' "$JARVIS_DIR/config.toml"
cat "$JARVIS_DIR/policy.yaml"

say 'The daemon mounts it'
exec {ready}< <("$bin/jarvis-secretsd" --config "$JARVIS_DIR/config.toml" 2>"$home/daemon.log")
daemon=$!
if ! read -r line <&"$ready"; then
    cat "$home/daemon.log" >&2
    exit 1
fi
echo "$line"

say 'An admin stores a secret through the control file, and has another one generated'
show tee "$JARVIS_MOUNT/jarvisctl" <<<'{"op":"set","name":"app_token","value":"correct horse battery staple"}'
show jarvisctl generate db/password --length 24

say "User $reader reads with cat; who may not is refused"
show as_reader ls -l "$JARVIS_MOUNT"
show as_reader cat "$JARVIS_MOUNT/app_token"
echo
if [ "$(id -u)" = 0 ]; then
    if show as_stranger cat "$JARVIS_MOUNT/app_token"; then exit 1; fi
else
    # Only the mounting user can enter a mount made without root, so the refusal
    # is shown on a second secret that the policy comes to deny.
    show jarvisctl generate db/root_password
    show sed -i 's|deny: \[\]|deny: [db/root_password]|' "$JARVIS_DIR/policy.yaml"
    show jarvisctl policy reload
    if show cat "$JARVIS_MOUNT/db/root_password"; then exit 1; fi
fi

say 'Rotation while a reader holds the file open: the handle keeps its version'
exec {held}<"$JARVIS_MOUNT/db/password" {later}<"$JARVIS_MOUNT/db/password"
show jarvisctl rotate db/password
printf 'held open:  %s\n' "$(cat <&"$held")"
printf 'opened now: %s\n' "$(cat "$JARVIS_MOUNT/db/password")"

say 'The process that serves is killed; another takes over and nobody notices'
# The first child is the worker that serves; the list has no newline.
children=$(<"/proc/$daemon/task/$daemon/children")
show kill -KILL "${children%% *}"
printf 'held open:  %s\n' "$(cat <&"$later")"
printf 'opened now: %s\n' "$(cat "$JARVIS_MOUNT/db/password")"
exec {held}<&- {later}<&-

say 'Each of these events is in the signed audit log'
sed -E 's/.*"seq":([0-9]+).*"action":"([a-z_]+)","result":"([a-z]+)"(,"name":"([^"]*)")?.*/\1\t\2\t\3\t\5/' \
    "$JARVIS_DIR/audit/00000001.jsonl"
show jarvisctl audit verify

if [ -n "${DEMO:-}" ]; then
    say 'Done'
    exit 0
fi
say "Serving at $JARVIS_MOUNT until Ctrl-C; try, in another terminal:"
echo "  export JARVIS_MOUNT=$JARVIS_MOUNT JARVIS_DIR=$JARVIS_DIR PATH=$bin:\$PATH"
echo '  jarvisctl list; jarvisctl status'
# A signal ends the wait and runs the traps.
wait "$daemon"
