"""How the program holds together: who asks for its end, and with which failure it ends."""

import pytest
import trio
import trio.testing

from appliance.supervisor import Fate, Jobs


class Broken(Exception):
    pass


async def fails_at_once(task_status: trio.TaskStatus[None]) -> None:
    raise Broken("at once")


async def fails_later(task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep(1)
    raise Broken("later")


async def works(task_status: trio.TaskStatus[None]) -> None:
    task_status.started()
    await trio.sleep_forever()


async def ends(task_status: trio.TaskStatus[None]) -> None:
    task_status.started()


async def fail(message: str) -> None:
    raise Broken(message)


def test_without_a_failure_the_end_is_a_good_one() -> None:
    Fate().raise_failure()


def test_a_failure_asks_for_the_end_and_is_raised_at_last() -> None:
    fate = Fate()
    fate.fail(Broken("first"))
    assert fate.stop.is_set()
    with pytest.raises(Broken, match="first"):
        fate.raise_failure()


def test_the_first_failure_is_the_one_that_counts() -> None:
    fate = Fate()
    fate.fail(Broken("first"))
    fate.fail(Broken("second"))
    with pytest.raises(Broken, match="first"):
        fate.raise_failure()


async def test_a_service_that_fails_asks_for_the_end_and_hurts_no_other(autojump_clock: trio.testing.MockClock) -> None:
    fate = Fate()
    async with trio.open_nursery() as nursery:
        await nursery.start(fate.supervise, works)
        await nursery.start(fate.supervise, fails_later)
        assert not fate.stop.is_set()
        await fate.stop.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        nursery.cancel_scope.cancel()
    with pytest.raises(Broken, match="later"):
        fate.raise_failure()


async def test_a_service_that_never_starts_is_its_callers_failure() -> None:
    fate = Fate()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with trio.open_nursery() as nursery:
            await nursery.start(fate.supervise, fails_at_once)
    assert caught.group_contains(Broken, match="at once")
    assert not fate.stop.is_set()


async def test_a_service_that_comes_to_its_end_asks_for_nothing() -> None:
    fate = Fate()
    async with trio.open_nursery() as nursery:
        await nursery.start(fate.supervise, ends)
    assert not fate.stop.is_set()


async def test_a_service_that_is_cancelled_has_not_failed() -> None:
    fate = Fate()
    async with trio.open_nursery() as nursery:
        await nursery.start(fate.supervise, works)
        nursery.cancel_scope.cancel()
    fate.raise_failure()


async def test_a_jobs_failure_lets_the_other_jobs_end(autojump_clock: trio.testing.MockClock) -> None:
    fate, finished = Fate(), []

    async def finish() -> None:
        await trio.sleep(5)
        finished.append("yes")

    async with trio.open_nursery() as nursery:
        jobs = Jobs(nursery, fate)
        jobs.start_soon(finish, name="finishes")
        jobs.start_soon(fail, "a defect", name="fails")
    assert finished == ["yes"]
    with pytest.raises(Broken, match="a defect"):
        fate.raise_failure()


async def test_jobs_have_names() -> None:
    async with trio.open_nursery() as nursery:
        Jobs(nursery, Fate()).start_soon(trio.sleep_forever, name="run 1")
        assert [task.name for task in nursery.child_tasks] == ["run 1"]
        nursery.cancel_scope.cancel()
