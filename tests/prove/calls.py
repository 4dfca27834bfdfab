"""Many calls in a row, several at a time: each gets its own answer, and nothing is left of them but what is to be kept."""

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tests.appliance import Appliance, alive, at_once, descendants, eventually, in_tmp, running, status_of

WARM_UP = 50
WORKERS = 4
ACTION = """
def Run(engine):
    number = engine.params.get("number")
    for line in range(3):
        engine.log.info(f"{number}: {line}")
    open("/tmp/left", "x").write(number)
    engine.result.set({"number": number, "body": engine.body}, content_type="json")
"""


class Figures(NamedTuple):
    """What was found. `wrong`: answers that weren't the caller's own. Sizes in KiB, before and after the calls."""

    calls: int
    seconds: float
    wrong: int
    completed: int
    logs: int
    server_kib: tuple[int, int]
    launcher_kib: tuple[int, int]
    descriptors: tuple[int, int]
    processes: tuple[int, int]
    processes_left: int
    files_left: list[str]


def prove(calls: int, clients: int = 8) -> Figures:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "state", worker_pool_size=WORKERS) as appliance:
        call_many(appliance, appliance.create(ACTION), WARM_UP, clients)
        code_id = appliance.create(ACTION)
        before, temporary = measured(appliance), in_tmp()
        started = time.perf_counter()
        wrong = call_many(appliance, code_id, calls, clients)
        seconds = time.perf_counter() - started
        after = measured(appliance)
        completed = sum(run["status"] == "completed" for run in all_runs(appliance, code_id))
        logs = appliance.manage("GET", f"/codelog?code_id={code_id}").json()["total"]
        processes = descendants(appliance.process.pid)
        appliance.stop()
        eventually(lambda: not alive(processes), 5)
        files = {path.name for path in (Path(folder) / "state").iterdir()} - {"builds", "codeactions.db", "lock"}
        files |= in_tmp() - temporary
    return Figures(
        calls=calls,
        seconds=seconds,
        wrong=wrong,
        completed=completed,
        logs=logs,
        server_kib=(before.server_kib, after.server_kib),
        launcher_kib=(before.launcher_kib, after.launcher_kib),
        descriptors=(before.descriptors, after.descriptors),
        processes=(before.processes, after.processes),
        processes_left=len(alive(processes)),
        files_left=sorted(files),
    )


def call_many(appliance: Appliance, code_id: str, calls: int, clients: int) -> int:
    """How many answers were wrong."""
    return sum(at_once([partial(client, appliance, code_id, range(first, calls, clients)) for first in range(clients)]))


def client(appliance: Appliance, code_id: str, numbers: range) -> int:
    connection = appliance.connect()
    wrong = 0
    for number in numbers:
        body = f"body of {number}"
        connection.request("POST", f"/action/endpoint/{code_id}?number={number}", body)
        answer = connection.getresponse()
        wrong += (answer.status, answer.read()) != (200, json.dumps({"number": str(number), "body": body}).encode())
    connection.close()
    return wrong


def all_runs(appliance: Appliance, code_id: str) -> list[dict[str, object]]:
    """Every page; the times of the runs are the marks between them."""
    runs: list[dict[str, object]] = []
    path = f"/coderun?code_id={code_id}&limit=1000"
    while path:
        answer = appliance.manage("GET", path)
        runs += answer.json()
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
    return runs


class Measured(NamedTuple):
    server_kib: int
    launcher_kib: int
    descriptors: int
    processes: int


def measured(appliance: Appliance) -> Measured:
    """When nothing runs any more and the park is full again."""
    eventually(lambda: len(appliance.sandboxes) == 2 * WORKERS)
    pids = (appliance.process.pid, appliance.launcher)
    server_kib, launcher_kib = (int(status_of(pid)["VmRSS"].split()[0]) for pid in pids)
    descriptors = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
    return Measured(server_kib, launcher_kib, descriptors, len(descendants(pids[0])))
