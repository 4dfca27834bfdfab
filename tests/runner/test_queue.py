"""Who waits, how long, and who is next: one worker, a small queue, and calls that end when they are cancelled."""

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from tests.appliance import Appliance, Response, eventually, running

WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"
QUICK = "def Run(engine):\n    engine.result.set(engine.params.get('name', 'quick'))\n"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    folder = tmp_path_factory.mktemp("queue")
    with running(folder, worker_pool_size=1, worker_pool_queue_size=6, worker_pool_project_queue_size=4) as appliance:
        yield appliance


@pytest.fixture
def holder(appliance: Appliance) -> Iterator["Holder"]:
    """The one worker is taken, until the test lets go of it."""
    holder = Holder(appliance)
    yield holder
    holder.let_go()


class Holder:
    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._code_id = appliance.create(WAITS, project_uuid="the holder's")
        self._call = appliance.calling(self._code_id)
        appliance.until_logged(self._code_id)

    def let_go(self) -> None:
        self._appliance.manage("DELETE", f"/code/{self._code_id}")
        self._call.result()


def waiting(appliance: Appliance) -> int:
    line = next(line for line in metrics(appliance) if line.startswith("workerpool_queue_size "))
    return int(float(line.split()[1]))


def metrics(appliance: Appliance) -> list[str]:
    return appliance.manage("GET", "/metrics").body.decode().splitlines()


def line_up(appliance: Appliance, code_id: str, count: int = 1) -> list["Future[Response]"]:
    """Calls that wait, each in the queue and recorded before the next one comes."""
    calls = []
    rows = len(appliance.runs_of(code_id))
    for number in range(1, count + 1):
        before = waiting(appliance)
        calls.append(appliance.calling(code_id))
        eventually(lambda before=before: waiting(appliance) == before + 1)  # type: ignore[misc]
        eventually(lambda number=number: len(appliance.runs_of(code_id)) == rows + number)  # type: ignore[misc]
    return calls


def test_a_waiting_run_is_queued_and_then_started(appliance: Appliance, holder: Holder) -> None:
    code_id = appliance.create(WAITS)
    [call] = line_up(appliance, code_id)
    [run] = appliance.runs_of(code_id)
    assert run["status"] == "queued"
    holder.let_go()
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    assert run["status"] == "started"
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    assert call.result().status == 500


def test_what_it_waited_is_in_the_receipt(appliance: Appliance, holder: Holder) -> None:
    [call] = line_up(appliance, appliance.create("import time\ntime.sleep(0.2)"))
    holder.let_go()
    usage = appliance.run_of(call.result())["extra"]["usage"]
    assert usage["queue_ms"] > 1
    assert usage["wall_ms"] >= 200
    at_once = appliance.run_of(appliance.run(QUICK))["extra"]["usage"]
    assert at_once["queue_ms"] < usage["queue_ms"]


def test_a_full_queue_refuses_without_a_run(appliance: Appliance, holder: Holder) -> None:
    codes = [appliance.create(QUICK, project_uuid=f"project {number}") for number in range(3)]
    calls = [call for code_id in codes for call in line_up(appliance, code_id, 2)]
    refused = appliance.create(QUICK, project_uuid="another")
    answer = appliance.call(refused)
    assert (answer.status, answer.json()) == (503, {"message": "the queue is full: 6 runs are waiting"})
    assert int(answer.headers["retry-after"]) >= 1
    assert "x-run-id" not in answer.headers
    assert appliance.runs_of(refused) == []
    holder.let_go()
    assert [call.result().status for call in calls] == [200] * 6


def test_a_project_has_its_share_of_the_queue(appliance: Appliance, holder: Holder) -> None:
    code_id = appliance.create(QUICK, project_uuid="greedy")
    calls = line_up(appliance, code_id, 4)
    answer = appliance.call(code_id)
    assert (answer.status, answer.json()) == (503, {"message": "the queue of this project is full: 4 of its runs are waiting"})
    calls += line_up(appliance, appliance.create(QUICK, project_uuid="modest"))
    holder.let_go()
    assert [call.result().status for call in calls] == [200] * 5
    assert len(appliance.runs_of(code_id)) == 4


@pytest.mark.parametrize(
    ("greedy_project", "counts", "order"),
    [
        ("greedy", (4, 1), "greedy modest greedy greedy greedy"),
        ("the holder's", (3, 2), "modest greedy modest greedy greedy"),  # it has had a turn, and who comes has not
    ],
)
def test_projects_take_turns(
    appliance: Appliance, holder: Holder, greedy_project: str, counts: tuple[int, int], order: str
) -> None:
    names = {
        appliance.create(QUICK, project_uuid=greedy_project): "greedy",
        appliance.create(QUICK, project_uuid="modest"): "modest",
    }
    calls = [call for code_id, count in zip(names, counts, strict=True) for call in line_up(appliance, code_id, count)]
    holder.let_go()
    runs = [appliance.run_of(call.result()) for call in calls]
    in_order = sorted(runs, key=lambda run: str(run["updated_at"]))
    assert [names[run["code_id"]] for run in in_order] == order.split()


def test_a_queued_run_can_be_cancelled(appliance: Appliance, holder: Holder) -> None:
    code_id = appliance.create(QUICK)
    [call] = line_up(appliance, code_id)
    [run] = appliance.runs_of(code_id)
    assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202
    answer = call.result()
    assert (answer.status, answer.json()) == (500, {"message": "the run was cancelled"})
    extra = appliance.run_of(answer)["extra"]
    assert (extra["outcome"], "wall_ms" in extra["usage"]) == ("cancelled", False)
    assert waiting(appliance) == 0


def test_a_client_that_leaves_the_queue_leaves_its_run_there(appliance: Appliance, holder: Holder) -> None:
    code_id = appliance.create(QUICK)
    connection = appliance.connect()
    connection.request("GET", f"/action/endpoint/{code_id}")
    eventually(lambda: waiting(appliance) == 1)
    connection.close()
    holder.let_go()
    eventually(lambda: appliance.runs_of(code_id)[0]["status"] == "completed")


def test_the_timeout_counts_from_the_start(tmp_path: Path) -> None:
    with running(tmp_path, worker_pool_size=1) as appliance:
        code_id = appliance.create("import time\ntime.sleep(3)\nprint('slept')", timeout=5)
        first, second = appliance.calling(code_id), appliance.calling(code_id)
        answers = [first.result(), second.result()]
        assert [answer.body for answer in answers] == [b"slept\n"] * 2
        waits = sorted(appliance.run_of(answer)["extra"]["usage"]["queue_ms"] for answer in answers)
        assert waits[0] < 1000
        assert 2000 < waits[1] < 4500


def test_who_waits_too_long_is_told_that_it_could_not_start(tmp_path: Path) -> None:
    with running(tmp_path, worker_pool_size=1, queue_timeout=1) as appliance:
        holder = Holder(appliance)
        code_id = appliance.create(QUICK)
        answer = appliance.call(code_id)
        message = "the run could not start: it waited for 1 s (QUEUE_TIMEOUT)"
        assert (answer.status, answer.json()) == (503, {"message": message})
        assert int(answer.headers["retry-after"]) >= 1
        run = appliance.run_of(answer)
        assert (run["status"], run["extra"]["outcome"], run["extra"]["message"]) == ("failed", "could_not_start", message)
        assert 1000 <= run["extra"]["usage"]["queue_ms"] < 3000
        assert "workerpool_tasks_rejected_total 0.0" in metrics(appliance)
        holder.let_go()
        assert appliance.call(code_id).status == 200
