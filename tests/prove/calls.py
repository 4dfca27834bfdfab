"""Many calls in a row, several at a time, of every language that this machine has by turns: each gets its own answer, and nothing
is left of them but what is to be kept.
"""

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

from engines.table import Language
from tests.appliance import Appliance, alive, at_once, descendants, eventually, in_tmp, status_of
from tests.golang import with_every_language

WARM_UP = 50
WORKERS = 4
_STILL = 40  # looks at the same processes, half a second or more
# Each logs three lines and leaves a file behind, and fails when it finds one.
ACTIONS = {
    Language.PYTHON: """
def Run(engine):
    number = engine.params.get("number")
    for line in range(3):
        engine.log.info(f"{number}: {line}")
    open("/tmp/left", "x").write(number)
    engine.result.set({"number": number, "body": engine.body}, content_type="json")
""",
    Language.JAVASCRIPT: """
const fs = require("node:fs");
function Run(engine) {
  const number = engine.params.get("number");
  for (let line = 0; line < 3; line += 1) engine.log.info(`${number}: ${line}`);
  fs.writeFileSync("/tmp/left", number, { flag: "wx" });
  engine.result.set({ number, body: engine.body }, { content_type: "json" });
}
""",
    Language.GO: """package actions

import (
	"fmt"
	"os"
)

func Run(engine *Engine) error {
	number := engine.Params.Get("number")
	for line := 0; line < 3; line++ {
		engine.Log.Info(fmt.Sprintf("%s: %d", number, line))
	}
	file, err := os.OpenFile("/tmp/left", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	fmt.Fprint(file, number)
	engine.Result.Set(map[string]string{"number": number, "body": engine.Body}, ContentType("json"))
	return nil
}
""",
}


class Figures(NamedTuple):
    """What was found. `wrong`: answers that weren't the caller's own. Sizes in KiB, before and after the calls."""

    calls: int
    languages: list[str]
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
    with (
        tempfile.TemporaryDirectory() as folder,
        with_every_language(Path(folder) / "state", worker_pool_size=WORKERS) as appliance,
    ):
        languages = present(appliance)
        call_many(appliance, create_each(appliance, languages), WARM_UP, clients)
        codes = create_each(appliance, languages)
        before, temporary = measured(appliance), in_tmp()
        started = time.perf_counter()
        wrong = call_many(appliance, codes, calls, clients)
        seconds = time.perf_counter() - started
        after = measured(appliance)
        completed, logs = kept_of(appliance, codes)
        processes = descendants(appliance.process.pid)
        appliance.stop()
        eventually(lambda: not alive(processes), 5)
        files = {path.name for path in (Path(folder) / "state").iterdir()} - {"builds", "codeactions.db", "lock"}
        files |= in_tmp() - temporary
    return Figures(
        calls=calls,
        languages=languages,
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


def present(appliance: Appliance) -> list[str]:
    """Those of this machine."""
    services = appliance.request("GET", "/health").json()["services"]
    return [language for language in Language if not services[f"engine_{language}"]["message"].startswith("not configured")]


def create_each(appliance: Appliance, languages: list[str]) -> list[str]:
    return [appliance.create(ACTIONS[Language(language)], language=language) for language in languages]


def kept_of(appliance: Appliance, codes: list[str]) -> tuple[int, int]:
    """Runs that have completed, and log entries."""
    completed = sum(run["status"] == "completed" for code_id in codes for run in all_runs(appliance, code_id))
    logs = sum(appliance.manage("GET", f"/codelog?code_id={code_id}").json()["total"] for code_id in codes)
    return completed, logs


def call_many(appliance: Appliance, codes: list[str], calls: int, clients: int) -> int:
    """How many answers were wrong."""
    return sum(at_once([partial(client, appliance, codes, range(first, calls, clients)) for first in range(clients)]))


def client(appliance: Appliance, codes: list[str], numbers: range) -> int:
    connection = appliance.connect()
    wrong = 0
    for number in numbers:
        body = f"body of {number}"
        connection.request("POST", f"/action/endpoint/{codes[number % len(codes)]}?number={number}", body)
        answer = connection.getresponse()
        data = answer.read()
        wrong += answer.status != 200 or json.loads(data) != {"number": str(number), "body": body}
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
    """When nothing runs any more and each language's park is full again."""
    eventually(lambda: len(appliance.sandboxes) == 2 * WORKERS)
    seen: list[list[int]] = []

    def is_still() -> bool:
        seen.append(descendants(appliance.process.pid))
        return len(seen) > _STILL and all(processes == seen[-1] for processes in seen[-_STILL:])

    eventually(is_still)
    pids = (appliance.process.pid, appliance.launcher)
    server_kib, launcher_kib = (int(status_of(pid)["VmRSS"].split()[0]) for pid in pids)
    descriptors = sum(not _is_of_a_network(file) for pid in pids for file in Path(f"/proc/{pid}/fd").iterdir())
    return Measured(server_kib, launcher_kib, descriptors, len(descendants(pids[0])))


def _is_of_a_network(descriptor: Path) -> bool:
    """Those are kept for as many runs as there ever were at once."""
    try:
        target = os.readlink(descriptor)
    except FileNotFoundError:
        return True
    return target.startswith("net:") or "/net/" in target
