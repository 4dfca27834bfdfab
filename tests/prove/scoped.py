"""What must hold on a real systemd, as often as one likes: no process outside its scope, nothing left, the end in time."""

import http.client
import statistics
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tests.appliance import Appliance, cmdline, eventually, status_of
from tests.prove import calls as unscoped
from tests.systemd.box import Box, BoxedAppliance, service, service_with_every_language

CLIENTS = 8
WORKERS = 4
STAGES, MOST_PARKED = 4, 8  # Python, JavaScript, Go and its builds; a stage has as many parked sandboxes as there are workers
_FIRST_SANDBOX_UID = 1_900_000_000
_CONTROLLERS = ("systemd", "memory", "pids", "cpu", "unified")
NO_OP = "def Run(engine):\n    pass\n"
FORKS = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\ndef Run(engine):\n    engine.result.set('forked')\n"
LINGERS = """
import os, signal, time
def Run(engine):
    for _ in range(10):
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
    time.sleep(600)
"""
TIMEOUT_SECONDS = 5  # the least that a code may have


class Left(NamedTuple):
    """After the calls: cgroups beyond those of parked sandboxes, units not collected, mounts more than before, processes with a
    sandbox's uid outside of every scope, and what the sweep had to end."""

    statuses: Counter[int]
    cgroups: int
    units: int
    mounts: int
    strays: int
    orphans: float

    @property
    def is_nothing(self) -> bool:
        return (self.cgroups, self.units, self.mounts, self.strays, self.orphans) == (0, 0, 0, 0, 0)


class Forks(NamedTuple):
    """`tasks`: the most tasks in a scope, by how many runs had that; two is both of them in it."""

    statuses: Counter[int]
    tasks: Counter[int]
    strays: int
    looks: int


class Ends(NamedTuple):
    """Milliseconds from the end of a run's time to the answer, which is given when nothing of the run lives."""

    messages: Counter[str]
    late_ms: list[float]
    strays: int

    @property
    def p99_ms(self) -> float:
        return statistics.quantiles(self.late_ms, n=100)[98]


class Mixed(NamedTuple):
    """Calls of all languages by turns: what `calls.Figures` has, and what `Left` has."""

    languages: list[str]
    wrong: int
    completed: int
    logs: int
    strays: int
    orphans: float

    def is_right(self, calls: int) -> bool:
        return self[1:] == (0, calls, 3 * calls, 0, 0)


@contextmanager
def busy(box: Box, name: str, workers: int = WORKERS) -> Iterator[BoxedAppliance]:
    room = {"worker_pool_queue_size": 1000, "worker_pool_project_queue_size": 1000, "code_limiter_max_requests": 1_000_000}
    with service(box, name, worker_pool_size=workers, **room) as appliance:
        yield appliance


def mixed(box: Box, count: int) -> Mixed:
    with service_with_every_language(box, "codeactions-mixed", worker_pool_size=WORKERS) as appliance:
        languages = unscoped.present(appliance)
        codes = unscoped.create_each(appliance, languages)
        wrong = unscoped.call_many(appliance, codes, count, CLIENTS)
        eventually(lambda: len(appliance.scopes()) <= kept(WORKERS))
        completed, logs = unscoped.kept_of(appliance, codes)
        return Mixed(languages, wrong, completed, logs, len(strays(appliance)), swept(appliance))


def kept(workers: int) -> int:
    """Parked sandboxes, which stay."""
    return STAGES * min(workers, MOST_PARKED)


def nothing_left(box: Box, calls: int) -> Left:
    with busy(box, "codeactions-proved") as appliance:
        code_id = appliance.create(NO_OP)
        call_many(appliance, code_id, 4 * CLIENTS)
        mounts = mounts_of(appliance)
        statuses = Counter(call_many(appliance, code_id, calls))
        eventually(lambda: all(len(appliance.scopes(controller)) <= kept(WORKERS) for controller in _CONTROLLERS))
        units = box.run("systemctl", "list-units", "--all", "--plain", "--no-legend", f"codeactions-run-{appliance.mark}-*.scope")
        return Left(
            statuses=statuses,
            cgroups=sum(max(0, len(appliance.scopes(controller)) - kept(WORKERS)) for controller in _CONTROLLERS),
            units=max(0, len(units.splitlines()) - kept(WORKERS)),
            mounts=mounts_of(appliance) - mounts,
            strays=len(strays(appliance)),
            orphans=swept(appliance),
        )


