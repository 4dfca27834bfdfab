import pytest

from appliance.entities import CodeLog, LogType, new_id
from appliance.errors import NotFound
from appliance.storage.interface import Storage
from tests.storage.builders import AWKWARD, NOON, a_log, minutes


async def contents(storage: Storage, page: int = 1, per_page: int = 20) -> list[str]:
    return [entry.content for entry in (await storage.logs.page("run-1", None, page, per_page)).entries]


def said(*words: str) -> list[CodeLog]:
    """Entries of one run with one time."""
    return [a_log(content=word) for word in words]


async def test_an_entry_comes_back_as_it_was_appended(storage: Storage) -> None:
    entry = a_log(content=AWKWARD, type=LogType.ERROR, updated_at=minutes(1))
    await storage.logs.append([entry])
    assert await storage.logs.get(entry.id) == entry


async def test_an_unknown_entry_is_not_found(storage: Storage) -> None:
    with pytest.raises(NotFound, match="log not found"):
        await storage.logs.get(new_id())


async def test_entries_with_equal_times_keep_the_order_of_appending(storage: Storage) -> None:
    await storage.logs.append(said("one", "two", "three"))
    await storage.logs.append(said("four"))
    assert await contents(storage) == ["four", "three", "two", "one"]


async def test_a_later_time_is_newer_whenever_it_was_appended(storage: Storage) -> None:
    await storage.logs.append([a_log(content="late", created_at=minutes(1))])
    await storage.logs.append([a_log(content="early")])
    assert await contents(storage) == ["late", "early"]


async def test_appending_again_stores_only_what_isnt_there(storage: Storage) -> None:
    entries = said("one", "two", "three")
    await storage.logs.append(entries[:2])
    await storage.logs.append(entries)
    assert await contents(storage) == ["three", "two", "one"]


async def test_an_entry_that_is_there_is_left_as_it_is(storage: Storage) -> None:
    entry = a_log(content="first")
    await storage.logs.append([entry])
    await storage.logs.append([a_log(id=entry.id, content="second")])
    assert await storage.logs.get(entry.id) == entry


async def test_appending_nothing_is_fine(storage: Storage) -> None:
    await storage.logs.append([])
    assert await contents(storage) == []


async def test_pages_count_from_one_and_tell_the_total_of_all(storage: Storage) -> None:
    await storage.logs.append(said(*"abcde"))
    assert [await contents(storage, page, 2) for page in (1, 2, 3)] == [["e", "d"], ["c", "b"], ["a"]]
    past = await storage.logs.page("run-1", None, 9, 2)
    assert (past.entries, past.total) == ([], 5)


async def test_a_page_matches_every_given_id(storage: Storage) -> None:
    here, other_run, other_code = a_log(), a_log(run_id="run-2"), a_log(code_id="code-2")
    await storage.logs.append([here, other_run, other_code])
    assert (await storage.logs.page("run-1", "code-1", 1, 20)).entries == [here]
    assert (await storage.logs.page(None, "code-1", 1, 20)).entries == [other_run, here]
    of_run = await storage.logs.page("run-1", None, 1, 20)
    assert (of_run.entries, of_run.total) == ([other_code, here], 2)


async def test_at_most_a_limit_of_entries_is_deleted_oldest_first(storage: Storage) -> None:
    await storage.logs.append([a_log(content=str(n), created_at=minutes(n)) for n in range(6)])
    assert [await storage.logs.delete_older(minutes(5), 3) for _ in range(3)] == [3, 2, 0]
    assert await contents(storage) == ["5"]


async def test_an_entry_of_that_very_moment_isnt_older(storage: Storage) -> None:
    await storage.logs.append(said("now"))
    assert await storage.logs.delete_older(NOON, 1000) == 0
