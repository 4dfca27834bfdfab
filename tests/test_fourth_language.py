"""A language that this program has never heard of: a shell joins by its folder and its line in the table, and nothing else."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD
from tests.cases import ROOT

LANGUAGE = """
from engines.spec import LanguageSpec, Stage

LANGUAGE = LanguageSpec(
    label="Shell",
    suffixes=(".sh",),
    least_memory_bytes=16 << 20,
    least_tasks=2,
    run=Stage(preload="engines.shell.preload"),
)
"""
PRELOAD = """
import os

from engines.python.frames import Channel, read_frame
from engines.python.job import Job


def prepare(program):
    return "sh"


def work(place):
    frame = read_frame(place.job)
    if frame is None:
        return 0
    job = Job.from_frame(*frame)
    place.confine(job.limits)
    Channel(place.answers).send({"type": "plain"})
    os.execve("/bin/sh", ["sh", "-c", job.source], {"PATH": "/usr/bin:/bin", **dict(job.params)})
"""
SOURCE = """
echo "hello $name"
echo "$0 runs as $(id -un) in $(pwd)" >&2
exit ${status:-0}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a fourth language, and an interpreter that knows it and the packages of ours."""
    folder = tmp_path_factory.mktemp("checkout")
    for package in ("appliance", "engines"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    shell = folder / "engines" / "shell"
    shell.mkdir()
    for name, text in (("__init__", ""), ("language", LANGUAGE), ("preload", PRELOAD)):
        (shell / f"{name}.py").write_text(text)
    table = folder / "engines" / "table.py"
    table.write_text(table.read_text().replace('    GO = "go"\n', '    GO = "go"\n    SHELL = "shell"\n'))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True, timeout=HANG_GUARD)
    interpreter = folder / "venv" / "bin" / "python"
    site = folder / "venv" / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    (site / "checkout.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n")
    folder.chmod(0o755)
    return interpreter


def run(program: Path, source: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command: list[str | Path] = [program, "-P", "-m", "appliance", "run", source, *arguments]
    environment = {"PATH": os.environ["PATH"]}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_GUARD, check=False, cwd="/")


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    path = tmp_path / "hello.sh"
    path.write_text(SOURCE)
    return path


def test_it_runs_in_the_same_cage(program: Path, hello: Path) -> None:
    done = run(program, hello, "-p", "name=world")
    assert (done.returncode, done.stdout) == (0, "hello world\n"), done.stderr
    assert "error sh runs as action in /tmp\n" in done.stderr


def test_its_failure_is_told(program: Path, hello: Path) -> None:
    done = run(program, hello, "-p", "name=world", "-p", "status=3")
    assert done.returncode == 1
    assert done.stderr.endswith("error: the action ended with exit status 3\n")


def test_the_others_are_as_before(program: Path, tmp_path: Path) -> None:
    (tmp_path / "action.py").write_text("def Run(engine):\n    engine.result.set('python')\n")
    assert run(program, tmp_path / "action.py").stdout == "python"
