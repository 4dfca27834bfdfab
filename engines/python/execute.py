"""An action or a plain program, from source to its last statement. What goes wrong comes out as its exception."""

import atexit
import threading
from collections.abc import Awaitable, Coroutine
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, TypeGuard

from engines.python import source
from engines.python.engine import EndRun, Engine, Header, Log, Params, Request, Result
from engines.python.frames import Channel
from engines.python.job import Job
from engines.python.streams import Streams

_CO_ITERABLE_COROUTINE = 0x100  # inspect.CO_ITERABLE_COROUTINE


def execute(job: Job, channel: Channel, streams: Streams, end_run: EndRun) -> None:
    source.remember(job.source)
    code = compile(job.source, source.FILE, "exec", dont_inherit=True)
    is_action = source.defines_run(code)
    module = source.make_module(is_action=is_action)
    if not is_action:
        channel.send({"type": "plain"})
        streams.pass_output()
        exec(code, module.__dict__)
        return
    streams.log_output()
    exec(code, module.__dict__)
    printed = streams.collected()
    engine = make_engine(job, channel, end_run)
    run = module.__dict__.get("Run")
    if callable(run):
        _finish(run(engine))
    else:  # a plain program after all: `Run` was deleted, or is something else
        engine.result.set(printed)


def make_engine(job: Job, channel: Channel, end_run: EndRun) -> Engine:
    request = Request(job.method, job.path, Params(job.params), Header(job.headers), job.body, Log(channel))
    return Engine(request, Result(channel, job.max_result_bytes, end_run))


def _finish(returned: object) -> None:
    if isinstance(returned, CoroutineType):
        _run(returned)
    elif isinstance(returned, Awaitable) or _is_coroutine_by_decorator(returned):
        _run(_wait(returned))
    elif isinstance(returned, GeneratorType | AsyncGeneratorType):
        raise TypeError("Run has a yield in it, so nothing of it was executed")


def _run(coroutine: Coroutine[Any, Any, object]) -> None:
    import asyncio  # where actions are asynchronous, the zygote has imported it

    asyncio.run(coroutine)


def _is_coroutine_by_decorator(returned: object) -> TypeGuard[Awaitable[object]]:
    """Of types.coroutine: inspect.isawaitable asks the same, but to import inspect takes a megabyte of every sandbox."""
    return isinstance(returned, GeneratorType) and bool(returned.gi_code.co_flags & _CO_ITERABLE_COROUTINE)


async def _wait(awaitable: Awaitable[object]) -> None:
    await awaitable


def wait_for_threads() -> None:
    """As the interpreter does at its end: threads that aren't daemons, thread pools, then what atexit was given."""
    if threading.active_count() > 1:
        threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
