"""Sandboxes with more of a language's library: there for those that want it, once one has asked, and for nobody else."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import Appliance, alive, eventually, running

LIBRARY = "def Run(engine):\n    import sys\n    engine.result.set(str('asyncio' in sys.modules))\n"
WANTS_MORE = f"import hashlib\n{LIBRARY}"


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "state") as made:
        yield made


def has_library(appliance: Appliance, code_id: str) -> bool:
    answer = appliance.call(code_id)
    assert answer.status == 200
    return answer.body == b"True"


def test_it_comes_when_somebody_asks_for_it_and_is_nobody_elses(appliance: Appliance) -> None:
    modest, more = appliance.create(LIBRARY), appliance.create(WANTS_MORE)
    assert not has_library(appliance, modest)
    assert appliance.reserve == []
    assert not has_library(appliance, more)
    eventually(lambda: has_library(appliance, more))
    assert len(appliance.reserve) == 1
    assert not has_library(appliance, modest)


def test_calls_go_on_when_it_ends(appliance: Appliance) -> None:
    more = appliance.create(WANTS_MORE)
    eventually(lambda: has_library(appliance, more))
    [first] = appliance.reserve
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not alive([first]))
    assert appliance.call(more).status == 200
    eventually(lambda: has_library(appliance, more))
    assert appliance.reserve != [first]
    assert appliance.stop() == 0
