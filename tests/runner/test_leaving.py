"""A worker's end is known before the kernel has given its memory back; and what that opens to an action: nothing."""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appliance.runner.sandbox import leaving as ends
from appliance.runner.sandbox import records, seccomp, seccomp_rules, syscalls
from appliance.runner.sandbox.leaving import Leaving, cpu_seconds
from appliance.runner.sandbox.steps import steps, take
from appliance.runner.sandbox.watch import Watch
from engines.spec import LEAVING, leave
from tests.appliance import HANG_GUARD, Appliance, eventually

RULES = seccomp_rules.for_worker(own_uid=True, leaves=True)
EXIT_GROUP = ("231", "94")  # its number on x86-64 and on aarch64


def tell(channel: socket.socket) -> None:
    """Puts the filter on that tells of this process's end, and hands its listener over."""
    syscalls.forbid_new_privileges()
    listener = take(steps("filter", [seccomp.Filter(RULES).putting_on()]))
    take(steps("leaving", ends.handing_over(channel.detach(), listener)))


def leaving_of(channel: socket.socket, worker: int) -> Leaving:
    threads, stat, *children = [take(steps("watch", [call])) for call in ends.opening_files(os.getpid(), worker)]
    return Leaving(channel.detach(), worker, ends.Files(threads, stat, tuple(children)))


@contextmanager
def worker(run: Callable[[], object]) -> Iterator[tuple[int, Leaving]]:
    """A process behind the filter that tells of its end; it is killed at last."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            tell(theirs)
            run()
        finally:
            os._exit(70)
    theirs.close()
    leaving = leaving_of(ours, pid)
    assert leaving.take_over(), "this kernel tells nobody of a call: SECCOMP_RET_USER_NOTIF came with Linux 5.0"
    try:
        yield pid, leaving
    finally:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], HANG_GUARD)[0])


def has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


@pytest.mark.parametrize("status", [0, 1, 70])
def test_its_end_is_told_while_it_is_still_there(status: int) -> None:
    with worker(lambda: leave(status)) as (pid, leaving):
        assert readable(leaving.listener)
        assert leaving.status() == status << 8
        assert not has_ended(pid)


def test_a_child_of_it_goes_its_way() -> None:
    def forks() -> None:
        child = os.fork()
        if child == 0:
            leave(3)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with worker(forks) as (pid, leaving):
        assert readable(leaving.listener)
        assert leaving.status() is None
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert ended.si_status == 3


def test_one_that_was_killed_in_the_call_is_none() -> None:
    with worker(lambda: leave(0)) as (pid, leaving):
        assert readable(leaving.listener)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: has_ended(pid))
        assert leaving.status() is None


def test_when_nobody_is_left_who_could_call_there_is_no_call() -> None:
    """The kernel then says POLLHUP, which isn't to be taken for one: to ask for it could wait for ever."""
    with worker(lambda: None) as (pid, leaving):
        eventually(lambda: has_ended(pid))
        poll = select.poll()
        poll.register(leaving.listener, select.POLLIN)
        assert not dict(poll.poll(0)).get(leaving.listener, 0) & select.POLLIN


def test_a_signal_does_not_disturb_it() -> None:
    """It is one with a handler that would break the call off."""

    def run() -> None:
        signal.signal(signal.SIGALRM, lambda number, frame: None)
        leave(0)

    with worker(run) as (pid, leaving):
        assert readable(leaving.listener)
        os.kill(pid, signal.SIGALRM)
        assert leaving.status() == 0
        assert not has_ended(pid)


def test_what_it_has_not_waited_for_is_counted() -> None:
    def leaves_a_child() -> None:
        (burnt, done), (alive, held) = os.pipe(), os.pipe()
        if os.fork() == 0:
            os.close(held)
            while time.process_time() < 0.2:
                pass
            os.write(done, b"!")
            os.read(alive, 1)  # until its parent has ended
            os._exit(0)
        os.read(burnt, 1)
        leave(0)

    with worker(leaves_a_child) as (_, leaving):
        assert readable(leaving.listener)
        assert leaving.spent_by_others() >= 0.2


def test_what_it_spent_before_the_claim_is_not_the_runs() -> None:
    """Also when the run is over before the guard has looked at the claim."""
    spent = end_of_a_run(lambda pid: records.Cost(round(cpu_seconds(pid) * 1e6))).cpu_us
    assert spent is not None
    assert 0 < spent < 100_000


