"""The filters, verdict by verdict, for both machines: what the programs say, read as the kernel would."""

import errno
import itertools
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.runner.sandbox import seccomp, seccomp_rules
from appliance.runner.sandbox.seccomp import ALLOW, ERRNO, KILL_PROCESS, MACHINES, NOTIFY, Machine
from engines.spec import LEAVING
from tests.runner.bpf import verdict

WORKER, SHARED, GUARD = seccomp_rules.for_worker(True), seccomp_rules.for_worker(False), seccomp_rules.for_guard()
NO_CALL = ERRNO | errno.ENOSYS
REFUSED = ERRNO | errno.EPERM
HIGH = 0xDEAD_BEEF << 32  # the kernel takes the arguments that are tested for ints: it doesn't see the upper half
INT = 1 << 32
HEADERS = ("/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h")

machines = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)


def says(rules: seccomp_rules.Rules, machine: Machine, name: str, *arguments: int) -> int:
    return verdict(seccomp.program(rules, machine), machine.numbers[name], machine.audit, arguments)


DANGEROUS = """
mount umount2 pivot_root chroot unshare setns fsopen fsconfig fsmount fspick move_mount open_tree mount_setattr ptrace
process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd bpf perf_event_open userfaultfd
keyctl add_key request_key syslog fanotify_init fanotify_mark open_by_handle_at kexec_load kexec_file_load
init_module finit_module delete_module swapon swapoff reboot acct quotactl quotactl_fd vhangup settimeofday clock_settime
clock_adjtime adjtimex sethostname setdomainname listen accept accept4
"""
ABSENT = """
clone3 io_uring_setup io_uring_enter io_uring_register seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
memfd_secret io_setup io_submit io_destroy name_to_handle_at lookup_dcookie mbind set_mempolicy get_mempolicy migrate_pages
move_pages remap_file_pages shmget shmat shmctl semget semop semctl msgget msgsnd msgrcv mq_open mq_unlink statmount listmount
lsm_list_modules set_mempolicy_home_node
"""
EVERYDAY = """
read write openat close fstat newfstatat mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn execve execveat
wait4 waitid exit exit_group futex set_robust_list rseq getrandom epoll_pwait ppoll pselect6 eventfd2 timerfd_create signalfd4
inotify_init1 memfd_create sendfile splice copy_file_range pipe2 dup3 fcntl flock getdents64 statx faccessat2 openat2 close_range
connect bind sendto recvfrom sendmsg recvmsg shutdown getsockname getsockopt nanosleep clock_nanosleep clock_gettime
sched_getaffinity sched_setaffinity prlimit64 setrlimit getrusage setsid setpgid setresuid mknodat fallocate setxattr membarrier
"""


@machines
@pytest.mark.parametrize("name", DANGEROUS.split())
def test_a_dangerous_call_is_refused(machine: Machine, name: str) -> None:
    assert says(WORKER, machine, name) == says(SHARED, machine, name) == REFUSED


@machines
@pytest.mark.parametrize("name", ABSENT.split())
def test_a_call_that_nobody_needs_does_not_exist(machine: Machine, name: str) -> None:
    assert says(WORKER, machine, name) == says(SHARED, machine, name) == NO_CALL


@machines
@pytest.mark.parametrize("name", EVERYDAY.split())
def test_what_programs_need_is_allowed(machine: Machine, name: str) -> None:
    arguments = (2, 2, 2)
    assert says(WORKER, machine, name, *arguments) == says(SHARED, machine, name, *arguments) == ALLOW


@machines
@pytest.mark.parametrize("name", ["sync", "syncfs", "fsync", "fdatasync", "sync_file_range"])
def test_a_flush_succeeds_without_being_one(machine: Machine, name: str) -> None:
    """It would be one of the host's disks; what a run can write is in memory."""
    assert says(WORKER, machine, name) == ERRNO | 0


@machines
@pytest.mark.parametrize("number", [470, 500, 1000, 4095, 0x3FFF_FFFF])
def test_a_call_of_a_later_kernel_does_not_exist(machine: Machine, number: int) -> None:
    assert verdict(seccomp.program(WORKER, machine), number, machine.audit) == NO_CALL


