"""Go: a source is compiled once, in a sandbox of its own; each run executes what came of it."""

import os
from pathlib import Path

from engines.go.build import version_of
from engines.spec import Found, LanguageSpec, Stage

_INSIDE = "/opt/go"


def find(program: str) -> Found:
    """The toolchain that `program` belongs to. Debian's lies below /usr, which every root has; others are mounted."""
    path = os.path.realpath(program)
    goroot = Path(path).parents[1]
    version_of(goroot)
    if goroot.is_relative_to("/usr") and not goroot.is_relative_to("/usr/local"):
        return Found((), path)
    return Found(((str(goroot), _INSIDE),), f"{_INSIDE}/bin/go")


LANGUAGE = LanguageSpec(
    label="Go",
    suffixes=(".go",),
    program="go",
    install="install Go 1.19 or newer (on Debian: apt install golang-go), or name one by the setting GO",
    least_memory_bytes=32 << 20,
    least_tasks=16,
    run=Stage(preload="engines.go.run"),
    build=Stage(preload="engines.go.build", find=find),
)
