"""What the zygote of JavaScript does: it learns node's version, and each worker becomes a node with the engine.

Where there is no scope, the run's limits must be put on node when its job is known, and node can't do that to itself: a helper
reads the job first, puts them on, hands the job on and ends.
"""

import json
import os
import re
import resource
import subprocess
from pathlib import Path
from typing import Any

from engines.javascript.language import INSTALL
from engines.python.frames import SIZES, CutError, read_frame
from engines.spec import Lacking, Place

_OLDEST = 18
_MAIN = Path(__file__).with_name("main.js")
# V8 maps memory ahead of its use, and RLIMIT_DATA counts it. Where that is met before the heap's own limit, V8 ends by SIGSEGV in
# one of two cases instead of saying what it lacks.
_UNTOUCHED_BYTES = 64 << 20
_STACK_BYTES = 2 << 20  # of each thread: the usual 8 MiB would count against the memory limit (RLIMIT_DATA)
_BESIDE_HEAP = 44  # MiB: node itself, its threads and the engine; measured: 40 resident when parked
_RESERVING = 24  # the first major version that reserves memory for machine code
_program = ""
_reserves = True


def prepare(program: str) -> str:
    global _program, _reserves
    _program = program
    try:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, close_fds=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Lacking(f"node can't be started in a sandbox: {error}; {INSTALL}") from error
    version = re.fullmatch(r"v(\d+)\.\S+", said.strip())
    if version is None:
        raise Lacking(f"node doesn't say its version, but {said[:80]!r}: {INSTALL}")
    if int(version[1]) < _OLDEST:
        raise Lacking(f"node is {version[0]}: {INSTALL}")
    _reserves = int(version[1]) >= _RESERVING
    return version[0].removeprefix("v")


def work(place: Place) -> int:
    pipes = [place.job, place.answers] if place.in_scope else _confined(place)
    for fd in pipes:
        os.set_inheritable(fd, True)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    os.execve(_program, [_program, *_flags(place.room), str(_MAIN), *map(str, pipes)], os.environ)


def _flags(room: int) -> list[str]:
    """`room` in MiB. The young generation is three times its semi-space, and not within max-old-space-size."""
    semi_space = max(1, min(16, room // 32))
    heap = max(room - _BESIDE_HEAP, 48) - 3 * semi_space
    return [
        f"--max-old-space-size={heap}",
        f"--max-semi-space-size={semi_space}",
        "--v8-pool-size=1",
        "--experimental-vm-modules",
        "--no-warnings",
    ]


def _confined(place: Place) -> list[int]:
    """Descriptors for the job, which comes once its limits are on this process; for the answers; and one to close when node has
    started, since the limits may be too low for that.
    """
    reader, writer = os.pipe()
    ready, starting = os.pipe()
    node = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.close(starting)
        if os.fork() == 0:  # its parent ends at once: pid 1 reaps it, not node
            _hand_on(place, node, ready, writer)
        os._exit(0)
    os.waitpid(child, 0)
    for fd in (writer, ready, place.job):
        os.close(fd)
    return [reader, place.answers, starting]


def _with_reserved(kind: int, reserved: int) -> tuple[int, int]:
    """This process's limits, made bigger by what node has reserved for machine code."""
    soft, hard = resource.getrlimit(kind)
    if kind != resource.RLIMIT_DATA or soft == resource.RLIM_INFINITY:
        return soft, hard
    return soft + reserved, hard + reserved


def _reserved_by(node: int) -> int:
    """Bytes of pages that may be written and executed, which count as data though hardly any of them is ever there: since version
    24 half a gigabyte.
    """
    reserved = 0
    for line in Path(f"/proc/{node}/maps").read_text().splitlines():
        place, rights, *_ = line.split(maxsplit=2)
        if rights == "rwxp":
            begin, end = (int(address, 16) for address in place.split("-"))
            reserved += end - begin
    return reserved


def _hand_on(place: Place, node: int, ready: int, writer: int) -> None:
    """Ends this process. Without a job there is nothing to limit, and node sees the end of the pipe."""
    try:
        os.read(ready, 1)  # its end
        reserved = _UNTOUCHED_BYTES + (_reserved_by(node) if _reserves else 0)
        _rehearse()
        frame = read_frame(place.job)
        if frame is not None:
            header, blob = frame
            place.confine(header["limits"])
            for kind in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC):
                resource.prlimit(node, kind, _with_reserved(kind, reserved))
            _write(writer, _framed(header, blob))
    except (CutError, OSError):
        pass  # the server has gone, or node has
    finally:
        os._exit(0)


def _rehearse() -> None:
    """So that a call doesn't pay for the pages that a forked process copies: engines/python/rehearsal.py."""
    reader, writer = os.pipe()
    _write(writer, _framed({"limits": {"memory_bytes": 0, "tasks": 0}}, bytearray(b" ")))
    os.close(writer)
    read_frame(reader)
    os.close(reader)
    for kind in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC):
        resource.prlimit(0, kind, resource.getrlimit(kind))


def _framed(header: dict[str, Any], blob: bytearray) -> bytes:
    text = json.dumps(header).encode()
    return SIZES.pack(len(text), len(blob)) + text + blob


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
