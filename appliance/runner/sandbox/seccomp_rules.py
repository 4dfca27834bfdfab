"""Which system calls a worker and its guard may make: names and arguments, as values. `seccomp` makes programs of them.

What isn't named here doesn't exist: ENOSYS, what an older kernel would say, and what the C library and most programs have an
answer to. What is known to be dangerous is refused by EPERM, as the kernel refuses those without privilege. Only the lower
half of an argument is looked at: the kernel itself takes each argument that is tested here as an int.
"""

import errno
from collections.abc import Mapping
from typing import NamedTuple

from engines.spec import LEAVING, LEAVING_MASK

_WHOLE = 0xFFFFFFFF

TELL = -1  # whoever holds the filter's listener is told, and the caller waits for what that says: seccomp_unotify(2)


class Test(NamedTuple):
    """Whether an argument, by its position and masked, is among the values."""

    argument: int
    values: tuple[int, ...]
    mask: int = _WHOLE


class Answer(NamedTuple):
    """What is said to a call of which every test comes out as `outcome`: an errno, or TELL. Several tests only with True."""

    answer: int
    tests: tuple[Test, ...]
    outcome: bool


class Rules(NamedTuple):
    """`by_argument`: the first that fits is the answer, else it is allowed. `answered`: the errno, 0 for a success."""

    allowed: frozenset[str]
    by_argument: Mapping[str, tuple[Answer, ...]]
    answered: Mapping[str, int]


def never(answer: int, *tests: Test) -> Answer:
    return Answer(answer, tests, outcome=True)


def only(answer: int, test: Test) -> Answer:
    return Answer(answer, (test,), outcome=False)


_FILES = """
read write pread64 pwrite64 readv writev preadv pwritev preadv2 pwritev2 open openat openat2 creat close close_range lseek
stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 readlink readlinkat getcwd chdir fchdir
rename renameat renameat2 mkdir mkdirat rmdir unlink unlinkat link linkat symlink symlinkat mknod mknodat
chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat umask utime utimes futimesat utimensat
truncate ftruncate fallocate fadvise64 readahead flock fcntl dup dup2 dup3 pipe pipe2 getdents getdents64
sendfile copy_file_range splice tee vmsplice inotify_init inotify_init1 inotify_add_watch inotify_rm_watch
getxattr lgetxattr fgetxattr setxattr lsetxattr fsetxattr listxattr llistxattr flistxattr
removexattr lremovexattr fremovexattr
"""
_MEMORY = """
mmap munmap mremap mprotect msync madvise mincore brk mlock mlock2 munlock mlockall munlockall membarrier memfd_create
pkey_alloc pkey_free pkey_mprotect cachestat map_shadow_stack mseal
"""
_PROCESSES = """
fork vfork execve execveat exit exit_group wait4 waitid arch_prctl set_tid_address set_robust_list get_robust_list rseq
futex futex_waitv futex_wake futex_wait futex_requeue getpid gettid getppid getpgid getpgrp setpgid getsid setsid
getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid setfsuid
setfsgid setgroups capget capset getpriority setpriority ioprio_get ioprio_set sched_yield getcpu
sched_getaffinity sched_setaffinity sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr
sched_setattr sched_get_priority_max sched_get_priority_min sched_rr_get_interval
getrlimit setrlimit prlimit64 getrusage sysinfo uname getrandom pidfd_open pidfd_send_signal
"""
_SIGNALS_AND_TIME = """
rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait rt_sigqueueinfo rt_tgsigqueueinfo rt_sigsuspend
sigaltstack pause restart_syscall kill tkill tgkill signalfd signalfd4 alarm getitimer setitimer nanosleep clock_nanosleep
clock_gettime clock_getres gettimeofday time times timer_create timer_settime timer_gettime timer_getoverrun timer_delete
timerfd_create timerfd_settime timerfd_gettime
"""
_WAITING_AND_NETWORK = """
poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
connect bind getsockname getpeername sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg shutdown getsockopt
"""

_DANGEROUS = """
mount umount2 pivot_root chroot unshare setns open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr
ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd
bpf perf_event_open userfaultfd keyctl add_key request_key syslog _sysctl fanotify_init fanotify_mark open_by_handle_at
kexec_load kexec_file_load init_module finit_module delete_module create_module query_module get_kernel_syms
swapon swapoff reboot acct quotactl quotactl_fd vhangup iopl ioperm nfsservctl
settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname listen accept accept4
"""
# Everything that a run can write lies in memory. What these would flush are the host's disks, for everybody who uses them.
_NOTHING_TO_DO = "sync syncfs fsync fdatasync sync_file_range"

