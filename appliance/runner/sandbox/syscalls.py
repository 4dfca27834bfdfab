"""The system calls of namespaces, mounts and privileges that `os` of Python 3.11 doesn't have.

Each raises OSError with the call's errno. Sources: unshare(2), setns(2), mount(2), mount_setattr(2), pivot_root(2),
prctl(2), capabilities(7), landlock(7), seccomp(2); numbers without a remark are the same on x86-64 and arm64.
"""

import ctypes
import os

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 0x2

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
_SYS_MOUNT_SETATTR = 442
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_RESTRICT_SELF = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_AT_FDCWD = -100
_AT_RECURSIVE = 0x8000

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_PR_CAPBSET_DROP = 24
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
CAP_SYS_ADMIN = 21

_IS_ARM = os.uname().machine == "aarch64"
_SYS_SECCOMP = 277 if _IS_ARM else 317
_SECCOMP_SET_MODE_FILTER = 1
_SECCOMP_FILTER_FLAG_NEW_LISTENER = 8
_SECCOMP_GET_ACTION_AVAIL = 2
_SECCOMP_GET_NOTIF_SIZES = 3
_SYS_KEYCTL = 219 if _IS_ARM else 250
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_CLEAR = 7
_KEYCTL_GET_PERSISTENT = 22
_KEYRINGS_OF_PROCESS = -2
_KEYRINGS_OF_USER = (-4, -5)  # of the uid, and the session's that it has by default

_CAPSET_HEADER = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()

_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding_the_interpreter = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, call: str, argument: str = "") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", argument or None)


def bare_fork() -> int:
    """fork(2) without what Python does around it, for a single-threaded process whose child only ever forks again.

    `os.fork` has every module reset its locks, seeds and caches in the child: 0.5 ms and 210 copied pages of a preloaded zygote.
    """
    pid = int(_libc_holding_the_interpreter.fork())
    if pid < 0:
        _check(pid, "fork")
    return pid


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare", hex(flags))


def setns(fd: int, kind: int) -> None:
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _check(result, "mount", target)


def umount(target: str, flags: int) -> None:
    _check(_libc.umount2(os.fsencode(target), flags), "umount", target)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def restrict_mount(target: str, attributes: int) -> None:
    """Sets MOUNT_ATTR_… on the mount at `target` and on every mount below it (Linux 5.12)."""
    wanted = _MountAttr(attr_set=attributes)
    result = _libc.syscall(
        _SYS_MOUNT_SETATTR,
        _AT_FDCWD,
        os.fsencode(target),
        _AT_RECURSIVE,
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    _check(result, "mount_setattr", target)


def pivot_into(new_root: str) -> None:
    """Makes the mount at `new_root` the root, and detaches the old one with everything below it."""
    os.chdir(new_root)
    # "." as both arguments stacks the old root upon the new one, so no folder for it is needed: pivot_root(2), Notes.
    _check(_libc.pivot_root(b".", b"."), "pivot_root", new_root)
    umount(".", MNT_DETACH)
    os.chdir("/")


def _prctl(option: int, *arguments: int) -> int:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *padded))


def set_death_signal(signal: int) -> None:
    """The signal this process gets when the thread that made it ends. Cleared by a change of uid."""
    _check(_prctl(_PR_SET_PDEATHSIG, signal), "prctl(PDEATHSIG)")


def set_dumpable(yes: bool) -> None:
    _check(_prctl(_PR_SET_DUMPABLE, int(yes)), "prctl(DUMPABLE)")


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that they can be waited for."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "prctl(SUBREAPER)")


def forbid_new_privileges() -> None:
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl(NO_NEW_PRIVS)")


class FilterHead(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def put_on_filter(head: FilterHead) -> None:
    """Needs no_new_privs. By prctl and not by seccomp(2): its number is the same everywhere."""
    _check(_prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(head)), "prctl(SECCOMP)")


def put_on_listened_filter(head: FilterHead) -> int:
    """The same by seccomp(2), with a descriptor on which the filter's notices come: seccomp_unotify(2)."""
    listener = int(_libc.syscall(_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER, ctypes.byref(head)))
    _check(min(listener, 0), "seccomp")
    return listener


def can_listen(action: int, notice_bytes: int, reply_bytes: int) -> bool:
    """Whether this kernel's filters can tell (`action`: SECCOMP_RET_USER_NOTIF), in structures of these sizes."""
    wanted, sizes = ctypes.c_uint32(action), (ctypes.c_uint16 * 3)()
    return (
        _libc.syscall(_SYS_SECCOMP, _SECCOMP_GET_ACTION_AVAIL, 0, ctypes.byref(wanted)) == 0
        and _libc.syscall(_SYS_SECCOMP, _SECCOMP_GET_NOTIF_SIZES, 0, ctypes.byref(sizes)) == 0
        and tuple(sizes)[:2] == (notice_bytes, reply_bytes)
    )


class _LandlockRulesetAttr(ctypes.Structure):
    _fields_ = (("handled_fs", ctypes.c_uint64), ("handled_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


def landlock_abi() -> int:
    """0 where there is none."""
    return max(0, int(_libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_CREATE_RULESET_VERSION)))


def create_landlock_ruleset(scoped: int) -> int:
    """A descriptor of a ruleset that handles no files and no ports."""
    wanted = _LandlockRulesetAttr(scoped=scoped)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    ruleset = int(_libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), size, 0))
    _check(min(ruleset, 0), "landlock_create_ruleset")
    return ruleset


def restrict_by_landlock(ruleset: int, flags: int) -> None:
    _check(_libc.syscall(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, flags), "landlock_restrict_self")


def drop_bounding_set() -> None:
    """No later execve can give a capability back. Needs CAP_SETPCAP; the kernel says EINVAL after its last capability."""
    for capability in range(64):
        if _prctl(_PR_CAPBSET_DROP, capability) != 0:
            break


def drop_capabilities() -> None:
    """Empties the effective, permitted, inheritable and ambient sets."""
    _prctl(_PR_SET_KEEPCAPS, 0)
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _check(_libc.capset(_CAPSET_HEADER, _NO_CAPABILITIES), "capset")


def forget_keys() -> None:
    """Leaves the keyring that the makers' session gave us, and empties those that the kernel keeps for a uid beyond its last
    process: keyrings(7). Where keyctl is refused or not there, it is so for everybody.
    """
    _libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)
    persistent = _libc.syscall(_SYS_KEYCTL, _KEYCTL_GET_PERSISTENT, -1, _KEYRINGS_OF_PROCESS)
    for keyring in (*_KEYRINGS_OF_USER, *([persistent] if persistent > 0 else [])):
        _libc.syscall(_SYS_KEYCTL, _KEYCTL_CLEAR, keyring)


def holds_capability(capability: int) -> bool:
    """Whether this process has it in its effective set, by /proc/self/status."""
    with open("/proc/self/status") as lines:
        effective = next(line for line in lines if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)