def test_where_the_launcher_can_not_tell_it_the_guard_does() -> None:
    spent = end_of_a_run(lambda pid: records.Cost(None)).cpu_us
    assert spent is None or 0 < spent < 100_000


def test_a_run_that_would_have_cost_nothing_has_no_figure() -> None:
    assert end_of_a_run(lambda pid: records.Cost(60_000_000)).cpu_us is None


def end_of_a_run(before: Callable[[int], records.Cost]) -> records.Cost:
    """What the guard tells of a worker that spent 0.2 s before the claim, which says of it what `before` does."""
    ours, status = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    (job, begin), (told, tell) = os.pipe(), os.pipe()
    guard = os.fork()
    if guard == 0:
        try:
            ours.close()
            _guard_one(status, job, tell)
        finally:
            os._exit(70)
    status.close()
    pid = int(os.read(told, 20))
    eventually(lambda: has_listener(guard))
    os.kill(guard, signal.SIGSTOP)
    os.waitpid(guard, os.WUNTRACED)
    with ours:
        ours.send(records.pack(records.TIME, 60_000, records.pack_cost(before(pid))))
        os.write(begin, b"!")
        eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().split()[0] in EXIT_GROUP)
        os.kill(guard, signal.SIGCONT)
        record = records.unpack(ours.recv(records.SIZE))
    os.kill(guard, signal.SIGKILL)
    os.waitpid(guard, 0)
    assert record is not None
    assert (record.kind, record.number) == (records.EXIT, 0)
    return records.unpack_cost(record.payload)


def has_listener(pid: int) -> bool:
    with suppress(FileNotFoundError):  # one that it has just closed
        return any("seccomp" in os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _guard_one(status: socket.socket, job: int, told: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        syscalls.set_death_signal(signal.SIGKILL)
        while time.process_time() < 0.2:
            pass
        tell(theirs)
        os.read(job, 1)
        leave(0)
    theirs.close()
    leaving = leaving_of(ours, pid)
    readable(leaving.channel)
    os.write(told, b"%d" % pid)
    signals = take(steps("watch", syscalls.holding_signals({signal.SIGCHLD})))
    Watch(status.fileno(), signals, pid, leaving).until_the_end()


# With the guard its listener goes, and for the moment that the worker is left the call returns ENOSYS.
_UNTIL_KILLED = "while True:\n        try: {}\n        except OSError: pass"
FORGERIES = {
    "by a child": ("if os.fork() == 0: os._exit(LEAVING)\n    os.wait()", 200),
    "by a child, as failed": ("if os.fork() == 0: os._exit(LEAVING | 1)\n    os.wait()", 200),
    "by itself": ("os._exit(LEAVING)", 200),
    "by itself, as failed": ("os._exit(LEAVING | 3)", 500),
    "by a thread": ("threading.Thread(target=os._exit, args=(LEAVING | 3,)).start()\n    time.sleep(60)", 500),
    "by a child after the action": ("pid = os.fork()\n    if pid == 0: time.sleep(60)", 200),
    "by another call": (_UNTIL_KILLED.format("os.umask(LEAVING | 3)"), 500),
    "by another call of a child": ("if os.fork() == 0: os.umask(LEAVING | 3); os._exit(0)\n    os.wait()", 200),
    "by a hundred children": ("for _ in range(100):\n        if os.fork() == 0: os._exit(LEAVING | 9)\n        os.wait()", 200),
}


@pytest.mark.parametrize(("statement", "status"), FORGERIES.values(), ids=FORGERIES)
def test_the_mark_is_worth_no_more_than_an_exit(appliance: Appliance, statement: str, status: int) -> None:
    head = f"import os, threading, time\nLEAVING = {LEAVING}\ndef Run(engine):\n    engine.result.set('set')\n    "
    answer = appliance.run(head + statement + "\n", timeout=30)
    wanted = b"set" if status == 200 else b'{"message":"the action ended with exit status 3"}'
    assert (answer.status, answer.body.strip()) == (status, wanted)


def test_what_another_still_writes_is_not_waited_for(appliance: Appliance) -> None:
    """A child that holds the action's output open, and would write to it for a minute."""
    child = "os.fork() == 0 and [(os.write(1, b'.\\n'), time.sleep(0.01)) for _ in range(6000)]"
    answer = appliance.run(f"import os, time\ndef Run(engine):\n    print('said')\n    {child} and os._exit(0)\n", timeout=30)
    assert answer.status == 200
    assert ("debug", "said") in appliance.logs_of(answer)
    assert appliance.run_of(answer)["extra"]["usage"]["wall_ms"] < 5000
