"""What holds the program together at its end: who asked for it, and which failure it must end with."""

import os
import signal
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVarTuple, Unpack

import structlog
import trio

log = structlog.get_logger()

Ts = TypeVarTuple("Ts")


class Service(Protocol):
    """Calls `started()` when it is usable, and works until it is cancelled."""

    async def __call__(self, *, task_status: trio.TaskStatus[None]) -> None: ...


class _Started(trio.TaskStatus[None]):
    def __init__(self, inner: trio.TaskStatus[None]) -> None:
        self.has_started = False
        self._inner = inner

    def started(self, value: None = None) -> None:
        self.has_started = True
        self._inner.started(value)


class Fate:
    """`stop` is set when the program is to end: by a signal, or by a failure, which is then raised after the drain."""

    def __init__(self) -> None:
        self.stop = trio.Event()
        self._failure: BaseException | None = None

    def fail(self, failure: BaseException) -> None:
        """The first failure is the one that counts; a later one is only logged."""
        if self._failure is None:
            self._failure = failure
        log.error("stopping after a failure", reason=repr(failure))
        self.stop.set()

    async def supervise(self, service: Service, task_status: trio.TaskStatus[None]) -> None:
        """Runs a service; its failure, once it has started, ends the program in good order. Before that it is the caller's."""
        started = _Started(task_status)
        try:
            await service(task_status=started)
        except Exception as error:
            if not started.has_started:
                raise
            self.fail(error)

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure


class Jobs:
    """A nursery in which one task's unknown error ends the program in good order, instead of all other tasks at once."""

    def __init__(self, nursery: trio.Nursery, fate: Fate) -> None:
        self._nursery = nursery
        self._fate = fate

    def start_soon(self, function: Callable[[Unpack[Ts]], Awaitable[object]], *args: *Ts, name: str) -> None:
        self._nursery.start_soon(self._hold, function, args, name=name)

    async def _hold(self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]) -> None:
        try:
            await function(*args)
        except Exception as error:  # noqa: BLE001 - raised by `raise_failure`, when all is drained
            self._fate.fail(error)


async def watch_signals(fate: Fate, task_status: trio.TaskStatus[None]) -> None:
    """The first SIGTERM or SIGINT asks for the end, the second one is the end."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if fate.stop.is_set():
                log.warning("stopped at once, runs in flight are lost", signal=signal.Signals(number).name)
                os._exit(128 + number)
            log.info("stopping", signal=signal.Signals(number).name)
            fate.stop.set()
