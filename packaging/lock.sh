#!/bin/sh
# Renews both locks: names, versions and hashes, no address of any index, so that each machine's own pip settings decide where
# packages come from. requirements.lock is the program; requirements-dev.lock adds the tests' tools, at the same versions.
# Arguments go to uv: `packaging/lock.sh --upgrade`.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
compile() {
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
        --no-header --no-annotate --only-binary :all: "$@" >/dev/null
}
compile "$@" pyproject.toml --output-file requirements.lock
compile "$@" pyproject.toml --group dev --constraint requirements.lock --output-file requirements-dev.lock
compile "$@" pyproject.toml --group build --constraint requirements.lock --output-file requirements-build.lock
if grep -n '://' requirements*.lock; then
    echo "lock: the lines above name an address; a lock must not" >&2
    exit 1
fi
