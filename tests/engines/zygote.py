"""A zygote for tests: preloads the engine, then forks a worker for each request on the socket that is its descriptor 0.

Request: limits as JSON, with the worker's four descriptors (job, out, stdout, stderr). Answer: "ready", and later the
wait status in decimal. The real one, with its cage, is the appliance's; the engine can't tell them apart.
"""

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import socket
import traceback
from types import ModuleType
from typing import Any

from engines.spec import Place, Program

HANG_SECONDS = 20.0  # less than the test waits: one that hangs fails alone


def main(preload: str, program: str) -> None:
    stage = importlib.import_module(preload)
    stage.prepare(program)
    server = socket.socket(fileno=os.dup(0))
    while True:
        message, fds, _flags, _address = socket.recv_fds(server, 4096, 4)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            server.close()
            work(stage, json.loads(message), fds)
        for fd in fds:
            os.close(fd)
        pidfd = os.pidfd_open(pid)
        if not select.select([pidfd], [], [], HANG_SECONDS)[0]:
            os.kill(pid, signal.SIGKILL)
        os.close(pidfd)
        status = os.waitpid(pid, 0)[1]
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # in the appliance the run's pid namespace does this
        server.send(str(status).encode())


def work(stage: ModuleType, request: dict[str, Any], fds: list[int]) -> None:
    status = 70
    try:
        job_fd, out_fd, stdout, stderr = fds
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.close(stdout)
        os.close(stderr)
        os.chdir("/tmp")
        os.setsid()
        if os.getuid() == 0 and "tasks" in request:
            # root is exempt from the limit; a uid of its own has only its own processes counted
            os.setresgid(request["uid"], request["uid"], request["uid"])
            os.setresuid(request["uid"], request["uid"], request["uid"])
        is_limited = "memory_bytes" in request or "tasks" in request
        status = stage.work(Place(job_fd, out_fd, request["room"], lambda _limits: apply(request), _no_program, not is_limited))
    except BaseException:  # noqa: BLE001 (the test that waits is to see it)
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def apply(request: dict[str, Any]) -> None:
    if "memory_bytes" in request:
        resource.setrlimit(resource.RLIMIT_DATA, (request["memory_bytes"],) * 2)
    if "tasks" in request:
        resource.setrlimit(resource.RLIMIT_NPROC, (request["tasks"],) * 2)


def _no_program() -> Program:
    raise AssertionError("it isn't compiled")
