"""Landlock's scopes, by a kernel that has them: each attack works without and is refused with."""

import errno
import os
import socket
from collections.abc import Callable

import pytest

from appliance.runner.sandbox import landlock
from appliance.runner.sandbox.steps import steps, take
from tests.runner.test_seccomp_kernel import unprivileged

SCOPE = landlock.scope()
needs_scopes = pytest.mark.skipif(SCOPE is None, reason="NOT TESTED: this kernel has no Landlock with scopes (Linux 6.12)")


def outcome(attack: Callable[[], object]) -> str:
    try:
        attack()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "it worked"


def enter() -> None:
    """With the descriptor that the next open gets."""
    assert SCOPE is not None
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    take(steps("filter", SCOPE.entering(free)))


def scoped(attack: Callable[[], object]) -> str:
    def run() -> str:
        enter()
        return outcome(attack)

    return str(unprivileged(run)[1])


def unscoped(attack: Callable[[], object]) -> str:
    return str(unprivileged(lambda: outcome(attack))[1])


@needs_scopes
def test_no_signal_leaves_the_scope() -> None:
    maker = os.getpid()
    assert unscoped(lambda: os.kill(maker, 0)) == "it worked"
    assert scoped(lambda: os.kill(maker, 0)) == "EPERM"
    assert scoped(lambda: os.kill(os.getpid(), 0)) == "it worked"


@needs_scopes
def test_no_abstract_socket_outside_the_scope_can_be_reached() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")  # a name of the kernel's choice, in the abstract
        listener.listen()
        name = listener.getsockname()
        assert unscoped(lambda: socket.socket(socket.AF_UNIX).connect(name)) == "it worked"
        assert scoped(lambda: socket.socket(socket.AF_UNIX).connect(name)) == "EPERM"


@needs_scopes
def test_entering_leaves_no_descriptor_behind() -> None:
    def held() -> list[str]:
        return os.listdir("/proc/self/fd")

    def run() -> bool:
        before = held()
        enter()
        return held() == before

    assert unprivileged(run) == (0, True)
