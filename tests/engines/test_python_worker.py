"""The Python worker's side of the job channel: what isn't visible in an answer."""

import ast
import json
import re
import subprocess
import sys

import pytest

from appliance.runner.wire import FrameReader, Log, Malformed
from engines.python.language import MORE, wants_more
from tests.appliance import INTERPRETER
from tests.cases import ROOT, CaseRequest
from tests.engines.conftest import HANG_GUARD, Worker, frame

STDLIB_WITH_EFFECTS = {"antigravity", "this", "idlelib", "turtledemo", "__phello__"}


def test_a_worker_that_gets_no_job_ends_without_a_word(worker: Worker) -> None:
    ran = worker.send(b"")
    assert (ran.frames, ran.stdout, ran.stderr, ran.exit_status) == ([], b"", b"", 0)


def test_a_worker_whose_job_is_cut_short_fails_without_a_word(worker: Worker) -> None:
    ran = worker.send(b"\0\0\0\x10\0\0\0\0{")
    assert (ran.frames, ran.stdout, ran.stderr, ran.exit_status) == ([], b"", b"", 1)


def test_logs_past_the_limit_are_dropped_and_counted(worker: Worker) -> None:
    source = "def Run(engine):\n    for n in (40, 50, 20, 1):\n        engine.log.info('x' * n)\n"
    ran = worker.run(source, max_log_bytes=100)
    assert [len(content) for _level, content in ran.logs] == [40, 50]
    assert ran.last == {"type": "done", "dropped": 2}


def test_a_failed_run_tells_of_dropped_logs_too(worker: Worker) -> None:
    source = "def Run(engine):\n    engine.log.info('x' * 101)\n    1 / 0\n"
    ran = worker.run(source, max_log_bytes=100)
    assert ran.logs == []
    assert ran.last == {
        "type": "failed",
        "kind": "error",
        "message": "ZeroDivisionError: division by zero (line 3)",
        "dropped": 2,
    }


FORKS = """\
import os

def Run(engine):
    for _ in range(3):
        if os.fork() == 0:
            engine.log.info('x' * 40)
            return
        os.wait()
"""


def test_the_logs_of_forked_children_count_towards_the_limit(worker: Worker) -> None:
    ran = worker.run(FORKS, max_log_bytes=100)
    assert len(ran.logs) == 2
    assert ran.last == {"type": "done", "dropped": 1}


def test_what_came_before_a_frame_that_is_none_is_read() -> None:
    data = frame({"type": "log", "level": "info"}, b"before") + b"\xff" * 8
    frames = FrameReader(max_result_bytes=100).feed(data)
    head, blob = next(frames)
    assert (isinstance(head, Log), blob) == (True, b"before")
    with pytest.raises(Malformed):
        next(frames)


def test_output_on_descriptor_1_of_an_action_goes_to_its_pipe(worker: Worker) -> None:
    ran = worker.run("import os, subprocess\ndef Run(engine):\n    subprocess.run(['echo', 'child'])\n    os.write(2, b'raw')\n")
    assert (ran.stdout, ran.stderr, ran.logs) == (b"child\n", b"raw", [])


def test_a_plain_program_is_announced_before_it_runs(worker: Worker) -> None:
    ran = worker.run("import os\nos._exit(0)\n")
    assert [header["type"] for header, _blob in ran.frames] == ["plain"]
    assert ran.exit_status == 0


def test_an_action_may_end_by_os_exit(worker: Worker) -> None:
    ran = worker.run("import os\ndef Run(engine):\n    engine.result.set('ok')\n    os._exit(3)\n")
    assert [header["type"] for header, _blob in ran.frames] == ["result"]
    assert ran.exit_status == 3


def test_an_action_that_closes_the_channel_harms_only_itself(worker: Worker) -> None:
    ran = worker.run("import os\ndef Run(engine):\n    os.closerange(3, 1000)\n    engine.log.info('lost')\n    print('lost')\n")
    assert (ran.frames, ran.exit_status) == ([], 0)


def test_two_runs_draw_different_random_numbers(worker: Worker) -> None:
    source = "import random, uuid\ndef Run(engine):\n    engine.result.set([random.random(), str(uuid.uuid4())])\n"
    assert worker.run(source).result[1] != worker.run(source).result[1]


def test_an_action_finds_nothing_of_the_rehearsal(worker: Worker) -> None:
    ran = worker.run(
        "import sys\nprint(sorted(vars()))\ndef Run(engine):\n    engine.result.set(sys.modules['action'].Run is Run)\n"
    )
    names = ["__builtins__", "__doc__", "__file__", "__loader__", "__name__", "__package__", "__spec__", "sys"]
    assert ran.logs == [("debug", str(names))]
    assert ran.result[1] == b"true"