def forks(box: Box, calls: int) -> Forks:
    """Somebody looks all the time whether a process of a sandbox is where its maker is."""
    with busy(box, "codeactions-forking") as appliance:
        code_id = appliance.create(FORKS)
        found: list[int] = []
        looks = 0
        over = threading.Event()

        def watch() -> None:
            nonlocal looks
            while not over.is_set():
                found.extend(strays(appliance))
                looks += 1

        watcher = threading.Thread(target=watch)
        watcher.start()
        statuses = Counter(call_many(appliance, code_id, calls))
        over.set()
        watcher.join()
        tasks = Counter(int(run["extra"]["usage"]["tasks_peak"]) for run in runs_of(appliance, code_id))
        return Forks(statuses, tasks, len(found), looks)


def ends(box: Box, runs: int, at_a_time: int = 16) -> Ends:
    with busy(box, "codeactions-ending", at_a_time) as appliance:
        code_id = appliance.create(LINGERS, timeout=TIMEOUT_SECONDS)
        call_many(appliance, code_id, runs, at_a_time)
        ended = [run["extra"] for run in runs_of(appliance, code_id)]
        late = [extra["usage"]["wall_ms"] - 1000 * TIMEOUT_SECONDS for extra in ended]
        eventually(lambda: len(appliance.scopes()) <= kept(at_a_time))
        return Ends(Counter(extra["message"] for extra in ended), late, len(strays(appliance)))


def strays(appliance: BoxedAppliance) -> list[int]:
    """Processes with a sandbox's uid in the cgroup of who forked it. One that waits for its scope is still root's.

    The uid is looked at first: who has got it must be elsewhere from then on.
    """
    suspects = [pid for pid in appliance.processes if uid_of(pid) >= _FIRST_SANDBOX_UID and b"\0dns\0" not in cmdline(pid)]
    return [pid for pid in suspects if pid in appliance.processes]


def uid_of(pid: int) -> int:
    try:
        return int(status_of(pid)["Uid"].split()[0])
    except (FileNotFoundError, ProcessLookupError, KeyError):
        return 0


def mounts_of(appliance: BoxedAppliance) -> int:
    return len(Path(f"/proc/{appliance.launcher}/mountinfo").read_text().splitlines())


def swept(appliance: Appliance) -> float:
    text = appliance.manage("GET", "/metrics").body.decode()
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith("orphans_swept_total{"))


def call_many(appliance: Appliance, code_id: str, calls: int, clients: int = CLIENTS) -> list[int]:
    """The statuses."""
    with ThreadPoolExecutor(clients) as threads:  # each call has the guard of its connection; all of them take what they take
        shares = [len(range(first, calls, clients)) for first in range(clients)]
        return list(chain.from_iterable(threads.map(partial(_call_in_a_row, appliance, code_id), shares)))


def _call_in_a_row(appliance: Appliance, code_id: str, calls: int) -> list[int]:
    connection = appliance.connect()
    statuses = []
    for _ in range(calls):
        connection.request("POST", f"/action/endpoint/{code_id}")
        statuses.append(_status(connection))
    connection.close()
    return statuses


def _status(connection: http.client.HTTPConnection) -> int:
    answer = connection.getresponse()
    answer.read()
    return answer.status


def runs_of(appliance: Appliance, code_id: str) -> Iterator[dict[str, Any]]:
    path = f"/coderun?code_id={code_id}&limit=1000"
    while path:
        answer = appliance.manage("GET", path)
        yield from answer.json()
        path = answer.headers.get("link", "").partition(">")[0].removeprefix("<")
