"""The schema, as numbered steps that only add; the number reached is the file's `user_version`.

Each step runs in a transaction together with its number, so that one that was interrupted has not happened. A step that a
release has carried is never edited. Times are integers: microseconds since 1970 in UTC. `coderuns.code_id` names no foreign key:
deleting a code leaves its runs and logs until the retention. Large columns come last: SQLite reads a row from its front, and
needn't follow a 10 MiB body to find a status behind it.
"""

import sqlite3

_LANGUAGES = "('python', 'javascript', 'go')"

_1_ENTITIES = f"""
CREATE TABLE codes (
    id TEXT NOT NULL PRIMARY KEY,
    mongo_object_id TEXT,
    name TEXT NOT NULL CHECK (length(name) <= 255),
    type TEXT NOT NULL CHECK (type IN ('endpoint', 'flow')),
    language TEXT NOT NULL CHECK (language IN {_LANGUAGES}),
    url TEXT NOT NULL CHECK (length(url) <= 512),
    project_uuid TEXT NOT NULL CHECK (length(project_uuid) <= 255),
    timeout INTEGER NOT NULL CHECK (timeout BETWEEN 5 AND 300),
    limits TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    source TEXT NOT NULL
);
CREATE UNIQUE INDEX codes_mongo_object_id ON codes (mongo_object_id) WHERE mongo_object_id IS NOT NULL;
CREATE INDEX codes_of_project ON codes (project_uuid, created_at, id);

CREATE TABLE coderuns (
    id TEXT NOT NULL PRIMARY KEY,
    mongo_object_id TEXT,
    code_id TEXT NOT NULL,
    code_mongo_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('queued', 'started', 'completed', 'failed')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    extra TEXT NOT NULL,
    params TEXT NOT NULL,
    headers TEXT NOT NULL,
    result TEXT NOT NULL,
    body TEXT NOT NULL
);
CREATE UNIQUE INDEX coderuns_mongo_object_id ON coderuns (mongo_object_id) WHERE mongo_object_id IS NOT NULL;
CREATE INDEX coderuns_of_code ON coderuns (code_id, created_at, id);
CREATE INDEX coderuns_by_age ON coderuns (created_at);
CREATE INDEX coderuns_open ON coderuns (status) WHERE status IN ('queued', 'started');

CREATE TABLE instances (
    id TEXT NOT NULL PRIMARY KEY,
    host TEXT NOT NULL,
    seen_at INTEGER NOT NULL
);

CREATE TABLE codelogs (
    place INTEGER PRIMARY KEY,  -- in the order of appending: which of two entries with one time is older
    id TEXT NOT NULL UNIQUE,
    run_id TEXT NOT NULL,
    code_id TEXT NOT NULL,
    type TEXT NOT NULL CHECK (type IN ('debug', 'info', 'error')),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    content TEXT NOT NULL
);
CREATE INDEX codelogs_of_run ON codelogs (run_id, created_at);
CREATE INDEX codelogs_of_code ON codelogs (code_id, created_at);
CREATE INDEX codelogs_by_age ON codelogs (created_at);

CREATE TABLE codelibs (
    id TEXT NOT NULL PRIMARY KEY,
    mongo_object_id TEXT,
    name TEXT NOT NULL,
    language TEXT NOT NULL CHECK (language IN {_LANGUAGES}),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (name, language)
);
CREATE UNIQUE INDEX codelibs_mongo_object_id ON codelibs (mongo_object_id) WHERE mongo_object_id IS NOT NULL;

CREATE TABLE user_permissions (
    id TEXT NOT NULL PRIMARY KEY,
    mongo_object_id TEXT,
    project_uuid TEXT NOT NULL,
    email TEXT NOT NULL,
    role INTEGER NOT NULL CHECK (role IN (1, 2, 3)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (project_uuid, email)
);
CREATE UNIQUE INDEX user_permissions_mongo_object_id ON user_permissions (mongo_object_id) WHERE mongo_object_id IS NOT NULL;

CREATE TABLE projects (
    id TEXT NOT NULL PRIMARY KEY,
    mongo_object_id TEXT,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    authorizations TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
);
CREATE UNIQUE INDEX projects_mongo_object_id ON projects (mongo_object_id) WHERE mongo_object_id IS NOT NULL;
"""

MIGRATIONS = (_1_ENTITIES,)  # number n is MIGRATIONS[n - 1]


class NewerSchema(ValueError):
    """A later release has written this database; it must not be touched by this one."""

    def __init__(self, found: int) -> None:
        super().__init__(f"has schema version {found}, written by a newer release; this one knows up to {len(MIGRATIONS)}")


def version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def apply(connection: sqlite3.Connection, upto: int = len(MIGRATIONS)) -> None:
    """Brings the database to version `upto`. A step that fails leaves the version before it."""
    if (found := version(connection)) > len(MIGRATIONS):
        raise NewerSchema(found)
    for number in range(found + 1, upto + 1):
        _step(connection, number)


def _step(connection: sqlite3.Connection, number: int) -> None:
    script = f"BEGIN IMMEDIATE; {MIGRATIONS[number - 1]}; PRAGMA user_version = {number}; COMMIT;"
    try:
        connection.executescript(script)
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
