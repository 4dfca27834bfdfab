#!/bin/sh
# `packaging/binary.sh [TARGET]` builds the binary, dist/codeactions unless told otherwise; does nothing when its sources haven't changed.
# Debian's own python3 is taken where there is one: its libraries come along, and Debian's security team keeps them. PYTHON=… names
# another, which needs a shared libpython.
set -eu
cd "$(dirname "$0")/.."

# One at a time: tests that run beside each other each ask for it.
mkdir -p .cache && exec 9>.cache/binary.lock && if command -v flock >/dev/null; then flock 9; fi

# What a build needs of Debian beside python3: a compiler, the static parts that go into the file, and the parts of the standard
# library that Debian packs apart. Root gets what is missing; an ordinary user is told.
packages="gcc libc6-dev liblzma-dev libexpat1-dev python3-dev python3-distutils python3-lib2to3 python3-venv"

install_packages() {
    missing=
    for package in $packages; do
        dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "binary: the build needs these Debian packages: apt-get install$missing" >&2
        exit 3 # so that tests can tell it from a failure
    fi
    echo "binary: installing$missing" >&2
    # shellcheck disable=SC2086  # a list
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}

if [ -z "${PYTHON:-}" ] && [ -x /usr/bin/python3 ]; then PYTHON=/usr/bin/python3; fi
export PYTHON="${PYTHON:-python3}"
if [ "$PYTHON" = /usr/bin/python3 ] && command -v dpkg-query >/dev/null; then install_packages; fi
if ! command -v gcc >/dev/null; then
    echo "binary: the build needs gcc, and static libraries and headers of liblzma and expat" >&2
    exit 3
fi
packaging/bootstrap.sh build
exec build/environment/bin/python -I packaging/binary/build.py "${1:-dist/codeactions}"
