"""`codeactions run FILE`, as an author uses it."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, PROGRAM, running

ECHO = """
import json
def Run(engine):
    engine.log.info("a line of the log")
    seen = {"method": engine.request.method, "path": engine.request.path, "body": engine.body}
    seen |= {"params": dict(engine.params.items()), "headers": dict(engine.header.items())}
    engine.result.set(seen, content_type="json")
"""


@pytest.fixture
def action(tmp_path: Path) -> Path:
    path = tmp_path / "action.py"
    path.write_text(ECHO)
    return path


def run(
    *arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None, path: str = os.environ["PATH"]
) -> "subprocess.CompletedProcess[bytes]":
    command = [*PROGRAM, "run", *map(str, arguments)]
    environment = {"PATH": path}
    if cwd is not None:
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
    return subprocess.run(command, input=stdin, env=environment, capture_output=True, timeout=HANG_GUARD, check=False, cwd=cwd)


def seen(*arguments: str | Path, stdin: bytes = b"") -> dict[str, object]:
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return dict(json.loads(done.stdout))


def test_the_result_goes_to_stdout_and_the_log_to_stderr(action: Path) -> None:
    done = run(action)
    assert done.returncode == 0
    assert done.stdout.startswith(b'{"method": "GET", "path": "/action/endpoint/local", "body": ""')
    assert done.stderr == b"info  a line of the log\n"


def test_parameters_and_headers_arrive_as_in_a_call(action: Path) -> None:
    arguments = ("-p", "name=Ada", "-p", "empty=", "-p", "name=second", "-p", "q=a=b", "-H", "x-token: t", "-H", "X-Token:u")
    found = seen(action, *arguments)
    assert found["params"] == {"name": "Ada", "empty": "", "q": "a=b"}
    assert found["headers"] == {"X-Token": ["t", "u"]}


def test_a_body_makes_it_a_post(action: Path) -> None:
    found = seen(action, "-d", "text")
    assert (found["method"], found["body"]) == ("POST", "text")


def test_the_method_can_be_said(action: Path) -> None:
    assert seen(action, "-X", "PUT", "-d", "text")["method"] == "PUT"


def test_a_body_can_come_from_a_file(action: Path, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes("päper".encode())
    assert seen(action, "-d", f"@{tmp_path}/body")["body"] == "päper"


def test_a_body_can_come_from_stdin(action: Path) -> None:
    assert seen(action, "-d", "@-", stdin=b"piped")["body"] == "piped"


def test_a_body_over_the_limit_is_refused_as_in_a_call(action: Path) -> None:
    done = run(action, "-d", "@-", stdin=b"x" * (10 * 1024 * 1024 + 1))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"codeactions: -d: the body is over the limit of 10485760 bytes (MAX_BODY_BYTES)\n"


def test_a_status_without_a_body_prints_none(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def Run(engine):\n    engine.result.set('unsent', status_code=204)\n")
    done = run(tmp_path / "a.py")
    assert (done.returncode, done.stdout) == (0, b"")


def test_the_bytes_of_a_result_are_not_touched(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def Run(engine):\n    engine.result.set(bytes(range(256)), content_type='image/png')\n")
    done = run(tmp_path / "a.py")
    assert (done.returncode, done.stdout, done.stderr) == (0, bytes(range(256)), b"")


def test_a_plain_programs_output_is_the_result(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\n")
    done = run(tmp_path / "plain.py")
    assert (done.returncode, done.stdout) == (0, b"out\n")
    assert b"error err\n" in done.stderr


def test_a_failing_action_is_status_1_with_its_traceback(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def Run(engine):\n    engine.result.set('half')\n    1 / 0\n")
    done = run(tmp_path / "a.py")
    assert (done.returncode, done.stdout) == (1, b"")
    text = done.stderr.decode()
    assert "Traceback (most recent call last):" in text
    assert "    1 / 0" in text
    assert text.endswith("error: ZeroDivisionError: division by zero (line 3)\n")


def test_a_source_that_does_not_compile_shows_the_place(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def Run(engine:\n    pass\n")
    done = run(tmp_path / "a.py")
    assert done.returncode == 1
    assert "^" in done.stderr.decode()
    assert done.stderr.decode().splitlines()[-1].startswith("error: SyntaxError: ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("missing.py",), "missing.py can't be read: No such file or directory"),
        ((".",), ". can't be read: Is a directory"),
        (("action.txt",), "action.txt: the suffix says the language: .py, .js, .mjs, .go"),
        (("latin.py",), "latin.py can't be read: it isn't UTF-8 text"),
        (("big.py",), "big.py: source code is too big"),
        (("action.py", "-p", "name"), "-p name: takes NAME=VALUE"),
        (("action.py", "-p", "=value"), "-p =value: takes NAME=VALUE"),
        (("action.py", "-H", "X-Token"), "-H X-Token: takes NAME:VALUE"),
        (("action.py", "-d", "@missing"), "-d @missing: can't be read: No such file or directory"),
    ],
)
def test_a_wrong_usage_is_one_line(action: Path, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    (tmp_path / "action.txt").write_text(ECHO)
    (tmp_path / "latin.py").write_bytes(b"# \xe9\n")
    (tmp_path / "big.py").write_text("#" * (1 << 20))
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1
    assert (done.stdout, done.stderr.decode()) == (b"", f"codeactions: {says}\n")


@pytest.mark.parametrize(("name", "program"), [("a.js", "node"), ("a.mjs", "node"), ("a.go", "go")])
def test_a_language_that_is_not_there_is_named(tmp_path: Path, name: str, program: str) -> None:
    (tmp_path / name).write_text("function Run(engine) {}\n")
    done = run(tmp_path / name, path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith(f"codeactions: can't run {name}: there is no {program} on PATH: install ".encode())


def test_it_works_beside_a_server_and_leaves_nothing(tmp_path: Path, action: Path) -> None:
    before = set(tmp_path.iterdir())
    with running(tmp_path / "state") as appliance:
        assert run(action, cwd=tmp_path).returncode == 0
        assert appliance.run("print('unhurt')").body == b"unhurt\n"
    assert set(tmp_path.iterdir()) - before == {tmp_path / "state"}
