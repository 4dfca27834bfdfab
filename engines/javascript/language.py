"""JavaScript: node processes that have the engine loaded and wait for their one job."""

import os

from engines.spec import Found, Lacking, LanguageSpec, Stage

INSTALL = "install Node.js 18 or newer (the package nodejs), or name its program by the setting NODE"

_MIB = 1 << 20
_SMALLEST_ROOM = 64
_IN_ROOT = "/usr/"  # of the host, what a sandbox's root has; but not what the host's administrator has put below /usr/local
_NOT_IN_ROOT = "/usr/local/"
_INSIDE = "/opt/node/bin/node"


def find(program: str) -> Found:
    """The program itself, without what may lie around it: node is one file."""
    path = os.path.realpath(program)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise Lacking(f"{program} is no program: {INSTALL}")
    if path.startswith(_IN_ROOT) and not path.startswith(_NOT_IN_ROOT):
        return Found(program=path)
    return Found(mounts=((path, _INSIDE),), program=_INSIDE)


def room(memory_bytes: int) -> int:
    """The heap can't be changed once node runs, so sandboxes come in sizes: 64, 128, 256, 512 MiB and so on."""
    size = _SMALLEST_ROOM
    while 2 * size * _MIB <= memory_bytes:
        size *= 2
    return size


LANGUAGE = LanguageSpec(
    label="JavaScript",
    suffixes=(".js", ".mjs"),
    program="node",
    install=INSTALL,
    least_memory_bytes=96 * _MIB,
    least_tasks=16,
    run=Stage(preload="engines.javascript.preload", find=find),
    room=room,
    out_of_memory=r"FATAL ERROR: .*out of memory|Fatal (?:process|JavaScript) (?:out of memory|OOM)|std::bad_alloc",
)
