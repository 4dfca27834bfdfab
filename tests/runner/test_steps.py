"""Prepared system calls: made in order up to the first that fails, which is named."""

import errno
import os
import socket
from pathlib import Path

import pytest

from appliance.runner.sandbox import guard, plans, records, syscalls
from appliance.runner.sandbox.leaving import Files, Leaving
from appliance.runner.sandbox.steps import StepFailed, steps, take
from appliance.runner.sandbox.watch import Watch


def test_what_the_last_call_did_is_the_result(tmp_path: Path) -> None:
    path = tmp_path / "file"
    fd = take(steps("open", [syscalls.opening(str(path), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)]))
    assert take(steps("write", [syscalls.writing(fd, b"abc"), syscalls.writing(fd, b"de")])) == 2
    assert take(steps("close", [syscalls.closing(fd)])) == 0
    assert path.read_bytes() == b"abcde"


def test_the_first_that_fails_is_named_and_the_last_that_is_made(tmp_path: Path) -> None:
    plan = [
        *steps("first", [syscalls.changing_folder(os.getcwd())]),
        *steps("second", [syscalls.opening(str(tmp_path / "missing"), os.O_RDONLY)]),
        *steps("third", [syscalls.opening(str(tmp_path / "made"), os.O_WRONLY | os.O_CREAT)]),
    ]
    with pytest.raises(StepFailed) as failed:
        take(plan)
    assert (failed.value.name, failed.value.number) == ("second", errno.ENOENT)
    assert list(tmp_path.iterdir()) == []


def test_one_that_may_fail_stops_nothing(tmp_path: Path) -> None:
    missing = [syscalls.opening(str(tmp_path / "missing"), os.O_RDONLY)]
    assert take([*steps("first", missing, may_fail=True), *steps("second", [syscalls.changing_folder(os.getcwd())])]) == 0


def test_a_parcel_brings_a_descriptor_or_tells_that_none_will_come() -> None:
    sent, came = syscalls.Parcel(1), syscalls.Parcel()
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        take(steps("send", [sent.sending(near.fileno()), came.receiving(far.fileno())]))
        assert came.received is not None
        assert os.fstat(came.received) == os.fstat(1)
        assert not os.get_inheritable(came.received)
        os.close(came.received)
        near.close()
        assert take(steps("receive", [came.receiving(far.fileno())])) == 0
        assert came.received is None


def test_a_sandbox_that_can_not_be_made_tells_the_step_and_the_errno() -> None:
    launchers, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        os.dup2(status.fileno(), plans.STATUS)
        failing = steps("mounts", [syscalls.opening("/missing", os.O_RDONLY)])
        watch = Watch(plans.STATUS, 0, 0, Leaving(0, 0, Files(0, 0, ())))
        place = guard.place_of(0, lambda limits: None, in_scope=False)
        guard.become_sandbox(plans.Plan(failing, [], None, [], [], watch, [], lambda place: 0, place))
    status.close()
    with launchers:
        record = records.unpack(launchers.recv(records.SIZE))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert record is not None
    assert (record.kind, record.number, record.payload.rstrip(b"\0")) == (records.FAILED, errno.ENOENT, b"mounts")
