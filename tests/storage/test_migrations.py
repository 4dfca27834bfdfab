"""The schema's steps: data goes in before each, and is checked after it; and what the schema's indexes must spare the queries."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.storage import CannotOpen, open_storage
from appliance.storage.sqlite import codes, logs, migrations, runs


@pytest.fixture
def file(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(tmp_path / "codeactions.db", isolation_level=None)
    yield connection
    connection.close()


def test_migration_1_makes_the_tables_and_leaves_what_else_is_in_the_file(file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE notes (text)")
    file.execute("INSERT INTO notes VALUES ('mine')")
    migrations.apply(file, upto=1)
    tables = {name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert tables == {"codes", "coderuns", "instances", "codelogs", "codelibs", "user_permissions", "projects", "notes"}
    assert file.execute("SELECT text FROM notes").fetchall() == [("mine",)]
    assert migrations.version(file) == 1


def test_a_run_may_name_a_code_that_isnt_there(file: sqlite3.Connection) -> None:
    migrations.apply(file)
    assert file.execute("PRAGMA foreign_key_list(coderuns)").fetchall() == []


def test_a_migration_that_fails_has_not_happened(file: sqlite3.Connection) -> None:
    file.execute("CREATE TABLE projects (x)")
    with pytest.raises(sqlite3.OperationalError, match="projects already exists"):
        migrations.apply(file)
    assert migrations.version(file) == 0
    assert [name for (name,) in file.execute("SELECT name FROM sqlite_schema")] == ["projects"]


async def test_a_database_of_a_newer_release_is_refused_in_one_line_and_left_as_it_is(tmp_path: Path) -> None:
    async with open_storage("sqlite", tmp_path):
        pass
    with sqlite3.connect(tmp_path / "codeactions.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = (tmp_path / "codeactions.db").read_bytes()
    with pytest.raises(CannotOpen, match=r"^the database .* has schema version 99, written by a newer release; .* up to 1$"):
        async with open_storage("sqlite", tmp_path):
            pass
    assert (tmp_path / "codeactions.db").read_bytes() == before


# Indexes

QUERIES = [
    codes.GET,
    codes.OF_PROJECT,
    codes.UPDATE,
    runs.GET,
    runs.PAGE,
    runs.START,
    runs.FINISH,
    runs.OPEN,
    runs.DELETE_OLDER,
    logs.GET,
    logs.DELETE_OLDER,
    *(logs.PAGE.format(matching=matching) for given, matching in logs.MATCHING.items() if any(given)),
    *(logs.COUNT.format(matching=matching) for given, matching in logs.MATCHING.items() if any(given)),
]


@pytest.mark.parametrize("query", QUERIES)
def test_no_query_reads_a_whole_table_or_sorts(file: sqlite3.Connection, query: str) -> None:
    migrations.apply(file)
    given = dict.fromkeys(re.findall(r":(\w+)", query), 1)
    plan = [detail for _, _, _, detail in file.execute("EXPLAIN QUERY PLAN " + query, given)]
    assert not [step for step in plan if "TEMP B-TREE" in step or (step.startswith("SCAN") and "INDEX" not in step)], plan
