"""Started by root outside a unit (`make run`, `codeactions run`), the program becomes an unprivileged user, for good.

THEORY OF OPERATION

The user is codeactions where there is one, else the owner of the state directory, else 65534. Such a user can't enter /root
or another private folder above the checkout, the interpreter or the state directory; so before the change of user the
process takes a mount namespace of its own, in which each such folder is an empty one that shows only the paths that we need.
Nothing changes for the rest of the host. A file that the user may not read himself stays unreadable, and the start says so.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from appliance.errors import CannotStart
from appliance.runner.sandbox import syscalls

USER = "codeactions"
NOBODY = 65534
# What a state directory holds.
OWN_FILES = {"admin_token", "lock", "codeactions.db", "codeactions.db-wal", "codeactions.db-shm"}
OWN_FOLDERS = {"spool", "builds", "cache"}
SYSTEM_FOLDERS = {"bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "proc", "run", "sbin", "sys", "usr"}


class Identity(NamedTuple):
    uid: int
    gid: int
    groups: list[int]


def make_state_dir(state_dir: Path) -> None:
    """Makes it, and gives it to the user that we are going to be. Raises `CannotStart`."""
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CannotStart(f"STATE_DIR {state_dir} can't be made: {error.strerror}") from None
    if os.geteuid() == 0:
        identity = _identity(state_dir)
        try:
            _give(state_dir, identity)
        except OSError as error:
            raise CannotStart(f"STATE_DIR {state_dir} can't be given to the user {identity.uid}: {error.strerror}") from None


def become_unprivileged(state_dir: Path, needed: Iterable[Path]) -> None:
    """Becomes the user, who can reach the `needed` paths and the state directory if it is there. Only root can.

    Raises `CannotStart`.
    """
    if os.geteuid() != 0:
        return
    needed = list(needed)
    identity = _identity(state_dir)
    _show([path.resolve() for path in (*needed, state_dir) if path.exists()], identity)
    _drop(identity)
    for path in needed:
        if not os.access(path, os.R_OK):
            raise CannotStart(
                f"the user {identity.uid} can't read {path}: make it readable to others, or start as an ordinary user"
            )


def _identity(state_dir: Path) -> Identity:
    try:
        user = pwd.getpwnam(USER)
        return Identity(user.pw_uid, user.pw_gid, [group.gr_gid for group in grp.getgrall() if USER in group.gr_mem])
    except KeyError:
        pass
    owner = state_dir.stat() if state_dir.exists() else None
    if owner is not None and owner.st_uid != 0:
        return Identity(owner.st_uid, owner.st_gid, [])
    return Identity(NOBODY, NOBODY, [])


def _give(state_dir: Path, identity: Identity) -> None:
    """The folder to the user, with what is ours in it; other things that are there keep their owner."""
    if state_dir.stat().st_uid == 0:
        _refuse_system_folder(state_dir)
        os.chown(state_dir, identity.uid, identity.gid)
    for folder in (state_dir, *(state_dir / name for name in OWN_FOLDERS)):
        with suppress(FileNotFoundError):
            _give_entries(folder, identity)


def _refuse_system_folder(state_dir: Path) -> None:
    """/etc given to an unprivileged user would be the end of the host: a folder of root's that holds other things may only be one
    below where people put their own.
    """
    foreign = sorted({entry.name for entry in state_dir.iterdir()} - OWN_FILES - OWN_FOLDERS)
    top, *below = state_dir.resolve().parts[1:] or ("",)
    if foreign and (not below or top in SYSTEM_FOLDERS):
        raise CannotStart(
            f"STATE_DIR {state_dir} belongs to root and holds {foreign[0]!r}, which isn't ours: name a folder of its own"
        )


def _give_entries(folder: Path, identity: Identity) -> None:
    """Root's own files and folders, as an earlier start or a person's sqlite3 left them. By descriptor, and never a file with a
    second name: the user may have put a link to another's file there.
    """
    fd = os.open(folder, os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in os.listdir(fd):
            if name in OWN_FILES | OWN_FOLDERS or folder.name in OWN_FOLDERS:
                _give_entry(fd, name, identity)
    finally:
        os.close(fd)


def _give_entry(folder: int, name: str, identity: Identity) -> None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return  # a link, a socket, or gone: nothing of ours
    try:
        about = os.fstat(fd)
        is_ours = stat.S_ISDIR(about.st_mode) or (stat.S_ISREG(about.st_mode) and about.st_nlink == 1)
        if is_ours and about.st_uid == 0:
            os.fchown(fd, identity.uid, identity.gid)
    finally:
        os.close(fd)


def _show(paths: list[Path], identity: Identity) -> None:
    """In a mount namespace of our own, makes every path reachable for the user."""
    hidden: dict[Path, set[Path]] = {}
    for path in paths:
        if (closed := _closed_folder(path, identity)) is not None:
            # A folder that is closed itself can't be opened by showing it elsewhere: its contents are shown in one of ours.
            hidden.setdefault(closed, set()).update({path} if _may_enter(path, identity) else path.iterdir())
    if not hidden:
        return
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        for folder, shown in hidden.items():
            _replace(folder, _outermost(shown))
    except OSError as error:
        raise CannotStart(
            f"a user without privileges can't enter {next(iter(hidden))}, and it can't be shown to him: {error}"
        ) from None


def _closed_folder(path: Path, identity: Identity) -> Path | None:
    """The highest folder on the way to `path`, or the path itself, that the user may not enter."""
    return next((folder for folder in (*reversed(path.parents), path) if not _may_enter(folder, identity)), None)


def _may_enter(folder: Path, identity: Identity) -> bool:
    status = folder.stat()
    if status.st_uid == identity.uid:
        return bool(status.st_mode & 0o100)
    return bool(status.st_mode & (0o010 if status.st_gid in (identity.gid, *identity.groups) else 0o001))


def _outermost(paths: set[Path]) -> list[Path]:
    return [path for path in paths if not any(other in path.parents for other in paths)]


def _replace(folder: Path, shown: list[Path]) -> None:
    """Puts an empty folder over `folder`, and into it the `shown` paths below, each by a descriptor that was opened before."""
    opened = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in shown}
    syscalls.mount("tmpfs", str(folder), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=1m")
    mask = os.umask(0o022)  # the user must get through these folders, whatever root's umask is
    for path, fd in opened.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.isdir(f"/proc/self/fd/{fd}"):
            path.mkdir()
        else:
            path.touch()
        syscalls.mount(f"/proc/self/fd/{fd}", str(path), None, syscalls.MS_BIND | syscalls.MS_REC)
        os.close(fd)
    os.umask(mask)


def _drop(identity: Identity) -> None:
    os.chdir("/")
    syscalls.drop_bounding_set()
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    syscalls.drop_capabilities()
    syscalls.forbid_new_privileges()