_TO_PID_1 = Test(0, (1,))
_CLONE_NEW_ANYTHING = 0x7E020000  # CLONE_NEWTIME has no bit here: clone(2) takes it for a part of the signal's number
_INTERNET = (2, 10)  # AF_INET, AF_INET6
_AF_UNIX = 1
_STREAM, _DATAGRAM, _SEQPACKET = 1, 2, 5
_TYPE = 0xF  # the rest are SOCK_NONBLOCK and SOCK_CLOEXEC
_TCP, _UDP = 6, 17
_SOL_SOCKET = 1
_ATTACH_A_PROGRAM = (26, 50, 51, 52)  # SO_ATTACH_FILTER, _BPF, _REUSEPORT_CBPF, _REUSEPORT_EBPF
_TCP_ULP = 31
_INJECT_OR_CHANGE_TERMINALS = (0x5412, 0x541C, 0x541D, 0x5423)  # TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD
_QUERY_PERSONALITY = 0xFFFFFFFF
# Of itself: signal of a parent's death, dumpable, name, timer slack, subreaper, no_new_privs, huge pages, names of its memory;
# and to ask for: its keepcaps, seccomp mode, bounding and ambient sets, securebits, speculation, tagged addresses.
_PRCTL_OPTIONS = (1, 2, 3, 4, 7, 8, 15, 16, 21, 23, 27, 29, 30, 36, 37, 38, 39, 40, 41, 42, 47, 52, 56, 0x53564D41)
_PRIO_USER, _IOPRIO_WHO_USER = 2, 3

_BY_ARGUMENT = {
    "socket": (
        only(errno.EAFNOSUPPORT, Test(0, _INTERNET)),
        only(errno.EPERM, Test(1, (_STREAM, _DATAGRAM), _TYPE)),
        only(errno.EPROTONOSUPPORT, Test(2, (0, _TCP, _UDP))),
    ),
    # A pair of datagram sockets could send to an abstract name; SOCK_RAW is another word for it.
    "socketpair": (
        only(errno.EAFNOSUPPORT, Test(0, (_AF_UNIX,))),
        only(errno.ESOCKTNOSUPPORT, Test(1, (_STREAM, _SEQPACKET), _TYPE)),
    ),
    "setsockopt": (
        never(errno.EPERM, Test(1, (_SOL_SOCKET,)), Test(2, _ATTACH_A_PROGRAM)),
        never(errno.ENOPROTOOPT, Test(1, (_TCP,)), Test(2, (_TCP_ULP,))),
    ),
    "clone": (only(errno.EPERM, Test(0, (0,), _CLONE_NEW_ANYTHING)),),
    "ioctl": (never(errno.EPERM, Test(1, _INJECT_OR_CHANGE_TERMINALS)),),
    "prctl": (only(errno.EINVAL, Test(0, _PRCTL_OPTIONS)),),
    "personality": (only(errno.EPERM, Test(0, (_QUERY_PERSONALITY,))),),
}

# Where worker and guard have one uid, the kernel lets the one do this to the other. A group or a session can't be meant:
# the worker has a session of its own, and the guard's group has no number in this pid namespace; kill(-1) spares pid 1.
_SPARING_PID_1 = {
    **{name: (never(errno.EPERM, _TO_PID_1),) for name in ("kill", "tkill", "rt_sigqueueinfo", "prlimit64")},
    **{name: (never(errno.EPERM, _TO_PID_1), never(errno.EPERM, Test(1, (1,)))) for name in ("tgkill", "rt_tgsigqueueinfo")},
    **{name: (never(errno.EPERM, _TO_PID_1),) for name in ("sched_setaffinity", "sched_setparam", "sched_setscheduler")},
    "sched_setattr": (never(errno.EPERM, _TO_PID_1),),
    "setpriority": (never(errno.EPERM, Test(1, (1,))), never(errno.EPERM, Test(0, (_PRIO_USER,)))),
    "ioprio_set": (never(errno.EPERM, Test(1, (1,))), never(errno.EPERM, Test(0, (_IOPRIO_WHO_USER,)))),
}

_LEAVING_CALLS = ("exit_group", "umask")
NOTICE_REQUESTS = (0xC0502100, 0xC0182101)  # SECCOMP_IOCTL_NOTIF_RECV, _SEND

_GUARD = """
poll ppoll recvfrom recvmsg sendto read write close wait4 rt_sigreturn rt_sigaction rt_sigprocmask restart_syscall getrusage
getpid clock_gettime exit_group exit mmap munmap mremap mprotect madvise brk futex newfstatat statx pread64
"""


def for_worker(own_uid: bool, leaves: bool = False) -> Rules:
    """`own_uid`: the guard has another uid, and the kernel itself keeps the worker's hands off it. `leaves`: there is a listener,
    which is told of the worker's end (`leaving`)."""
    allowed = _names(_FILES, _MEMORY, _PROCESSES, _SIGNALS_AND_TIME, _WAITING_AND_NETWORK)
    by_argument = _BY_ARGUMENT if own_uid else _BY_ARGUMENT | _SPARING_PID_1
    if leaves:
        by_argument = by_argument | dict.fromkeys(_LEAVING_CALLS, (never(TELL, Test(0, (LEAVING,), LEAVING_MASK)),))
    answered = dict.fromkeys(_names(_DANGEROUS), errno.EPERM) | dict.fromkeys(_names(_NOTHING_TO_DO), 0)
    if not own_uid:
        answered |= {"pidfd_open": errno.EPERM, "pidfd_send_signal": errno.EPERM}
    return Rules(allowed - by_argument.keys() - answered.keys(), by_argument, answered)


def for_guard() -> Rules:
    """What its loop needs once it watches: wait, hear, tell, reap, keep time, end; and Python's own memory."""
    return Rules(_names(_GUARD), {"ioctl": (only(errno.EPERM, Test(1, NOTICE_REQUESTS)),)}, {})


def _names(*texts: str) -> frozenset[str]:
    return frozenset(name for text in texts for name in text.split())
