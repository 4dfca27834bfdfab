"""A run may use as many processors as its share of them fills, and runtimes size themselves by that."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.runner.launch.processors import Processors
from tests.appliance import Appliance
from tests.golang import with_every_language

SOURCES = {
    "python": "import os\ndef Run(engine):\n    engine.result(len(os.sched_getaffinity(0)))\n",
    "javascript": "function Run(engine) {\n  engine.result.set(require('os').availableParallelism());\n}\n",
    "go": 'package actions\n\nimport "runtime"\n\nfunc Run(engine *Engine) {\n\tengine.Result.Set(runtime.NumCPU())\n}\n',
}
OF_THIS_MACHINE = len(os.sched_getaffinity(0))


@pytest.fixture(scope="module")
def every_language() -> Iterator[Appliance]:
    with tempfile.TemporaryDirectory() as folder, with_every_language(Path(folder) / "state") as appliance:
        yield appliance


@pytest.mark.parametrize(("cpu", "processors"), [("50%", 1), ("100%", 1), ("101%", 2), ("200%", 2)])
@pytest.mark.parametrize("language", SOURCES)
def test_as_many_as_its_share_fills(every_language: Appliance, language: str, cpu: str, processors: int) -> None:
    if every_language.request("GET", "/health").json()["services"][f"engine_{language}"]["message"].startswith("not"):
        pytest.skip(f"this machine has no {language}")
    answer = every_language.run(SOURCES[language], language=language, cpu=cpu)
    assert (answer.status, answer.body) == (200, str(min(processors, OF_THIS_MACHINE)).encode())


def test_the_next_run_begins_with_another() -> None:
    processors = Processors(range(3))
    assert [processors.assign(100) for _ in range(3)] == [{0}, {1}, {2}]


def test_a_run_gets_those_that_fewest_others_have() -> None:
    processors = Processors(range(4))
    wide = processors.assign(200)
    assert wide == {0, 1}
    assert processors.assign(100) == {2}
    assert processors.assign(100) == {3}
    processors.release(wide)
    assert processors.assign(150) == wide


def test_a_share_of_all_is_no_choice() -> None:
    processors = Processors(range(2))
    assert processors.assign(200) == processors.assign(101) == processors.assign(1000) == frozenset()
    processors.release(frozenset())
    assert processors.assign(100) == {0}
