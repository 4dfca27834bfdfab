"""What a run costs inside the runner, from the claim to the result, without HTTP and store: `python -m tests.bench.runner`.

Prints one line of JSON. The bench runs it as it is, and in a box with systemd, where each run has a scope.
"""

import json
import statistics
import sys
from contextlib import suppress

import trio

from appliance import options, settings, startup
from appliance.calls import NO_INPUT, job_of
from appliance.entities import Code, CodeType, Language, new_id, now
from appliance.runner.launcher import Launcher, LauncherGone, connect
from appliance.runner.outcome import Limits, LogEntry, OutcomeKind
from appliance.runner.pool import Runner

WARM_UP, SEQUENTIAL, PARALLEL, CLIENTS = 20, 300, 1200, 8
_REST_SECONDS = 0.02  # between two runs one after the other: the park is full again


def main() -> int:
    loaded = settings.load()
    begun = startup.begin(loaded, "error", listen=False)
    figures = trio.run(_measure, loaded, begun)
    json.dump(figures, sys.stdout)
    return 0


async def _measure(loaded: settings.Loaded, begun: startup.Begun) -> dict[str, float]:
    async with connect(begun.launcher) as launcher, trio.open_nursery() as nursery:
        nursery.start_soon(_listen, launcher)
        runner = Runner(launcher, options.pool_options(loaded.settings), options.bounds(loaded.settings))
        limits = options.call_options(loaded.settings, instance="").limits_of(_CODE)
        bench = _Bench(runner, limits)
        for _ in range(WARM_UP):
            await bench.run()
        bench.times.clear()
        for _ in range(SEQUENTIAL):
            await bench.run()
            await trio.sleep(_REST_SECONDS)
        warm = list(bench.times)
        started = trio.current_time()
        async with trio.open_nursery() as clients:
            for _ in range(CLIENTS):
                clients.start_soon(bench.run_many, PARALLEL // CLIENTS)
        seconds = trio.current_time() - started
        nursery.cancel_scope.cancel()
    percent = statistics.quantiles(warm, n=100)
    return {"p50_ms": percent[49], "p95_ms": percent[94], "a_second": PARALLEL / seconds}


class _Bench:
    def __init__(self, runner: Runner, limits: Limits) -> None:
        self._runner = runner
        self._limits = limits
        self.times: list[float] = []

    async def run_many(self, count: int) -> None:
        for _ in range(count):
            await self.run()

    async def run(self) -> None:
        with self._runner.admit("bench") as ticket:
            assert await ticket.wait() is None
            outcome = await ticket.run(job_of(new_id(), _CODE, NO_INPUT, self._limits), _ignore)
        assert outcome.kind is OutcomeKind.COMPLETED, outcome
        self.times.append(outcome.usage.wall_ms or 0.0)


async def _listen(launcher: Launcher) -> None:
    with suppress(LauncherGone):
        await launcher.listen()


async def _ignore(entry: LogEntry) -> None:
    pass


_CODE = Code(
    id=new_id(),
    name="no-op",
    type=CodeType.ENDPOINT,
    source="def Run(engine):\n    pass\n",
    language=Language.PYTHON,
    project_uuid="bench",
    created_at=now(),
    updated_at=now(),
)

if __name__ == "__main__":
    sys.exit(main())
