"""What is counted, and the text that Prometheus reads.

The names of the running systems stay as they are, also the counters that don't end in `_total`, which prometheus-client can't
write: `_plain_counter` does. A code's series are kept here rather than in the library, because their label depends on who asks.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from appliance.entities import Code
from appliance.runner.outcome import Outcome
from appliance.runner.pool import PoolStats

# The time of creation of each series doubles the text, and nothing reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER = "other"

# The longest run is 300 s; the first ten are the ones that the running systems have.
RUN_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
QUEUE_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TASK_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
HTTP_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0)

# A method is whatever a client sends; each would be a series.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


@dataclass(slots=True)
class CodeSeries:
    project_uuid: str
    runs: int = 0
    created: int = 0
    updated: int = 0
    elapsed_s: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(RUN_BUCKETS) + 1))


class Metrics:
    def __init__(self, pool: Callable[[], PoolStats], max_codes: int) -> None:
        self._max_codes = max_codes
        self._codes: dict[str, CodeSeries] = {}
        self._other = CodeSeries(OTHER)
        self._registry = registry = CollectorRegistry()
        registry.register(_Pool(pool))
        self._outcomes = Counter("codeactions_runs", "Runs by how they ended", ["outcome"], registry=registry)
        self._requests = Counter("codeactions_http_requests", "HTTP requests", ["method", "route", "status"], registry=registry)
        self._seconds = Histogram(
            "codeactions_http_request_seconds", "Time to answer", ["route"], registry=registry, buckets=HTTP_BUCKETS
        )
        self._queue_wait = Histogram(
            "workerpool_queue_wait_seconds", "Time that runs wait", registry=registry, buckets=QUEUE_BUCKETS
        )
        self._task_duration = Histogram(
            "workerpool_task_duration_seconds", "Time that runs take", registry=registry, buckets=TASK_BUCKETS
        )

    def run_ended(self, code: Code, outcome: Outcome) -> None:
        seconds = (outcome.usage.wall_ms or 0.0) / 1000
        series = self._series(code)
        series.runs += 1
        series.elapsed_s += seconds
        series.buckets[bisect_left(RUN_BUCKETS, seconds)] += 1
        self._outcomes.labels(outcome.kind.value).inc()

    def code_created(self, code: Code) -> None:
        self._series(code).created += 1

    def code_updated(self, code: Code) -> None:
        self._series(code).updated += 1

    def http(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method if method in _METHODS else OTHER, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def queue_wait(self, seconds: float) -> None:
        self._queue_wait.observe(seconds)

    def task_duration(self, seconds: float) -> None:
        self._task_duration.observe(seconds)

    def render(self, *, with_ids: bool) -> bytes:
        """Prometheus' text; an action's id is the key to call it, so only `with_ids` shows it."""
        return generate_latest(self._registry) + _of_codes(self._labelled(with_ids))

    def _series(self, code: Code) -> CodeSeries:
        """First come, first kept: a counter that was given up for another would go backwards."""
        series = self._codes.get(code.id)
        if series is None:
            if len(self._codes) >= self._max_codes:
                return self._other
            series = self._codes[code.id] = CodeSeries(code.project_uuid)
        return series

    def _labelled(self, with_ids: bool) -> list[tuple[str, CodeSeries]]:
        labelled = [(code_id if with_ids else hashed(code_id), series) for code_id, series in self._codes.items()]
        return [*labelled, (OTHER, self._other)] if len(self._codes) >= self._max_codes else labelled


def hashed(code_id: str) -> str:
    return sha256(code_id.encode()).hexdigest()[:12]


class _Pool(Collector):
    def __init__(self, figures: Callable[[], PoolStats]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        now = self._figures()
        yield GaugeMetricFamily("workerpool_workers_total", "Runs that can go on at once", value=now.workers_total)
        yield GaugeMetricFamily("workerpool_workers_busy", "Runs going on", value=now.workers_busy)
        yield GaugeMetricFamily("workerpool_queue_size", "Runs waiting", value=now.queue_size)
        yield GaugeMetricFamily("workerpool_queue_capacity", "Runs that can wait", value=now.queue_capacity)
        for name, text, value in (
            ("submitted", "Runs that were started or queued", now.submitted),
            ("completed", "Runs that completed", now.completed),
            ("failed", "Runs that failed, in whatever way", now.failed),
            ("rejected", "Calls refused because the queue was full", now.rejected),
            ("timeout", "Runs that failed because they ran past their timeout", now.timeout),
        ):
            yield CounterMetricFamily(f"workerpool_tasks_{name}", text, value=value)
        orphans = CounterMetricFamily("orphans_swept", "What was left of sandboxes, and ended by the sweep", labels=["kind"])
        for kind, count in now.orphans_swept.items():
            orphans.add_metric([kind.value], count)
        yield orphans


def _of_codes(labelled: list[tuple[str, CodeSeries]]) -> bytes:
    counters = "".join(
        _plain_counter(name, text, ((code_id, series.project_uuid, count(series)) for code_id, series in labelled))
        for name, text, count in _COUNTERS
    )
    return counters.encode() + _histogram(labelled)


_COUNTERS: tuple[tuple[str, str, Callable[[CodeSeries], int]], ...] = (
    ("ca_run_count", "Runs of a code", lambda series: series.runs),
    ("ca_code_created_count", "Creations of a code", lambda series: series.created),
    ("ca_code_updated_count", "Changes of a code", lambda series: series.updated),
)


def _plain_counter(name: str, text: str, samples: Iterable[tuple[str, str, int]]) -> str:
    lines = (f'{name}{{code_id="{code_id}",project_uuid="{_escaped(project)}"}} {value}\n' for code_id, project, value in samples)
    return f"# HELP {name} {text}\n# TYPE {name} counter\n{''.join(lines)}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Elapsed(Collector):
    def __init__(self, labelled: list[tuple[str, CodeSeries]]) -> None:
        self._labelled = labelled

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("ca_run_elapsed", "Seconds that a run took", labels=["project_uuid", "code_id"])
        for code_id, series in self._labelled:
            family.add_metric([series.project_uuid, code_id], _cumulated(series.buckets), series.elapsed_s)
        yield family


def _cumulated(buckets: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, RUN_BUCKETS), "+Inf"]
    return [(bound, float(sum(buckets[: at + 1]))) for at, bound in enumerate(bounds)]


def _histogram(labelled: list[tuple[str, CodeSeries]]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Elapsed(labelled))
    return generate_latest(registry)
