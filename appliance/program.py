"""What this program was started as, a checkout or the binary: where it lies, how to start another process of it, its Python.

The binary's tree: the program `codeactions`, and below `_internal` our packages with their sources, the other projects' modules,
and `python`, the prefix of the interpreter that sandboxes get, with the standard library that both use.
"""

import os
import stat
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

from appliance.errors import CannotStart

_MAGIC = b"codeactions-tree"  # the last bytes of the one file, by packaging/binary/unpack.c


class Python(NamedTuple):
    """The interpreter for sandboxes and its prefix; `library` is the folder of its shared library, None where it finds that by
    itself; `alias` the path at which programs expect it, None where it is the host's own."""

    executable: str
    prefix: str
    library: str | None = None
    alias: str | None = None


def tree() -> Path | None:
    """The folder of the binary; None for a checkout."""
    return Path(sys.executable).resolve().parent if getattr(sys, "frozen", False) else None


def is_the_one_file(path: Path) -> bool:
    """Whether the program lies there as it is copied to a host, of whatever version."""
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(_MAGIC)))
        return file.read() == _MAGIC


def command(*arguments: str) -> list[str]:
    """How to start a verb in a process of its own."""
    if tree() is not None:
        return [sys.executable, *arguments]
    # -P: a folder `appliance` in the working directory must not be what runs.
    return [sys.executable, "-P", "-m", "appliance", *arguments]


def folders() -> list[Path]:
    """What a process of it must be able to read."""
    if (own := tree()) is not None:
        return [own]
    return [Path(__file__).parent.parent, Path(sys.prefix), Path(sys.base_prefix)]


def sandbox_python() -> Python:
    if (own := tree()) is not None:
        prefix = own / "_internal" / "python"
        return Python(str(prefix / "bin" / "python3"), str(prefix), alias="/usr/bin/python3")
    shared = bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))
    return Python(
        executable=os.path.realpath(getattr(sys, "_base_executable", sys.executable)),
        prefix=os.path.realpath(sys.base_prefix),
        library=sysconfig.get_config_var("LIBDIR") if shared else None,
    )


def refuse_foreign_tree() -> None:
    """Root doesn't start sandboxes from files that somebody else can change. Raises `CannotStart`."""
    own = tree()
    if own is None or os.geteuid() != 0:
        return
    if (changeable := changeable_by_others(own)) is not None:
        raise CannotStart(
            f"others than root can write {changeable}, and root runs what lies there: give it to root and take the right to "
            "write from group and others, or name a folder of root's in CODEACTIONS_UNPACK"
        )


def changeable_by_others(tree: Path) -> Path | None:
    """The first of the folders above, the tree and what is in it that isn't root's, or that its group or others may write.

    In a folder above with the sticky bit, /tmp say, they can't replace what is root's.
    """
    for path in reversed(tree.parents):
        about = path.lstat()
        if about.st_uid != 0 or (_is_open(about) and not about.st_mode & stat.S_ISVTX):
            return path
    return next((path for path in (tree, *tree.rglob("*")) if _is_open(path.lstat())), None)


def _is_open(about: os.stat_result) -> bool:
    """A link's own mode means nothing."""
    return about.st_uid != 0 or bool(about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not stat.S_ISLNK(about.st_mode))