def test_an_action_has_no_descriptor_but_its_streams_and_the_channel(worker: Worker) -> None:
    source = "import os\ndef Run(engine):\n    engine.result.set(len(os.listdir('/proc/self/fd')))\n"
    # 0, 1, 2, the channel, and the one that lists them; the test's zygote leaves two of its own
    assert int(worker.run(source, CaseRequest()).result[1]) <= 7


def test_a_child_program_inherits_only_its_streams(worker: Worker) -> None:
    source = "import os\ndef Run(engine):\n    os.execv('/bin/sh', ['sh', '-c', 'echo /proc/self/fd/*'])\n"
    found = {path.rpartition("/")[2] for path in worker.run(source).stdout.decode().split()}
    assert found <= {"0", "1", "2", "3"}  # the shell's own for the listing is 3


@pytest.mark.parametrize("module", ["preload", "more"])
def test_preloading_starts_no_thread_and_opens_no_descriptor(module: str) -> None:
    code = (
        f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); before = os.listdir('/proc/self/fd')\n"
        f"import engines.python.{module}\n"
        "print(os.listdir('/proc/self/fd') == before, len(os.listdir('/proc/self/task')))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, timeout=HANG_GUARD, check=True)
    assert done.stdout == b"True 1\n"


def preloaded(module: str) -> set[str]:
    """The modules that an interpreter has after it, by their first names."""
    code = (
        f"import json, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from appliance.runner.sandbox import zygote\nimport engines.python.{module}\n"
        "print(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, timeout=HANG_GUARD, check=True)
    return set(json.loads(done.stdout))


def test_who_wants_more_is_known_by_what_there_is_more_of() -> None:
    source = (ROOT / "engines" / "python" / "more.py").read_text()
    imported = set(re.findall(r"^import (\w+)", source, re.MULTILINE))
    assert set(MORE.split("|")) == imported - preloaded("preload")
    assert imported <= preloaded("more")


@pytest.mark.parametrize(
    ("source", "wants"),
    [
        ("import json\nimport urllib.request\n", True),
        ("import json, hashlib as h\n", True),
        ("def Run(engine):\n\tfrom concurrent.futures import ThreadPoolExecutor\n", True),
        ("async def Run(engine):\n    pass\n", True),
        ("import json\nimport re\n", False),
        ("from collections import OrderedDict\n", False),
        ("# hashlib isn't needed\ntext = 'import of email'\n", False),
        ("import hashlibrary\n", False),
    ],
)
def test_who_wants_more(source: str, wants: bool) -> None:
    assert wants_more(source) is wants


def test_what_the_standard_library_imports_an_action_imports(worker: Worker) -> None:
    names = sorted(name for name in sys.stdlib_module_names - STDLIB_WITH_EFFECTS)
    probe = (
        f"import importlib, json, sys\nmissing = []\nfor name in {names!r}:\n"
        "    try:\n        importlib.import_module(name)\n    except ImportError:\n        missing.append(name)\n"
    )
    bare = subprocess.run(
        [INTERPRETER, "-I", "-W", "ignore", "-c", probe + "print(json.dumps(missing))"],
        capture_output=True,
        timeout=HANG_GUARD,
        check=True,
    )
    ran = worker.run(
        "import warnings\nwarnings.simplefilter('ignore')\n" + probe + "def Run(engine):\n    engine.result.set(missing)\n"
    )
    assert json.loads(ran.result[1]) == json.loads(bare.stdout)


def test_the_engine_imports_only_itself_and_the_standard_library() -> None:
    for path in (ROOT / "engines" / "python").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for module in modules:
                assert (
                    module.startswith(("engines.python", "engines.spec")) or module.partition(".")[0] in sys.stdlib_module_names
                ), path


@pytest.mark.parametrize("count", [1, 300, 70_000])
def test_run_is_found_among_many_names(worker: Worker, count: int) -> None:
    """Beyond 255 of them, and 65 535, the number of one is spread over several instructions."""
    names = "".join(f"n{number} = 0\n" for number in range(count))
    ran = worker.run(f"{names}def Run(engine):\n    engine.result.set('found')\n")
    assert ran.result[1] == b"found"
    plain = worker.run(f"{names}del n0\nprint(Run if 'Run' in globals() else 'none')\n")
    assert (plain.is_plain, plain.stdout) == (True, b"none\n")


def test_the_collector_works_while_an_action_runs(worker: Worker) -> None:
    lines = [
        "import gc, weakref",
        "class Node: pass",
        "def Run(engine):",
        "    node = Node()",
        "    node.self = node",
        "    seen = weakref.ref(node)",
        "    del node",
        "    kept = [[] for _ in range(5000)]",
        "    engine.result.set(f'{gc.isenabled()} {seen()}')",
    ]
    assert worker.run("\n".join(lines)).result[1] == b"True None"
