#!/bin/sh
# Builds the checkout's environment in .venv: `bootstrap.sh program` with what the server needs, `bootstrap.sh dev` with the tests'
# tools too; `bootstrap.sh build` another one, in build/environment, from which the binary is made. Does nothing when it is there already. Needs python3 (3.11 or 3.12); what else it takes on a bare Debian it gets itself.
#
# Theory of operation. Debian's python3 has `venv` but not `ensurepip`, and then `python3 -m venv` fails and leaves half a folder
# that looks like an environment. So ensurepip is tested first, and a stamp, not the folder, says that an environment is complete:
# the stamp holds the lock's hash, the interpreter and the checkout's place, and anything else found is rebuilt from nothing.
# Where pip comes from, in this order:
#   1. ensurepip, as every complete Python has it;
#   2. as root on Debian: apt installs python3-venv, which brings ensurepip;
#   3. as an ordinary user on Debian: apt, with state of its own in a temporary folder, downloads (and checks the signature of)
#      python3-pip-whl; pip runs from the wheel inside. Nothing is installed on the host.
# pip's own settings (PIP_*, pip.conf) say where packages come from; the lock says which, by hash.
set -eu

want=${1:?program, dev or build}
cd "$(dirname "$0")/.."
root=$(pwd -P)
venv=$root/.venv
if [ "$want" = build ]; then venv=$root/build/environment; fi
pip=

die() {
    echo "bootstrap: $*" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
}

has_ensurepip() {
    "$1" -c 'import ensurepip' 2>/dev/null
}

# Debian's own first, as for the binary: it is optimised by profile, which one compiled on the spot rarely is (pyenv's takes a fifth
# longer for everything). An environment that is there keeps its interpreter, whatever has been installed since.
find_python() {
    if [ -z "${PYTHON:-}" ]; then
        if [ -f "$venv/interpreter" ] && is_supported "$(cat "$venv/interpreter")"; then
            cat "$venv/interpreter"
            return
        fi
        if is_supported /usr/bin/python3 && has_ensurepip /usr/bin/python3; then
            echo /usr/bin/python3
            return
        fi
    fi
    for candidate in ${PYTHON:-} python3 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && is_supported "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    die "Python 3.11 or 3.12 is needed; none of python3, python3.12 and python3.11 on the PATH is one (PYTHON=… names another)"
}

# What an environment of the lock $1 depends on; the stamp holds it.
key_of() {
    "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
    echo "$root"
    sha256sum <"$1"
}

is_complete() {
    [ -f "$venv/complete-$1" ] && [ "$(cat "$venv/complete-$1")" = "$(key_of "$2")" ] && "$venv/bin/python" -c '' 2>/dev/null
}

apt_as_root() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "bootstrap: this Python has no ensurepip; installing Debian's python3-venv" >&2
    apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv >&2
}

# Leaves the path of a pip that runs from its wheel in $pip.
pip_from_debian_wheel() {
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 1
    echo "bootstrap: this Python has no ensurepip; taking pip from Debian's python3-pip-whl" >&2
    mkdir -p "$scratch/lists/partial" "$scratch/cache/archives/partial"
    set -- -qq -o Dir::State="$scratch" -o Dir::State::lists="$scratch/lists" -o Dir::Cache="$scratch/cache" \
        -o Dir::State::status=/var/lib/dpkg/status -o APT::Sandbox::User= -o Debug::NoLocking=1
    (cd "$scratch" && apt-get "$@" update && apt-get "$@" download python3-pip-whl && dpkg-deb -x python3-pip-whl_*.deb x) >&2 ||
        return 1
    pip=$(echo "$scratch"/x/usr/share/python-wheels/pip-*.whl)/pip
}

make_venv() {
    rm -rf "$venv" || die "$venv isn't ours to rebuild: remove it"
    if has_ensurepip "$python" || { apt_as_root && has_ensurepip "$python"; }; then
        "$python" -m venv "$venv"
        pip=$venv/bin/pip
    elif pip_from_debian_wheel; then
        "$python" -m venv --without-pip "$venv"
    else
        die "can't get pip for $("$python" --version): install python3-venv (Debian, Ubuntu), or a Python that has ensurepip"
    fi
    echo "$python" >"$venv/interpreter"
}

# pip inside the environment, or, where it was made without, from the wheel.
install_lock() {
    if [ -z "$pip" ]; then
        if [ -x "$venv/bin/pip" ]; then pip=$venv/bin/pip; else pip_from_debian_wheel || die "can't get pip: install python3-venv"; fi
    fi
    echo "bootstrap: installing $1 into ${venv#"$root/"}" >&2
    "$venv/bin/python" "$pip" install --quiet --require-hashes --no-deps --only-binary :all: --requirement "$1" ||
        die "pip couldn't install $1 (the lines above say why); nothing else was changed"
}

# The project itself is used from the checkout: a path file instead of an editable install, which would fetch a build backend.
link_checkout() {
    echo "$root" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/flows_code_actions.pth"
    # -P: a folder `appliance` that lies where the program is started from must not be what runs.
    printf '#!/bin/sh\nexec "%s/bin/python" -P -m appliance "$@"\n' "$venv" >"$venv/bin/codeactions"
    chmod 755 "$venv/bin/codeactions"
}

ensure() {
    is_complete "$1" "$2" && return
    install_lock "$2"
    key_of "$2" >"$venv/complete-$1"
}

python=$(find_python)
# Two makes at once would build over each other.
mkdir -p .cache && exec 9>.cache/bootstrap.lock && if command -v flock >/dev/null; then flock 9; fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
if [ "$want" = build ]; then
    is_complete build requirements-build.lock || { mkdir -p build && make_venv && ensure build requirements-build.lock; }
    exit
fi
if ! is_complete program requirements.lock; then
    make_venv
    link_checkout
    ensure program requirements.lock
fi
if [ "$want" = dev ]; then ensure dev requirements-dev.lock; fi
