"""An appliance that compiles Go, for tests: started once, its toolchain's cache filled."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.appliance import Appliance, eventually, running

FILL_GUARD = 600.0  # seconds; compiling the standard library takes about 20 on two quiet cores


def go_program() -> str:
    found = shutil.which("go")
    if found is None:
        pytest.skip("there is no go on PATH: install golang-go")
    return found


@contextmanager
def compiling(state_dir: Path, **settings: Any) -> Iterator[Appliance]:
    with running(state_dir, go=go_program(), **settings) as appliance:
        eventually(lambda: events(appliance, "toolchain cache filled"), FILL_GUARD)
        yield appliance


def events(appliance: Appliance, name: str) -> list[dict[str, Any]]:
    return [line for line in appliance.lines if line.get("event") == name]


def build_of(appliance: Appliance, code_id: str) -> dict[str, Any]:
    build: dict[str, Any] = appliance.manage("GET", f"/code/{code_id}").json()["build"]
    return build


def until_built(appliance: Appliance, code_id: str) -> dict[str, Any]:
    """Its state when it is ready or has failed."""
    eventually(lambda: build_of(appliance, code_id)["status"] in ("ready", "failed"))
    return build_of(appliance, code_id)
