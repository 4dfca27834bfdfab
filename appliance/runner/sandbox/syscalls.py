"""The system calls of namespaces, mounts and privileges that `os` of Python 3.11 doesn't have.

Each raises OSError with the call's errno. What a sandbox does is also there as a value, a `Call` (see `steps`).

Sources: unshare(2), setns(2), mount(2), mount_setattr(2), pivot_root(2),
prctl(2), capabilities(7), landlock(7), seccomp(2); numbers without a remark are the same on x86-64 and arm64.
"""

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

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
_SYS_CLOSE_RANGE = 436
_MOST_DESCRIPTORS = 2**32 - 1
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
_KEYCTL_SETPERM = 5

_SIGSET_WORDS = 16  # of glibc's sigset_t

_CAPSET_HEADER = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()

_libc = ctypes.CDLL(None, use_errno=True)
_libc_holding_the_interpreter = ctypes.PyDLL(None, use_errno=True)


class Call(NamedTuple):
    """A function of the C library with its arguments, as C has them. A result below 0 is a failure, and errno says which."""

    function: Callable[..., int]
    arguments: tuple[Any, ...]


def _check(result: int, call: str, argument: str = "") -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", argument or None)


def _make(call: Call, name: str, argument: str = "") -> int:
    result = int(call.function(*call.arguments))
    _check(min(result, 0), name, argument)
    return result


def bare_fork() -> int:
    """fork(2) without what Python does around it, for a process with one thread whose child is neither the interpreter's nor a
    library's business: a child has the locks, seeds and caches of its parent.

    `os.fork` has every module reset those in the child: 0.5 ms and 200 copied pages of a preloaded zygote.
    """
    pid = int(_libc_holding_the_interpreter.fork())
    if pid < 0:
        _check(pid, "fork")
    return pid


def unsharing(flags: int) -> Call:
    return Call(_libc.unshare, (flags,))


def unshare(flags: int) -> None:
    _make(unsharing(flags), "unshare", hex(flags))


def joining(fd: int, kind: int) -> Call:
    return Call(_libc.setns, (fd, kind))


def setns(fd: int, kind: int) -> None:
    _make(joining(fd, kind), "setns")


def mounting(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> Call:
    first, second, third, last = (None if text is None else os.fsencode(text) for text in (source, target, kind, options))
    return Call(_libc.mount, (first, second, third, ctypes.c_ulong(flags), last))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    _make(mounting(source, target, kind, flags, options), "mount", target)


def naming_the_host(name: bytes) -> Call:
    return Call(_libc.sethostname, (name, ctypes.c_size_t(len(name))))


def opening(path: str, flags: int, mode: int = 0o644) -> Call:
    return Call(_libc.open, (os.fsencode(path), flags, mode))


def writing(fd: int, content: bytes) -> Call:
    return Call(_libc.write, (fd, content, ctypes.c_size_t(len(content))))


def closing(fd: int) -> Call:
    return Call(_libc.close, (fd,))


def closing_range(first: int, last: int = _MOST_DESCRIPTORS) -> Call:
    """close_range(2) by its number, which is the same everywhere: its wrapper came with glibc 2.34."""
    return Call(_libc.syscall, (_SYS_CLOSE_RANGE, *map(ctypes.c_ulong, (first, last, 0))))


def copying(fd: int, target: int, flags: int = 0) -> Call:
    """dup3(2), with O_CLOEXEC among the flags or without. The two are never the same."""
    return Call(_libc.dup3, (fd, target, flags))


def changing_folder(path: str) -> Call:
    return Call(_libc.chdir, (os.fsencode(path),))


def setting_umask(mask: int) -> Call:
    return Call(_libc.umask, (mask,))


def leading_a_session() -> Call:
    return Call(_libc.setsid, ())


def pairing_sockets() -> Call:
    """Two ends of a SOCK_SEQPACKET connection, close-on-exec: the two lowest free descriptors."""
    return Call(_libc.socketpair, (socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC, 0, (ctypes.c_int * 2)()))


class _Vector(ctypes.Structure):
    """struct iovec"""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Rights(ctypes.Structure):
    """struct cmsghdr with one descriptor, padded as CMSG_SPACE(3) is."""

    _fields_ = (("length", ctypes.c_size_t), ("level", ctypes.c_int), ("type", ctypes.c_int), ("fd", ctypes.c_int))


class _Message(ctypes.Structure):
    """struct msghdr"""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.POINTER(_Rights)),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Parcel:
    """A message of one byte and one descriptor, to be sent or to be filled: SCM_RIGHTS of unix(7)."""

    def __init__(self, fd: int = -1) -> None:
        self._byte = ctypes.create_string_buffer(1)
        self._vector = _Vector(ctypes.addressof(self._byte), 1)
        length = socket.CMSG_LEN(ctypes.sizeof(ctypes.c_int))
        self._rights = _Rights(length, socket.SOL_SOCKET, socket.SCM_RIGHTS, fd)
        size = ctypes.sizeof(_Rights)
        self._message = _Message(None, 0, ctypes.pointer(self._vector), 1, ctypes.pointer(self._rights), size)

    def sending(self, channel: int) -> Call:
        return Call(_libc.sendmsg, (channel, ctypes.byref(self._message), 0))

    def receiving(self, channel: int) -> Call:
        """The descriptor is close-on-exec."""
        return Call(_libc.recvmsg, (channel, ctypes.byref(self._message), socket.MSG_CMSG_CLOEXEC))

    @property
    def received(self) -> int | None:
        """None at the end of the channel."""
        return int(self._rights.fd) if self._message.control_length else None


