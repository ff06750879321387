#!/bin/sh
# need.sh COMMAND PACKAGE [COMMAND PACKAGE ...]: installs the packages whose
# commands are missing, as root or with sudo.
set -eu

packages=''
while [ $# -gt 0 ]; do
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
    shift 2
done
[ -n "$packages" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=''
elif command -v sudo >/dev/null 2>&1; then
    echo "installing$packages needs root: using sudo" >&2
    as_root='sudo'
else
    echo "please install as root:$packages" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086 # lists
$as_root apt-get update -qq
# shellcheck disable=SC2086
$as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null
