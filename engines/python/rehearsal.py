"""Runs a small job to nowhere in a worker that waits for its real one.

A forked process copies each page of memory when it first writes to it, reference counts included: some 300 pages, a
millisecond, for the emptiest job. Rehearsed while the worker is parked, that isn't part of anyone's call.

Before that the zygote rehearses often: what the interpreter writes when code has run some times (specialised instructions,
caches; PEP 659) is then shared, and no worker copies a page for it.
"""

import json
import os
import sys
import weakref
from typing import NoReturn

from engines.python import source
from engines.python.execute import execute
from engines.python.frames import SIZES, Channel, read_frame
from engines.python.job import Job
from engines.python.streams import Streams
from engines.spec import OFTEN

_SOURCE = b"""\
def Run(engine):
    engine.log.info(engine.params.get("name"))
    engine.result.set({"header": engine.header.get("host"), "body": engine.body}, 200, "json", {"X-A": "b"})
"""
_STREAMS = ("stdin", "stdout", "stderr", "__stdin__", "__stdout__", "__stderr__")
_HEADER: dict[str, object] = {
    "type": "job",
    "source_bytes": len(_SOURCE),
    "method": "GET",
    "path": "/",
    "params": [["name", "value"]],
    "headers": [["Host", "localhost"]],
    "limits": {"memory_bytes": 0, "tasks": 0},
    "max_log_bytes": 1000,
    "max_result_bytes": 1000,
}
_TEXT = json.dumps(_HEADER).encode()
_FRAME = SIZES.pack(len(_TEXT), len(_SOURCE)) + _TEXT + _SOURCE


def rehearse_often(streams: Streams) -> None:
    """In the zygote, which has no streams of a run; leaves nothing behind but warm memory either."""
    own = {name: getattr(sys, name) for name in _STREAMS}
    for _ in range(OFTEN):
        streams.install()
        rehearse(streams)
    for name, stream in own.items():
        setattr(sys, name, stream)


def rehearse(streams: Streams) -> None:
    """Leaves nothing behind but warm memory."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    channel = Channel(nowhere, 1000)
    job = Job.from_frame(*_through_a_pipe())
    execute(job, channel, streams, end_run=_never)
    channel.send({"type": "done", "dropped": channel.dropped})
    os.close(nowhere)
    if (logging := sys.modules.get("logging")) is not None:
        handler = logging.StreamHandler(sys.stderr)
        logging.shutdown([weakref.ref(handler)])  # as it does at the run's end, on a handler of ours
    sys.modules.pop(source.MODULE, None)


def _through_a_pipe() -> tuple[dict[str, object], bytearray]:
    reader, writer = os.pipe()
    os.write(writer, _FRAME)
    os.close(writer)
    job = read_frame(reader)
    os.close(reader)
    assert job is not None
    return job


def _never(kind: str, message: str) -> NoReturn:
    raise AssertionError(message)
