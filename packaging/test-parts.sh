#!/bin/sh
# Installs the Debian packages that tests use as real parts: `test-parts.sh suite` for `make test`, `fresh` for `make test-fresh`,
# `vm` for `make test-vm`. An ordinary user installs nothing: what is missing is named, and the tests that need it are left out and
# counted.
set -eu

# Each: the program that shows the package is there, and the package. curl is for the README's own commands; systemd, its bus and
# ip are what tests/systemd boot over a copy of the machine; nft is the host's filter for runs, and conntrack shows what they left.
case ${1:?suite, fresh or vm} in
suite) parts="curl:curl systemctl:systemd dbus-daemon:dbus ip:iproute2 nft:nftables conntrack:conntrack" ;;
vm) parts="qemu-system-x86_64:qemu-system-x86 debootstrap:debootstrap mkfs.ext4:e2fsprogs" ;;
fresh) parts="debootstrap:debootstrap unshare:util-linux" ;;
*) echo "test-parts: $1: suite, fresh or vm" >&2; exit 2 ;;
esac

missing=
for part in $parts; do
    # Debian keeps some of them out of an ordinary user's PATH.
    PATH=$PATH:/usr/sbin:/sbin command -v "${part%%:*}" >/dev/null || missing="$missing ${part#*:}"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "test-parts: tests that need these Debian packages are left out:$missing" >&2
    exit 0
fi
echo "test-parts: installing$missing" >&2
# shellcheck disable=SC2086  # a list
apt-get update -qq >&2 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