@machines
def test_no_number_has_a_verdict_but_its_own(machine: Machine) -> None:
    """Every number of the table and the gaps between them: a range that is off by one would show."""
    content = seccomp.program(WORKER, machine)
    names = {number: name for name, number in machine.numbers.items()}
    for number in range(600):
        name, found = names.get(number, ""), verdict(content, number, machine.audit)
        if name in WORKER.answered:
            assert found == ERRNO | WORKER.answered[name], name
        elif name in WORKER.allowed:
            assert found == ALLOW, name
        elif name not in WORKER.by_argument:
            assert found == NO_CALL, name or number


@pytest.mark.parametrize("rules", [WORKER, SHARED, GUARD], ids=["own uid", "one uid", "guard"])
@machines
@pytest.mark.parametrize("audit", [0x4000_0003, 0x4000_0028, 0xC000_003E, 0xC000_00B7, 0, 0xFFFF_FFFF])
def test_another_architecture_kills(rules: seccomp_rules.Rules, machine: Machine, audit: int) -> None:
    content = seccomp.program(rules, machine)
    found = {verdict(content, number, audit) for number in range(500)}
    assert (found == {KILL_PROCESS}) == (audit != machine.audit)


@pytest.mark.parametrize("rules", [WORKER, SHARED, GUARD], ids=["own uid", "one uid", "guard"])
def test_an_x32_number_kills(rules: seccomp_rules.Rules) -> None:
    machine = MACHINES["x86_64"]
    content = seccomp.program(rules, machine)
    numbers = [*range(0x4000_0000, 0x4000_0240), 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]
    assert {verdict(content, number, machine.audit) for number in numbers} == {KILL_PROCESS}


