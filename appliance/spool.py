"""Ends of runs that the store hasn't taken, as files: one JSON object each, whole or not there at all."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from appliance.entities import CodeLog, RunStatus, new_id


class End(msgspec.Struct, frozen=True, kw_only=True):
    """All that is still to be stored of a run. Storing it again is harmless: logs have ids, a run ends once."""

    run_id: str
    status: RunStatus
    result: str
    extra: dict[str, Any]
    at: datetime
    logs: tuple[CodeLog, ...]


class Unreadable(ValueError):
    """The file isn't an end of a run; it has been put aside as `aside`."""

    def __init__(self, path: Path, aside: Path, problem: Exception) -> None:
        super().__init__(f"{path}: {problem}")
        self.aside = aside


def save(folder: Path, end: End) -> Path:
    """On the disk when it returns, under a name of its own. Raises OSError, and then leaves nothing."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{end.run_id}.{new_id()[:8]}.json"
    partial = path.with_suffix(".partial")
    try:
        _write(partial, msgspec.json.encode(end))
        partial.rename(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    _sync(folder)
    return path


def saved(folder: Path) -> list[Path]:
    """The ends that wait there; a `.partial` is one whose writer died, and whose run is closed as interrupted."""
    return sorted(folder.glob("*.json"))


def load(path: Path) -> End:
    """Raises `Unreadable` once: the file is renamed `.bad`, for a person to look at, and isn't met again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=End)
    except (OSError, msgspec.MsgspecError, UnicodeError) as error:
        aside = path.with_suffix(".bad")
        path.rename(aside)
        raise Unreadable(path, aside, error) from error


def _write(path: Path, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)  # bodies may hold secrets
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    """Makes the new name survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
