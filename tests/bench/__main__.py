"""What a call costs, as ratios in one run: `make bench`.

The machine is noisy, and twice as fast in one minute as in another: quote the ratio to the bare interpreter, which is started
just before and just after what a row measures, not the milliseconds.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.appliance import ROOT, Appliance, descendants, environment_of, eventually, leave_the_network, running, usable_settings
from tests.bench import golang
from tests.golang import compiling
from tests.systemd.box import booted, service, why_no_box

JOBS: dict[str, dict[str, str]] = {
    "no-op": {"python": "def Run(engine):\n    pass\n", "javascript": "function Run(engine) {}\n"},
    "JSON echo, 10 kB": {
        "python": "import json\n\ndef Run(engine):\n    engine.result.set(json.loads(engine.body), content_type='json')\n",
        "javascript": "function Run(engine) {\n  engine.result.set(JSON.parse(engine.body), { content_type: 'json' });\n}\n",
    },
    "20 log lines": {
        "python": "def Run(engine):\n    for n in range(20):\n        engine.log.info(f'line {n}')\n",
        "javascript": "function Run(engine) {\n  for (let n = 0; n < 20; n += 1) engine.log.info(`line ${n}`);\n}\n",
    },
}
ASYNC = "async def Run(engine):\n    pass\n"
BODY = b'{"text": "' + b"x" * 10_000 + b'"}'
WORKERS, CALLS = 4, 1_000_000
WARM_UP, SEQUENTIAL, PARALLEL, CLIENTS = 20, 300, 1500, 8
RESTED, PAUSE_SECONDS = 60, 0.25
BARE = 60
LANGUAGES = ("python", "javascript")


class Row(NamedTuple):
    """`bare_ms`: the least that a process a call would cost in the same minute, p50."""

    name: str
    times_ms: list[float]
    a_second: float
    bare_ms: float


def main() -> None:
    leave_the_network()
    rows: list[Row] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), worker_pool_size=WORKERS, code_limiter_max_requests=CALLS) as appliance,
    ):
        languages = [language for language in LANGUAGES if can_run(appliance, language)]
        for language in languages:
            for name, sources in JOBS.items():
                rows += both(f"{language}: {name}", appliance, sources[language], BODY if "echo" in name else b"", language)
            rows += [paced(appliance, language, JOBS["no-op"][language]), first_after_save(appliance, language)]
        rows.append(rested("python: async no-op, with pauses", appliance, once(appliance.create(ASYNC))))
        parked = {language: memory_of_parked(appliance, appliance.zygote_of(language), WORKERS) for language in languages}
        parked["python, with more of its library"] = memory_of_parked(appliance, appliance.reserve[0], WORKERS)
    with (
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), worker_pool_size=2 * WORKERS) as appliance,
    ):
        parked[f"python, {2 * WORKERS} of them"] = memory_of_parked(appliance, appliance.zygote, 2 * WORKERS)
    rows += in_go()
    if reason := why_no_box():
        print(f"NOT MEASURED in scopes: {reason}")
    else:
        with booted() as box:
            with service(box, "codeactions-bench", worker_pool_size=WORKERS, code_limiter_max_requests=CALLS) as boxed:
                rows += both("no-op in a scope", boxed, JOBS["no-op"]["python"], b"", "python")
            inside_the_runner("in a scope", box.command)
    inside_the_runner("without scope", lambda *command: list(command))
    show(rows)
    for kind, mib in parked.items():
        print(f"a parked sandbox of {kind} (all its processes), PSS: {mib:.1f} MiB")


def can_run(appliance: Appliance, language: str) -> bool:
    health = appliance.request("GET", "/health").json()["services"][f"engine_{language}"]
    if health["message"].startswith("not configured"):
        print(f"NOT MEASURED: {language}: {health['message']}")
        return False
    return True


def paced(appliance: Appliance, language: str, source: str) -> Row:
    """With a pause before each call, in which the next sandbox is parked: what a caller meets who isn't alone for long."""
    code_id = appliance.create(source, language=language)
    return rested(f"{language}: no-op, with pauses", appliance, once(code_id))


def once(code_id: str) -> Callable[[], str]:
    return lambda: code_id


def first_after_save(appliance: Appliance, language: str) -> Row:
    return rested(
        f"{language}: first after a save", appliance, lambda: appliance.create(JOBS["no-op"][language], language=language)
    )


def rested(name: str, appliance: Appliance, code: Callable[[], str]) -> Row:
    connection = appliance.connect()
    times = []
    before = bare(PAUSE_SECONDS)
    for _ in range(RESTED):
        time.sleep(PAUSE_SECONDS)
        path = f"/action/endpoint/{code()}"

        def call(path: str = path) -> None:
            connection.request("GET", path)
            assert connection.getresponse().read() == b""

        times.append(timed(call))
    return row(name, times, 1000 / statistics.mean(times), [*before, *bare(PAUSE_SECONDS)])


