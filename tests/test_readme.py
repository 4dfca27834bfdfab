"""The README shows its commands with their real output; here they are run again, and compared."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.appliance import ADMIN, ROOT, running

README = ROOT / "README.md"
HANG_GUARD = 60
_END = "__end_of_command__"
# What differs from one run to the next.
_VARYING = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<id>"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"(?m)^date: .*$"), "date: <date>"),
    (re.compile(r'"(queue|wall|cpu)_ms": ?[\d.]+'), r'"\1_ms": <ms>'),
    (re.compile(r'"usage": \{[^}]*\}'), '"usage": <what this host can tell>'),
    (re.compile(r"server-timing: queue;dur=[\d.]+, run;dur=[\d.]+, cpu;dur=[\d.]+"), "server-timing: <where its time went>"),
    (re.compile(r"curl/[\d.]+"), "curl/<version>"),
    (re.compile(r'"isolation_missing": \[[^]]*\]'), '"isolation_missing": [<by who started it>]'),
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:<port>"),
)


def commands_and_outputs() -> list[tuple[str, str]]:
    """In order, from all of the README's console blocks."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", README.read_text()):
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def run_all(commands: list[str], folder: Path) -> list[str]:
    """In one shell, as a reader would; the output of each."""
    script = "".join(f"{command}\necho; echo {_END}\n" for command in commands)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, timeout=HANG_GUARD, check=True)
    return done.stdout.split(f"{_END}\n")[:-1]


def same(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text.replace("\r", "").strip()


def test_every_command_of_the_readme_prints_what_the_readme_shows(tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl isn't installed: the README's commands are not run")
    examples = commands_and_outputs()
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "admin_token").write_text(ADMIN)
    with running(tmp_path / "state") as appliance:
        commands = [command.replace("127.0.0.1:8050", f"127.0.0.1:{appliance.port}") for command, _ in examples]
        outputs = run_all(commands, tmp_path)
    assert len(examples) >= 6
    assert [same(output) for output in outputs] == [same(shown) for _, shown in examples]
