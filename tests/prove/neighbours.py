"""One project burns processor, memory and processes with many calls; what another's calls cost meanwhile, as a ratio."""

import statistics
import threading
import time
from collections import Counter
from functools import partial
from typing import NamedTuple

from tests.appliance import Appliance, at_once
from tests.prove.scoped import NO_OP, busy, call_many
from tests.systemd.box import Box

WORKERS = 8
PAUSE_SECONDS = 0.05  # before each of the neighbour's calls: with none it would empty the park of sandboxes itself
BURN = "import time\ndef Run(engine):\n    ends_at = time.monotonic() + 2\n    while time.monotonic() < ends_at:\n        pass\n"
EAT = "def Run(engine):\n    kept = [bytes([1]) * (1 << 20) for _ in range(900)]\n"
FORK = "import os, time\ndef Run(engine):\n    while True:\n        if os.fork() == 0:\n            time.sleep(60)\n"
# What each of them comes to: it burns to its end, or meets its own limit.
BURNERS = {BURN: 200, EAT: 500, FORK: 500}


class Beside(NamedTuple):
    """Milliseconds of one project's calls, one after the other: alone, and beside the other project's. `burnt`: how the other's
    calls ended, by what they did."""

    statuses: Counter[int]
    alone_p95_ms: float
    beside_p95_ms: float
    burnt: list[set[int]]

    @property
    def ratio(self) -> float:
        return self.beside_p95_ms / self.alone_p95_ms


def neighbours(box: Box, calls: int, clients_of_each: int = 2) -> Beside:
    with busy(box, "codeactions-beside", WORKERS) as appliance:
        modest = appliance.create(NO_OP, project_uuid="modest")
        greedy = [appliance.create(source, project_uuid="greedy", memory="64M", cpu="50%", tasks=20) for source in BURNERS]
        call_many(appliance, modest, WORKERS * 4)
        alone = _measured(appliance, modest, calls, PAUSE_SECONDS)
        over = threading.Event()
        begun = threading.Barrier(len(greedy) * clients_of_each + 1)
        burning = [partial(_burn, appliance, code_id, begun, over) for code_id in greedy for _ in range(clients_of_each)]
        *burnt, beside = at_once([*burning, partial(_beside, appliance, modest, calls, begun, over)])
    return Beside(
        statuses=Counter(status for status, _ in (*alone, *beside)),
        alone_p95_ms=_p95(alone),
        beside_p95_ms=_p95(beside),
        burnt=[{status for status, _ in ended} for ended in burnt],
    )


Ended = list[tuple[int, float]]


def _burn(appliance: Appliance, code_id: str, begun: threading.Barrier, over: threading.Event) -> Ended:
    ended = []
    begun.wait()
    while not over.is_set():
        ended += _measured(appliance, code_id, 1, 0)
    return ended


def _beside(appliance: Appliance, code_id: str, calls: int, begun: threading.Barrier, over: threading.Event) -> Ended:
    begun.wait()
    try:
        return _measured(appliance, code_id, calls, PAUSE_SECONDS)
    finally:
        over.set()


def _measured(appliance: Appliance, code_id: str, calls: int, pause_s: float) -> Ended:
    """Status and milliseconds of each."""
    ended = []
    for _ in range(calls):
        time.sleep(pause_s)
        started = time.perf_counter()
        status = appliance.call(code_id).status
        ended.append((status, (time.perf_counter() - started) * 1000))
    return ended


def _p95(ended: Ended) -> float:
    return statistics.quantiles([milliseconds for _, milliseconds in ended], n=100)[94]
