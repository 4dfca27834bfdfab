"""The filters as the kernel itself takes them: in a process that was forked for it; and hosts that lack it."""

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from appliance.runner.sandbox import seccomp, seccomp_rules, syscalls, walls
from appliance.runner.sandbox.seccomp import ALLOW, ERRNO, MACHINES
from appliance.runner.sandbox.steps import StepFailed, steps, take
from tests.runner.bpf import verdict

WORKER, GUARD = seccomp_rules.for_worker(True), seccomp_rules.for_guard()
ROOTS_NAMESPACES = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
HERE = MACHINES[os.uname().machine]


def in_child(run: Callable[[], Any]) -> tuple[int, Any]:
    """Wait status and result of a function in a forked process, that ends as soon as it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, json.dumps(run()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        content = pipe.read()
    return os.waitpid(pid, 0)[1], json.loads(content) if content else None


def call(number: int, *arguments: int) -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(argument) for argument in arguments])
    return "it worked" if result != -1 else errno.errorcode[ctypes.get_errno()]


def unprivileged(run: Callable[[], Any]) -> tuple[int, Any]:
    def confined() -> Any:
        syscalls.forbid_new_privileges()
        return run()

    return in_child(confined)


def behind(rules: seccomp_rules.Rules, run: Callable[[], Any]) -> tuple[int, Any]:
    def caged() -> Any:
        take(steps("filter", [seccomp.Filter(rules).putting_on()]))
        return run()

    return unprivileged(caged)


def test_the_kernel_reads_the_filter_as_we_do() -> None:
    """Every call that isn't allowed, with arguments that no call could take: the answer is the filter's."""
    expected = {
        name: verdict(seccomp.program(WORKER, HERE), number, HERE.audit, (-1, -1, -1))
        for name, number in HERE.numbers.items()
        if name not in WORKER.allowed and name != "personality"
    }
    numbers = [HERE.numbers[name] for name, answer in expected.items() if answer != ALLOW]
    _, seen = behind(WORKER, lambda: [call(number, -1, -1, -1) for number in numbers])
    assert seen == [errno.errorcode.get(answer - ERRNO, "it worked") for answer in expected.values() if answer != ALLOW]
    assert len(seen) > 100


def test_the_kernel_kills_for_an_x32_number() -> None:
    if HERE.foreign_from is None:
        pytest.skip("this machine has no x32")
    status, seen = behind(WORKER, lambda: call(0x4000_0000 | HERE.numbers["getpid"]))
    assert (os.WTERMSIG(status), seen) == (signal.SIGSYS, None)
    status, seen = in_child(lambda: call(0x4000_0000 | HERE.numbers["getpid"]))
    assert (status, seen) in ((0, "ENOSYS"), (0, "it worked"))


def test_a_filter_is_inherited_and_survives_an_exec() -> None:
    script = "import os\ntry:\n    os.chroot('/')\nexcept OSError as error:\n    print(error.errno)"

    def run() -> str:
        return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout

    assert behind(WORKER, run) == (0, f"{errno.EPERM}\n")


def test_a_filter_can_not_be_replaced() -> None:
    open_to_all = seccomp_rules.Rules(frozenset(HERE.numbers), {}, {})

    def run() -> str:
        try:
            take(steps("filter", [seccomp.Filter(open_to_all).putting_on()]))
        except StepFailed as error:
            return errno.errorcode[error.number]
        return "it worked"

    assert behind(WORKER, run) == (0, "EINVAL")
    assert unprivileged(run) == (0, "it worked")


def test_a_guards_filter_lets_it_wait_and_tell() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.send(b"x")
    parts = {"open": 0, "told": 0}

    def run() -> Any:
        parts["told"] = theirs.send(theirs.recv(1))
        parts["clock"] = time.clock_gettime((~os.getpid() << 3) | 2) > 0
        try:
            os.open("/dev/null", os.O_RDONLY)
        except OSError as error:
            parts["open"] = error.errno or 0
        return parts

    with ours, theirs:
        assert behind(GUARD, run) == (0, {"open": errno.ENOSYS, "told": 1, "clock": True})
        assert ours.recv(1) == b"x"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the probe shows that a privilege is refused: it needs one")


@needs_root
def test_a_host_with_filters_is_seen_to_have_them() -> None:
    _, lacking = unprivileged(lambda: list(walls.survey().lacking))
    assert walls.SECCOMP not in lacking


def without(option: str) -> seccomp_rules.Rules:
    """A kernel that lacks something, made by a filter of its own: what it would answer is what it answers."""
    refusals = {
        "seccomp": {
            "prctl": (seccomp_rules.never(errno.EINVAL, seccomp_rules.Test(0, (22,))),),
            "seccomp": (seccomp_rules.never(errno.ENOSYS, seccomp_rules.Test(0, (0, 1, 2, 3))),),
        },
        "namespaces": {"unshare": (seccomp_rules.never(errno.EPERM, seccomp_rules.Test(0, (ROOTS_NAMESPACES,))),)},
        "listeners": {"seccomp": (seccomp_rules.never(errno.EOPNOTSUPP, seccomp_rules.Test(0, (2,))),)},
        "a free listener": {"seccomp": (seccomp_rules.never(errno.EBUSY, seccomp_rules.Test(0, (1,))),)},
        "landlock": {"landlock_create_ruleset": (seccomp_rules.never(errno.ENOSYS, seccomp_rules.Test(2, (0, 1))),)},
    }[option]
    return seccomp_rules.Rules(frozenset(HERE.numbers) - refusals.keys(), refusals, {})


@needs_root
@pytest.mark.parametrize("name", ["seccomp", "landlock"])
def test_a_host_without_is_seen_to_lack_it(name: str) -> None:
    _, lacking = behind(without(name), lambda: list(walls.survey().lacking))
    assert name in lacking
