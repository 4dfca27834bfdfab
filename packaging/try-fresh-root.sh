#!/bin/sh
# Proves that `make run` and `make test` work on a bare Debian: makes a root with debootstrap that holds python3, make and git, enters
# it by a mount namespace and pivot_root (in a chroot an ordinary user could not make user namespaces), clones the committed state of
# this checkout, and does there what a newcomer does (try_checkout.py), first as an ordinary user, then as root, each with an empty HOME.
# Arguments go to try_checkout.py. Needs root and debootstrap; touches nothing of the host outside a temporary folder.
#
# Debian's mirror, pip's settings and the host's certificates are taken over from the host, as an operator would set them up.
# The network is the host's, since packages are fetched.
set -eu

PATH=$PATH:/usr/sbin:/sbin
[ "$(id -u)" = 0 ] || { echo "try-fresh-root: needs root" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "try-fresh-root: needs debootstrap" >&2; exit 1; }
checkout=$(cd "$(dirname "$0")/.." && pwd)
release=bookworm
certificates=/etc/host-certificates.pem
work=$(mktemp -d /var/tmp/fresh-root.XXXXXX)
root=$work/root
# Everything mounted below it lives in namespaces that end with their last process.
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

# The host's own sources for this release, one a line: address, suite, component.
sources() {
    apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' | sed -n 's/^Debian //p' | sort -u
}

make_root() {
    mirror=$(sources | awk -v release="$release" '$2 == release { print $1; exit }')
    echo "try-fresh-root: making a root of Debian $release" >&2
    debootstrap --variant=minbase --include=python3,make,git "$release" "$root" $mirror >"$work/debootstrap.log" 2>&1 ||
        { tail -5 "$work/debootstrap.log" >&2; exit 1; }
    sources | sed 's/^/deb /' >"$root/etc/apt/sources.list"
    cp -rL /etc/apt/apt.conf.d/*proxy* /etc/apt/apt.conf.d/*artifact* "$root/etc/apt/apt.conf.d/" 2>/dev/null || true
    cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
    # At a place of its own: a package that brings certificates would write over the usual one.
    cp -L "${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}" "$root$certificates"
    for path in /etc/pip.conf ${PIP_FIND_LINKS:-}; do
        if [ -e "$path" ]; then mkdir -p "$root$(dirname "$path")" && cp -rL "$path" "$root$path"; fi
    done
    chroot "$root" useradd --create-home author
    mkdir "$root/old-root"
}

# A repository of the committed state, owned by who clones it: git refuses another's.
give_checkout() {
    git clone --quiet --bare "$checkout" "$root/srv/$1.git" || return 1
    chroot "$root" chown -R "$1:" "/srv/$1.git"
}

# Runs a command line inside as user $1 with HOME $2, in mount, pid and ipc namespaces of its own.
inside() {
    user=$1 home=$2 line=$3
    # shellcheck disable=SC2016  # expanded inside
    unshare --mount --pid --ipc --fork --kill-child --propagation private sh -euc '
        root=$1; shift
        mount --bind "$root" "$root"
        mount --rbind /dev "$root/dev"
        mount --rbind /sys "$root/sys"
        mount -t proc proc "$root/proc"
        cd "$root"
        pivot_root . old-root
        cd /
        umount -l /old-root
        exec "$@"
    ' enter "$root" setpriv --reuid "$user" --regid "$user" --init-groups env -i \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME="$home" LANG=C.UTF-8 \
        PIP_CERT="$certificates" ${PIP_FIND_LINKS:+PIP_FIND_LINKS="$PIP_FIND_LINKS"} \
        ${PIP_INDEX_URL:+PIP_INDEX_URL="$PIP_INDEX_URL"} ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
        sh -euc "$line"
}

try_as() {
    echo "try-fresh-root: as $1" >&2
    give_checkout "$1" || return 1
    inside "$1" "$2" "rm -rf $2/checkout; git clone --quiet /srv/$1.git $2/checkout; cd $2/checkout; exec python3 packaging/try_checkout.py $3"
}

make_root
if chroot "$root" python3 -c 'import ensurepip' 2>/dev/null; then
    echo "try-fresh-root: this root has ensurepip already: the recipes for its absence aren't tried" >&2
fi
failed=
# The ordinary user first: root installs what the recipe for a missing ensurepip must do without.
try_as author /home/author "$*" || failed="$failed author"
try_as root /root "$*" || failed="$failed root"
[ -z "$failed" ] || { echo "try-fresh-root: failed as$failed" >&2; exit 1; }
echo "try-fresh-root: both worked" >&2