STREAM, DATAGRAM, RAW, RDM, SEQPACKET, DCCP, PACKET = 1, 2, 3, 4, 5, 6, 10
FLAGS = (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


def of_socket(family: int, kind: int, protocol: int) -> int:
    """The rule in words: the internet's families, streams and datagrams, TCP and UDP."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return ERRNO | errno.EAFNOSUPPORT
    if kind not in (STREAM, DATAGRAM):
        return REFUSED
    return ALLOW if protocol in (0, 6, 17) else ERRNO | errno.EPROTONOSUPPORT


@machines
def test_sockets_are_the_internets_only(machine: Machine) -> None:
    content, number = seccomp.program(WORKER, machine), machine.numbers["socket"]
    matrix = itertools.product(range(48), range(16), FLAGS, (0, 1, 6, 17, 33, 58, 132, 136, 255, 262), (0, HIGH))
    for family, kind, flags, protocol, high in matrix:
        arguments = (family | high, kind | flags | high, protocol | high)
        assert verdict(content, number, machine.audit, arguments) == of_socket(family, kind, protocol), arguments


@machines
def test_pairs_of_sockets_are_streams_or_packets_of_unix(machine: Machine) -> None:
    content, number = seccomp.program(WORKER, machine), machine.numbers["socketpair"]
    for family, kind, flags in itertools.product(range(48), range(16), FLAGS):
        expected = ALLOW if kind in (STREAM, SEQPACKET) else ERRNO | errno.ESOCKTNOSUPPORT
        expected = expected if family == socket.AF_UNIX else ERRNO | errno.EAFNOSUPPORT
        assert verdict(content, number, machine.audit, (family, kind | flags)) == expected


NAMESPACES = {
    "mnt": 0x20000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
}
THREAD = 0x3D0F00  # as the C library makes one
VFORK = 0x4111


@machines
@pytest.mark.parametrize("kind", NAMESPACES)
def test_a_clone_makes_no_namespace(machine: Machine, kind: str) -> None:
    for also in (0, signal.SIGCHLD, THREAD, VFORK, NAMESPACES["user"], HIGH):
        assert says(WORKER, machine, "clone", NAMESPACES[kind] | also) == REFUSED


@machines
def test_a_clone_makes_processes_and_threads(machine: Machine) -> None:
    assert {says(WORKER, machine, "clone", flags) for flags in (signal.SIGCHLD, THREAD, VFORK, 0x1200011)} == {ALLOW}


@machines
@pytest.mark.parametrize(
    ("level", "option", "expected"),
    [
        *[(1, option, REFUSED) for option in (26, 50, 51, 52)],
        (6, 31, ERRNO | errno.ENOPROTOOPT),
        (1, 2, ALLOW),  # SO_REUSEADDR
        (41, 26, ALLOW),  # IPV6_V6ONLY has the number of SO_ATTACH_FILTER
        (6, 1, ALLOW),  # TCP_NODELAY
        (1, 31, ALLOW),
        (0, 50, ALLOW),
    ],
)
def test_a_socket_takes_options_but_no_program(machine: Machine, level: int, option: int, expected: int) -> None:
    assert says(WORKER, machine, "setsockopt", 3, level, option) == expected
    assert says(WORKER, machine, "setsockopt", 3, level | HIGH, option | HIGH) == expected


@machines
def test_a_terminal_takes_no_input_from_a_program(machine: Machine) -> None:
    assert {says(WORKER, machine, "ioctl", 0, order | high) for order in (0x5412, 0x541C, 0x5423) for high in (0, HIGH)} == {
        REFUSED
    }
    assert {says(WORKER, machine, "ioctl", 0, order) for order in (0x5401, 0x5413, 0x541B, 0x5421, 0x8912)} == {ALLOW}


@machines
def test_of_itself_a_process_may_change_what_is_harmless(machine: Machine) -> None:
    harmless = {1, 2, 3, 4, 15, 16, 36, 37, 38, 39, 0x53564D41}
    dangerous = {22, 24, 28, 31, 33, 35, 46, 53, 59, 62, 65, 0x59616D61, 0xFFFF_FFFF}
    assert {says(WORKER, machine, "prctl", option | HIGH) for option in harmless} == {ALLOW}
    assert {says(WORKER, machine, "prctl", option) for option in dangerous} == {ERRNO | errno.EINVAL}


@machines
def test_the_personality_can_be_asked_for_and_not_changed(machine: Machine) -> None:
    assert says(WORKER, machine, "personality", 0xFFFF_FFFF) == ALLOW
    assert {says(WORKER, machine, "personality", value) for value in (0, 8, 0x20000, 0x40000, 0x400000)} == {REFUSED}


def aimed_at_pid_1() -> Iterator[tuple[str, tuple[int, ...]]]:
    for name in ("kill", "tkill", "rt_sigqueueinfo", "prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setattr"):
        yield name, (1, 9)
        yield name, (1 | HIGH, 9)
    yield from [("tgkill", (1, 1, 9)), ("tgkill", (2, 1, 9)), ("tgkill", (1, 2, 9)), ("rt_tgsigqueueinfo", (1, 1, 9))]
    yield from [("setpriority", (0, 1, 19)), ("setpriority", (2, 0, 19)), ("setpriority", (2, 1000, 19))]
    yield from [("ioprio_set", (1, 1, 0)), ("ioprio_set", (3, 1000, 0)), ("sched_setparam", (1, 0))]
    yield from [("pidfd_open", (1, 0)), ("pidfd_open", (2, 0)), ("pidfd_send_signal", (3, 9))]


@machines
@pytest.mark.parametrize(("name", "arguments"), list(aimed_at_pid_1()))
def test_with_one_uid_pid_1_can_not_be_hurt(machine: Machine, name: str, arguments: tuple[int, ...]) -> None:
    assert says(SHARED, machine, name, *arguments) == REFUSED
    assert says(WORKER, machine, name, *arguments) == ALLOW  # where uids differ the kernel itself refuses


@machines
@pytest.mark.parametrize("pid", [0, 2, 7, INT - 1, INT - 7], ids=["itself", "2", "7", "everybody", "a group"])
def test_with_one_uid_its_own_processes_can_be_signalled(machine: Machine, pid: int) -> None:
    """kill(-1) and kill(0) too: the one spares pid 1, the other is the worker's own group."""
    for name in ("kill", "tkill", "rt_sigqueueinfo", "prlimit64"):
        assert says(SHARED, machine, name, pid, 15) == ALLOW
    assert says(SHARED, machine, "tgkill", pid, pid, 15) == ALLOW
    assert says(SHARED, machine, "setpriority", 0, pid, 15) == ALLOW


@machines
def test_a_guard_may_watch_and_nothing_else(machine: Machine) -> None:
    names = {number: name for name, number in machine.numbers.items()}
    content = seccomp.program(GUARD, machine)
    found = {number: verdict(content, number, machine.audit, (1, 1, 1)) for number in range(600)}
    allowed = {names[number] for number, answer in found.items() if answer == ALLOW}
    assert {"recvfrom", "sendto", "wait4", "read", "clock_gettime", "exit_group"} <= allowed <= WORKER.allowed
    forbidden = "openat execve clone fork socket kill connect sendmsg ioctl prctl setresuid"
    assert not allowed & set(forbidden.split())
    assert {names[number] for number, answer in found.items() if answer == REFUSED} == {"ioctl"}
    assert {answer for answer in found.values() if answer != ALLOW} == {NO_CALL, REFUSED}


@machines
def test_a_guard_may_hear_of_its_workers_end(machine: Machine) -> None:
    for request in (0xC050_2100, 0xC018_2101):  # SECCOMP_IOCTL_NOTIF_RECV, _SEND
        assert says(GUARD, machine, "ioctl", 3, request) == says(GUARD, machine, "ioctl", 3, HIGH | request) == ALLOW
    assert says(GUARD, machine, "ioctl", 3, 0x4008_2102) == REFUSED  # SECCOMP_IOCTL_NOTIF_ID_VALID
    assert says(GUARD, machine, "ioctl", 3, 0x4018_2103) == REFUSED  # SECCOMP_IOCTL_NOTIF_ADDFD: into the worker


@machines
@pytest.mark.parametrize("own_uid", [True, False])
def test_only_an_end_with_the_mark_is_told(machine: Machine, own_uid: bool) -> None:
    leaves = seccomp_rules.for_worker(own_uid, leaves=True)
    for status in (0, 1, 255):
        for name in ("exit_group", "umask"):
            assert says(leaves, machine, name, LEAVING | status) == NOTIFY
            assert says(leaves, machine, name, HIGH | LEAVING | status) == NOTIFY
            assert says(leaves, machine, name, status) == ALLOW
        assert says(leaves, machine, "exit", LEAVING | status) == ALLOW  # of one thread
        assert says(seccomp_rules.for_worker(own_uid), machine, "exit_group", LEAVING | status) == ALLOW
    assert says(leaves, machine, "exit_group", -1) == ALLOW
    for name, number in machine.numbers.items():
        if name not in ("exit_group", "umask"):
            assert verdict(seccomp.program(leaves, machine), number, machine.audit, (LEAVING,)) != NOTIFY, name


@machines
def test_every_name_of_the_rules_is_a_call_of_some_machine(machine: Machine) -> None:
    known = {name for one in MACHINES.values() for name in one.numbers}
    for rules in (WORKER, SHARED, GUARD):
        assert rules.allowed | rules.by_argument.keys() | rules.answered.keys() <= known
    assert 200 <= len(WORKER.allowed & machine.numbers.keys()) <= 250


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the header is of this machine")
def test_the_numbers_are_those_of_the_headers() -> None:
    header = next((path for path in map(Path, HEADERS) if path.exists()), None)
    if header is None:
        pytest.skip("NOT TESTED: no kernel headers here")
    defined = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", header.read_text())}
    assert {name: MACHINES["x86_64"].numbers.get(name) for name in defined} == defined


@pytest.mark.parametrize(("define", "number"), [("openat", 56), ("clone", 220), ("prlimit64", 261), ("kexec_file_load", 294)])
def test_the_numbers_of_the_other_machine_are_those_of_the_generic_table(define: str, number: int) -> None:
    assert MACHINES["aarch64"].numbers[define] == number
