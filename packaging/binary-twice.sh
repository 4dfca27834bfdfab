#!/bin/sh
# Builds the binary twice, each in a copy of this checkout's files with an environment of its own, the second time elsewhere, with another
# umask, language and time zone; shows both digests, and fails unless they are one.
set -eu
cd "$(dirname "$0")/.."
work=$(mktemp -d /var/tmp/binary-twice.XXXXXX)
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

copy() {
    mkdir -p "$work/$1"
    git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents --target-directory "$work/$1"
}

copy first
copy second/somewhere-else
"$work/first/packaging/binary.sh"
(umask 077 && LANG=pt_BR.UTF-8 TZ=Asia/Tokyo "$work/second/somewhere-else/packaging/binary.sh")
cd "$work"
sha256sum first/dist/codeactions second/somewhere-else/dist/codeactions
cmp first/dist/codeactions second/somewhere-else/dist/codeactions
