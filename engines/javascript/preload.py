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

from engines.javascript.language import INSTALL
from engines.python.frames import SIZES, CutError, read_frame
from engines.spec import Lacking, Place

_OLDEST = 18
_MAIN = Path(__file__).with_name("main.js")
_STACK_BYTES = 2 << 20  # of each thread: the usual 8 MiB would count against the memory limit (RLIMIT_DATA)
_BESIDE_HEAP = 44  # MiB: node itself, its threads and the engine; measured: 40 resident when parked
_program = ""


def prepare(program: str) -> str:
    global _program
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
    return version[0].removeprefix("v")


def work(place: Place) -> int:
    job = place.job if place.in_scope else _confined(place)
    for fd in (job, place.answers):
        os.set_inheritable(fd, True)
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_BYTES, hard))
    os.execve(_program, [_program, *_flags(place.room), str(_MAIN), str(job), str(place.answers)], os.environ)


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


def _confined(place: Place) -> int:
    """A descriptor that the job comes from once its limits are on this process."""
    reader, writer = os.pipe()
    node = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reader)
        if os.fork() == 0:  # its parent ends at once: pid 1 reaps it, not node
            _hand_on(place, node, writer)
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    os.close(place.job)
    return reader


def _hand_on(place: Place, node: int, writer: int) -> None:
    """Ends this process. Without a job there is nothing to limit, and node sees the end of the pipe."""
    try:
        frame = read_frame(place.job)
        if frame is not None:
            header, blob = frame
            place.confine(header["limits"])
            for kind in (resource.RLIMIT_DATA, resource.RLIMIT_NPROC):
                resource.prlimit(node, kind, resource.getrlimit(kind))
            text = json.dumps(header).encode()
            with open(writer, "wb") as pipe:
                pipe.write(SIZES.pack(len(text), len(blob)) + text)
                pipe.write(blob)
    except (CutError, OSError):
        pass  # the server has gone, or node has
    finally:
        os._exit(0)