def holding_signals(signals: set[signal.Signals]) -> list[Call]:
    """They are blocked from then on, and can be read, without waiting, from the lowest free descriptor: signalfd(2)."""
    among = (ctypes.c_uint64 * _SIGSET_WORDS)(sum(1 << number - 1 for number in signals))
    flags = os.O_CLOEXEC | os.O_NONBLOCK  # SFD_CLOEXEC and SFD_NONBLOCK
    return [
        Call(_libc.sigprocmask, (signal.SIG_BLOCK, ctypes.byref(among), None)),
        Call(_libc.signalfd, (-1, ctypes.byref(among), flags)),
    ]


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


def _prctl_call(option: int, *arguments: int) -> Call:
    padded = [ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4]]
    return Call(_libc.prctl, (option, *padded))


def _prctl(option: int, *arguments: int) -> int:
    function, converted = _prctl_call(option, *arguments)
    return int(function(*converted))


def set_death_signal(signal: int) -> None:
    """The signal this process gets when the thread that made it ends. Cleared by a change of uid."""
    _check(_prctl(_PR_SET_PDEATHSIG, signal), "prctl(PDEATHSIG)")


def setting_dumpable(yes: bool) -> Call:
    return _prctl_call(_PR_SET_DUMPABLE, int(yes))


def become_subreaper() -> None:
    """Orphaned descendants become our children, so that they can be waited for."""
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1), "prctl(SUBREAPER)")


def forbid_new_privileges() -> None:
    _check(_prctl(_PR_SET_NO_NEW_PRIVS, 1), "prctl(NO_NEW_PRIVS)")


_Instructions = ctypes.POINTER(ctypes.c_char)


class FilterHead(ctypes.Structure):
    """struct sock_fprog: how many instructions, and where; it keeps them."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", _Instructions))

    @classmethod
    def of(cls, program: bytes, count: int) -> "FilterHead":
        return cls(count, ctypes.cast(ctypes.create_string_buffer(program, len(program)), _Instructions))


def putting_on_filter(head: FilterHead) -> Call:
    """Needs no_new_privs. By prctl and not by seccomp(2): its number is the same everywhere."""
    return Call(_libc.prctl, (_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(head)))


def putting_on_listened_filter(head: FilterHead) -> Call:
    """The same by seccomp(2); the result is a descriptor on which the filter's notices come: seccomp_unotify(2)."""
    arguments = (_SYS_SECCOMP, _SECCOMP_SET_MODE_FILTER, _SECCOMP_FILTER_FLAG_NEW_LISTENER, ctypes.byref(head))
    return Call(_libc.syscall, arguments)


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


def creating_landlock_ruleset(scoped: int) -> Call:
    """The result is a descriptor of a ruleset that handles no files and no ports."""
    wanted = _LandlockRulesetAttr(scoped=scoped)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    return Call(_libc.syscall, (_SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(wanted), size, 0))


def restricting_by_landlock(ruleset: int, flags: int) -> Call:
    return Call(_libc.syscall, (_SYS_LANDLOCK_RESTRICT_SELF, ruleset, flags))


def drop_bounding_set() -> None:
    """No later execve can give a capability back. Needs CAP_SETPCAP; the kernel says EINVAL after its last capability."""
    for capability in range(64):
        if _prctl(_PR_CAPBSET_DROP, capability) != 0:
            break


def becoming(uid: int) -> list[Call]:
    """Of this uid, with a group of the same number and no others."""
    return [
        Call(_libc.setgroups, (ctypes.c_size_t(0), None)),
        Call(_libc.setresgid, (uid, uid, uid)),
        Call(_libc.setresuid, (uid, uid, uid)),
    ]


def dropping_capabilities() -> list[Call]:
    """Empties the effective, permitted, inheritable and ambient sets."""
    return [
        _prctl_call(_PR_SET_KEEPCAPS, 0),
        _prctl_call(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL),
        Call(_libc.capset, (_CAPSET_HEADER, _NO_CAPABILITIES)),
    ]


def drop_capabilities() -> None:
    for call in dropping_capabilities():
        _make(call, "prctl or capset")


def leave_session_keyring() -> None:
    """For one that is empty, and that nobody may use, search or fill; keyrings(7). Where keyctl is refused or not there, nobody
    has any keys.
    """
    serial = _libc.syscall(_SYS_KEYCTL, _KEYCTL_JOIN_SESSION_KEYRING, None)
    if serial > 0:
        _libc.syscall(_SYS_KEYCTL, _KEYCTL_SETPERM, serial, 0)


def holds_capability(capability: int) -> bool:
    """Whether this process has it in its effective set, by /proc/self/status."""
    with open("/proc/self/status") as lines:
        effective = next(line for line in lines if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)
