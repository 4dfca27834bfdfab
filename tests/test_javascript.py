"""JavaScript as a language of the appliance: which node it takes, what it says without one, what a parked one is."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.javascript.language import LANGUAGE, find
from engines.spec import Found, Lacking
from tests.appliance import Appliance, cmdline, eventually, running
from tests.test_serve import NOBODY, needs_root, program_of, state_of

MIB = 1 << 20
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="there is no node on PATH: JavaScript is not tried")
HELLO = "function Run(engine) {\n  engine.result.set(process.execPath);\n}\n"


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that an ordinary user can enter: pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def fake(folder: Path, text: str) -> Path:
    path = folder / "node"
    path.write_text(text)
    path.chmod(0o755)
    return path


def creation(appliance: Appliance) -> tuple[int, str]:
    query = "name=a&project_uuid=p&language=javascript&type=endpoint"
    answer = appliance.manage("POST", f"/code?{query}", HELLO.encode())
    return answer.status, str(answer.json().get("message"))


@pytest.mark.parametrize(
    ("mib", "room"), [(96, 64), (127, 64), (128, 128), (255, 128), (256, 256), (300, 256), (512, 512), (1024, 1024)]
)
def test_a_parked_node_serves_the_limits_from_its_size_to_the_next(mib: int, room: int) -> None:
    assert LANGUAGE.room(mib * MIB) == room


def test_a_node_of_the_system_is_where_it_is_in_the_sandbox_too() -> None:
    assert find("/usr/bin/env") == Found(program="/usr/bin/env")


def test_a_node_elsewhere_is_mounted(tmp_path: Path) -> None:
    path = fake(tmp_path, "#!/bin/sh\n")
    assert find(str(path)) == Found(mounts=((str(path), "/opt/node/bin/node"),), program="/opt/node/bin/node")


def test_a_node_that_is_not_there_is_said_with_what_to_install() -> None:
    with pytest.raises(Lacking, match=r"/nowhere/node is no program: install Node.js 18 or newer .* setting NODE"):
        find("/nowhere/node")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#!/bin/sh\necho v16.20.0\n", "node is v16.20.0: install Node.js 18 or newer"),
        ("#!/bin/sh\nexit 3\n", "node can't be started in a sandbox: "),
        ("#!/bin/sh\necho hello\n", "node doesn't say its version, but 'hello\\n': install Node.js 18"),
    ],
)
def test_a_node_of_no_use_is_said_at_creation_and_breaks_no_other_language(public: Path, text: str, why: str) -> None:
    with running(public / "state", worker_pool_size=1, node=str(fake(public, text))) as appliance:
        status, message = creation(appliance)
        assert (status, why in message) == (409, True), message
        service = appliance.request("GET", "/health").json()["services"]["engine_javascript"]
        assert why in service["message"]
        assert appliance.run("def Run(engine):\n    engine.result.set('python')\n").body == b"python"


@needs_node
def test_a_node_that_lies_elsewhere_runs(public: Path) -> None:
    path = str(shutil.copy(str(NODE), public / "node"))
    with running(public / "state", worker_pool_size=1, node=path) as appliance:
        assert appliance.run(HELLO, language="javascript").body == b"/opt/node/bin/node"


@needs_node
@needs_root
def test_an_ordinary_user_runs_javascript_within_its_limits(public: Path) -> None:
    heap = "function Run(engine) {\n  const kept = [];\n  for (;;) kept.push(new Array(1000).fill(kept.length));\n}\n"
    with running(state_of(public), user=NOBODY, command=[program_of(public), "-P", "-m", "appliance", "serve"]) as appliance:
        assert appliance.run("function Run(engine) {\n  engine.result.set('ok');\n}\n", language="javascript").body == b"ok"
        answer = appliance.run(heap, language="javascript", memory="96M")
        assert answer.json() == {"message": "out of memory: the limit is 96 MiB; raise memory or use less"}


@needs_node
def test_the_least_memory_and_tasks_are_enough_for_an_ordinary_action(tmp_path: Path) -> None:
    source = (
        "async function Run(engine) {\n  await require('fs').promises.readdir('/tmp');\n"
        "  const error = await fetch('http://127.0.0.1:9999/').catch((caught) => caught.cause.code);\n"
        "  engine.result.set([JSON.parse(engine.body).length, error]);\n}\n"
    )
    with running(tmp_path, worker_pool_size=1) as appliance:
        body = b"[" + b"1," * 500_000 + b"1]"
        answer = appliance.run(source, body, language="javascript", memory="96M", tasks=16)
        assert answer.status == 200
        assert answer.body in (b'[500001,"ECONNREFUSED"]', b'[500001,"EHOSTUNREACH"]')  # root's runs have no loopback


@needs_node
def test_defaults_below_what_node_needs_are_raised_to_it(tmp_path: Path) -> None:
    with running(tmp_path, memory_limit="40M", tasks_limit=8) as appliance:
        found = {}
        for language, source in (("javascript", "console.log('ran')"), ("python", "print('ran')")):
            answer = appliance.run(source, language=language)
            assert answer.body == b"ran\n"
            limits = appliance.run_of(answer)["extra"]["limits"]
            found[language] = (limits["memory_bytes"] >> 20, limits["tasks"])
        assert found == {"javascript": (96, 16), "python": (40, 8)}


@needs_node
def test_a_node_is_parked_with_its_heap_and_no_source_in_its_arguments(tmp_path: Path) -> None:
    with running(tmp_path, worker_pool_size=1) as appliance:
        parked = eventually(lambda: [pid for pid in appliance.sandboxes_of("javascript") if b"main.js" in cmdline(pid)])
        assert b"--max-old-space-size=" in cmdline(parked[0])
        appliance.run(HELLO, language="javascript")
        assert all(b"Run" not in cmdline(pid) for pid in appliance.sandboxes_of("javascript"))
