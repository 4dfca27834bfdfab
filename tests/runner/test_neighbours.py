"""A project with very many calls, and another with one: who waits for whom, and who is told at once that there is no room."""

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.appliance import Appliance, eventually, running
from tests.runner.test_queue import Holder, waiting

MANY = 100
QUICK = "print('quick')\n"


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    with running(
        tmp_path, worker_pool_size=1, worker_pool_queue_size=MANY + 10, worker_pool_project_queue_size=MANY
    ) as appliance:
        yield appliance


@pytest.fixture
def greedy(appliance: Appliance) -> Iterator["Greedy"]:
    with ExitStack() as connections:
        yield Greedy(appliance, connections)


class Greedy:
    """A project whose calls wait, as many as it may have, behind one that holds the only place."""

    def __init__(self, appliance: Appliance, connections: ExitStack) -> None:
        self._holder = Holder(appliance)
        self.code_id = appliance.create(QUICK, project_uuid="greedy")
        self._connections = [connections.enter_context(_Call(appliance, self.code_id)) for _ in range(MANY)]
        eventually(lambda: waiting(appliance) == MANY)

    def begin(self) -> None:
        self._holder.let_go()

    def statuses(self) -> list[int]:
        return [call.status() for call in self._connections]


class _Call(ExitStack):
    """A call without a thread of its own."""

    def __init__(self, appliance: Appliance, code_id: str) -> None:
        super().__init__()
        self._connection = appliance.connect()
        self._connection.request("GET", f"/action/endpoint/{code_id}")
        self.callback(self._connection.close)

    def status(self) -> int:
        answer: http.client.HTTPResponse = self._connection.getresponse()
        answer.read()
        return answer.status


def test_a_hundred_waiting_calls_delay_anothers_one_call_by_one_run(appliance: Appliance, greedy: Greedy) -> None:
    modest = appliance.create(QUICK, project_uuid="modest")
    call = appliance.calling(modest)
    eventually(lambda: waiting(appliance) == MANY + 1)
    greedy.begin()
    own = appliance.run_of(call.result())
    assert greedy.statuses() == [200] * MANY
    runs = appliance.manage("GET", f"/coderun?code_id={greedy.code_id}&limit=1000").json()
    assert sum(run["updated_at"] < own["updated_at"] for run in runs) <= 1


def test_a_call_past_the_hundred_is_refused_while_they_wait(appliance: Appliance, greedy: Greedy) -> None:
    answer = appliance.call(greedy.code_id)  # all wait for a run of a minute: an answer is one that didn't wait
    assert (answer.status, "x-run-id" in answer.headers) == (503, False)
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json() == {"message": f"the queue of this project is full: {MANY} of its runs are waiting"}
    assert waiting(appliance) == MANY
    greedy.begin()
    assert greedy.statuses() == [200] * MANY


def test_projects_together_are_refused_past_the_queue(appliance: Appliance, greedy: Greedy) -> None:
    others = [appliance.create(QUICK, project_uuid=f"project {number}") for number in range(10)]
    calls = [appliance.calling(code_id) for code_id in others]
    eventually(lambda: waiting(appliance) == MANY + 10)
    answer = appliance.call(appliance.create(QUICK, project_uuid="late"))
    assert (answer.status, answer.json()) == (503, {"message": f"the queue is full: {MANY + 10} runs are waiting"})
    greedy.begin()
    assert {call.result().status for call in calls} == {200}