def inside_the_runner(name: str, command_of: Callable[..., list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = environment_of(usable_settings(Path(folder), {"worker_pool_size": CLIENTS}))
        pairs = [f"{key}={value}" for key, value in environment.items()]
        command = command_of("env", *pairs, sys.executable, "-P", "-m", "tests.bench.runner")
        done = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=ROOT)
    found = json.loads(done.stdout)
    figures = "p50 {p50_ms:.2f} ms, p95 {p95_ms:.2f} ms, {a_second:.0f} a second".format(**found)
    print(f"claim to result in the runner, {name}: {figures}")


def in_go() -> list[Row]:
    rows = []
    settings = {"worker_pool_size": WORKERS, "code_limiter_max_requests": CALLS}
    with tempfile.TemporaryDirectory() as folder, compiling(Path(folder) / "state", **settings) as appliance:
        for name, source, body in (
            ("no-op", golang.NO_OP, b""),
            ("JSON echo, 10 kB", golang.ECHO, BODY),
            ("20 log lines", golang.LOGS, b""),
        ):
            rows += both(f"go: {name}", appliance, source, body, "go")
        rows.append(paced(appliance, "go", golang.NO_OP))
        for name, at_once in (("first call at once after a save", True), ("first call after the background build", False)):
            before = bare()
            times = golang.first_calls(appliance, at_once=at_once)
            rows.append(row(f"go: {name}", times, 1000 / statistics.mean(times), [*before, *bare()]))
        time.sleep(1)  # until the last call's processes have ended
        pids, programs = golang.parked(appliance)
        print(f"a parked sandbox of Go, PSS: {sum(map(pss_kib, pids)) / len(pids) * 2 / 1024:.1f} MiB")
        print(f"and a program in it, started ahead: {statistics.mean(map(pss_kib, programs)) / 1024:.1f} MiB")
    return rows


def both(name: str, appliance: Appliance, source: str, body: bytes, language: str) -> list[Row]:
    code_id = appliance.create(source, language=language)
    return [
        measured(f"{name}, 1 client", appliance, code_id, body, clients=1, calls=SEQUENTIAL),
        measured(f"{name}, {CLIENTS} clients", appliance, code_id, body, clients=CLIENTS, calls=PARALLEL),
    ]


def memory_of_parked(appliance: Appliance, zygote: int, count: int) -> float:
    """MiB a sandbox; what it shares with its zygote and the others counts in part, as the kernel's smaps_rollup has it."""
    eventually(lambda: len(descendants(zygote)) >= 2 * count)
    time.sleep(1)  # until the last of them has loaded its engine, which nothing outside tells
    return sum(map(pss_kib, descendants(zygote))) / count / 1024


def pss_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def bare(pause: float = 0.0) -> list[float]:
    """Milliseconds in which an interpreter that does nothing starts and ends. After a pause this takes longer too, by half on
    some virtual machines, so what was measured with pauses is held against that.
    """
    times = []
    for _ in range(BARE // 3 if pause else BARE):
        time.sleep(pause)
        times.append(timed(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)))
    return times


def row(name: str, times: list[float], a_second: float, bare_times: list[float]) -> Row:
    return Row(name, times, a_second, statistics.median(bare_times))


def measured(name: str, appliance: Appliance, code_id: str, body: bytes, *, clients: int, calls: int) -> Row:
    times: list[float] = []
    failures: list[str] = []

    def client(count: int) -> None:
        connection = appliance.connect()
        for _ in range(count):
            times.append(timed(lambda: call(connection)))

    def call(connection: object) -> None:
        connection.request("POST", f"/action/endpoint/{code_id}", body)  # type: ignore[attr-defined]
        answer = connection.getresponse()  # type: ignore[attr-defined]
        answer.read()
        if answer.status != 200:
            failures.append(str(answer.status))

    client(WARM_UP)
    times.clear()
    before = bare()
    threads = [threading.Thread(target=client, args=(calls // clients,)) for _ in range(clients)]
    seconds = timed(lambda: in_parallel(threads)) / 1000
    assert not failures, failures
    return row(name, times, len(times) / seconds, [*before, *bare()])


def in_parallel(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


def show(rows: list[Row]) -> None:
    print(f"{'':38}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'a second':>10}{'bare ms':>9}{'p50 / bare':>12}")
    for name, times, a_second, bare_ms in rows:
        p50, p95, p99 = (statistics.quantiles(times, n=100)[index] for index in (49, 94, 98))
        print(f"{name:38}{p50:9.2f}{p95:9.2f}{p99:9.2f}{a_second:10.0f}{bare_ms:9.2f}{p50 / bare_ms:12.2f}")
    print("bare: python -I -S -c pass, started just before and just after the row's calls, and with pauses where those had some")


if __name__ == "__main__":
    main()
