"""An appliance that compiles Go, for tests, with a toolchain's cache that one of them has filled for all of this checkout."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.builds import FOLDER, TOOLCHAIN, hash_of_engine
from engines.go.build import version_of
from engines.table import Language
from tests.appliance import ROOT, Appliance, eventually, running

FILL_GUARD = 600.0  # seconds; compiling the standard library takes about 20 on two quiet cores


def go_program() -> str:
    found = shutil.which("go")
    if found is None:
        pytest.skip("there is no go on PATH: install golang-go")
    return found


def has_go() -> bool:
    return shutil.which("go") is not None


@contextmanager
def compiling(state_dir: Path, **settings: Any) -> Iterator[Appliance]:
    """Whose cache is full from the start."""
    put_toolchain_cache(state_dir)
    with running(state_dir, go=go_program(), **settings) as appliance:
        yield appliance


@contextmanager
def with_every_language(state_dir: Path, **settings: Any) -> Iterator[Appliance]:
    """That this machine has. What it lacks the appliance names when somebody asks for it."""
    with compiling(state_dir, **settings) if has_go() else running(state_dir, **settings) as appliance:
        yield appliance


def put_toolchain_cache(state_dir: Path) -> None:
    """Into the state directory of an appliance that is yet to start. Files are linked where they can be."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    (state_dir / FOLDER).mkdir(mode=0o700)
    shutil.copytree(toolchain_cache(), state_dir / FOLDER / TOOLCHAIN, copy_function=_link_or_copy)


def toolchain_cache() -> Path:
    """Of this toolchain and this engine; the first that asks makes it, the others wait for him."""
    folder = _shared_folder()
    folder.mkdir(parents=True, exist_ok=True)
    version = version_of(Path(os.path.realpath(go_program())).parents[1])
    filled = folder / hash_of_engine(Language.GO, version)[:16]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not filled.is_dir():
            _fill(filled)
    return filled


def _shared_folder() -> Path:
    """In the checkout, which other users' tests may only read."""
    if os.access(ROOT, os.W_OK):
        return ROOT / ".cache" / "go"
    return Path(tempfile.gettempdir()) / f"codeactions-test-go-{os.geteuid()}"


def _fill(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        state_dir = Path(temporary) / "state"
        with running(state_dir, go=go_program()) as appliance:
            eventually(lambda: any(line.get("event") == "toolchain cache filled" for line in appliance.lines), FILL_GUARD)
        unfinished = folder.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(state_dir / FOLDER / TOOLCHAIN, unfinished)
        unfinished.rename(folder)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or a file of another user's
        shutil.copy(source, target)


def build_of(appliance: Appliance, code_id: str) -> dict[str, Any]:
    build: dict[str, Any] = appliance.manage("GET", f"/code/{code_id}").json()["build"]
    return build


def until_built(appliance: Appliance, code_id: str) -> dict[str, Any]:
    """Its state when it is ready or has failed."""
    eventually(lambda: build_of(appliance, code_id)["status"] in ("ready", "failed"))
    return build_of(appliance, code_id)
