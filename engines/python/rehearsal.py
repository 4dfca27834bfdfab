"""Runs a small job to nowhere in a worker that waits for its real one.

A forked process copies each page of memory when it first writes to it, reference counts included: some 300 pages, a
millisecond, for the emptiest job. Rehearsed while the worker is parked, that isn't part of anyone's call.

Before that the zygote rehearses often: what the interpreter writes when code has run some times (specialised instructions,
caches; PEP 659) is then shared, and no worker copies a page for it.
"""

import json
import logging
import os
import sys
import weakref
from typing import NoReturn

from engines.python import source
from engines.python.execute import execute
from engines.python.frames import Channel, read_frame
from engines.python.job import Job
from engines.python.streams import Streams

_OFTEN = 40  # a function is specialised after eight calls, each of its instructions a few executions later
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


def rehearse_often() -> None:
    """In the zygote, which has no streams of a run; leaves nothing behind but warm memory either."""
    own = {name: getattr(sys, name) for name in _STREAMS}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for _ in range(_OFTEN):
        rehearse(Streams(Channel(nowhere)))
    os.close(nowhere)
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
    handler = logging.StreamHandler(sys.stderr)
    logging.shutdown([weakref.ref(handler)])  # as it does at the run's end, on a handler of ours
    sys.modules.pop(source.MODULE, None)


def _through_a_pipe() -> tuple[dict[str, object], bytearray]:
    reader, writer = os.pipe()
    header = json.dumps(_HEADER).encode()
    os.write(writer, len(header).to_bytes(4, "big") + len(_SOURCE).to_bytes(4, "big") + header + _SOURCE)
    os.close(writer)
    frame = read_frame(reader)
    os.close(reader)
    assert frame is not None
    return frame


def _never(kind: str, message: str) -> NoReturn:
    raise AssertionError(message)
