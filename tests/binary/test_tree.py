"""The unpacked program: what it needs of a host, how quick it is, and that runs get its Python."""

import json
import os
import re
import resource
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import Appliance, descendants, refused_start, running
from tests.binary.test_unpacking import NOBODY, needs_root
from tests.cases import ROOT

PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
MOST_BYTES = 40_000_000
VERSION_SECONDS = 0.3
READY_SECONDS = 2.0
GLIBC = (2, 35)  # Ubuntu 22.04's; Debian 12 has 2.36


@pytest.fixture(scope="module")
def appliance(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    with running(tmp_path_factory.mktemp("state"), command=(str(program), "serve")) as appliance:
        yield appliance


def elf_files(tree: Path) -> list[Path]:
    return [path for path in tree.rglob("*") if path.is_file() and not path.is_symlink() and is_elf(path)]


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def wanted_glibc(path: Path) -> list[tuple[int, ...]]:
    """The versions of glibc's symbols that a file asks for, from its table of needed versions."""
    table = subprocess.run(["readelf", "--version-info", "--wide", path], capture_output=True, text=True, check=True).stdout
    return [tuple(map(int, version.split("."))) for version in re.findall(r"Name: GLIBC_([\d.]+)", table)]


def test_it_is_a_small_file(binary: Path) -> None:
    assert binary.stat().st_size < MOST_BYTES


@pytest.mark.skipif(shutil.which("readelf") is None, reason="NOT TESTED: readelf (binutils) isn't here")
def test_every_file_asks_for_a_glibc_that_the_oldest_supported_host_has(binary: Path, program: Path) -> None:
    files = elf_files(program.parent)
    assert len(files) > 50
    too_new = {str(path): max(wanted_glibc(path)) for path in files if max(wanted_glibc(path), default=(0,)) > GLIBC}
    assert too_new == {}
    assert wanted_glibc(binary) == [], "the file's beginning is static"


def test_no_file_looks_for_libraries_where_it_was_built(program: Path) -> None:
    for path in elf_files(program.parent):
        dynamic = subprocess.run(["readelf", "--dynamic", "--wide", path], capture_output=True, text=True, check=True).stdout
        for search in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
            assert all(folder.startswith(("$ORIGIN", "/opt/python/")) for folder in search.split(":")), path


# Time of processors, since a loaded machine makes everything late. On a quiet one it is what a person waits: steps wait for each
# other.
def test_the_version_is_said_at_once(binary: Path, program: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(5):
        environment = {"CODEACTIONS_UNPACK": str(program.parent.parent)}
        subprocess.run([binary, "version"], env=environment, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 5 < VERSION_SECONDS


def test_it_is_ready_in_two_seconds(program: Path, tmp_path: Path) -> None:
    with running(tmp_path, command=(str(program), "serve")) as appliance:
        assert sum(map(cpu_seconds, [appliance.process.pid, *descendants(appliance.process.pid)])) < READY_SECONDS


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_it_passes_its_own_test(program: Path) -> None:
    done = subprocess.run([program, "selftest"], env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "by /usr/bin/python3" in done.stdout


@needs_root
def test_an_ordinary_users_passes_too(program: Path) -> None:
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    done = subprocess.run([*drop, program, "selftest"], env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# A copy of /usr/bin without any python, by an overlay's white-outs.
WITHOUT_PYTHON = """
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/usr/bin,upperdir=/mnt/upper,workdir=/mnt/work overlay /usr/bin
rm /usr/bin/python3*
"""
# The kernel stacks two of them at most.
TWO_OVERLAYS = "mkdir /mnt/none\nmount -t overlay -o lowerdir=/mnt/none:/usr/bin overlay /usr/bin\n"


@needs_root
@pytest.mark.parametrize(
    ("user", "more", "place"),
    [
        (0, "", "/usr/bin/python3"),
        (NOBODY, "", "/usr/bin/python3"),
        (0, TWO_OVERLAYS, "/opt/python/bin/python3"),
        (NOBODY, TWO_OVERLAYS, "/opt/python/bin/python3"),
    ],
)
def test_on_a_host_without_python_sandboxes_have_one(program: Path, user: int, more: str, place: str) -> None:
    drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    script = f"{WITHOUT_PYTHON}{more}\n! python3 --version 2>/dev/null\nexec {shlex.join([*drop, str(program), 'selftest'])}"
    namespace = ["unshare", "--mount", "--propagation=private", "sh", "-euc", script]
    done = subprocess.run(namespace, env={"PATH": PATH}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"by {place}, " in done.stdout


RUNS_PROGRAMS = """
import os, subprocess, sys
def output(*arguments, **options):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)
    return done.stdout or done.stderr
def Run(engine):
    with open("/tmp/program.py", "w") as file:
        file.write("import sys; print(sys.argv, __name__)")
    engine.result.set({
        "executable": sys.executable,
        "-c": output("-c", "import sys; print(sys.executable, sys.flags.isolated)"),
        "-m": output("-m", "json.tool", "--compact", input='{"a": 1}'),
        "FILE": output("/tmp/program.py", "an argument"),
        "-": output("-", input="print(6 * 7)"),
        "options": output("-I", "-u", "-Werror", "-Xdev", "-c", "import sys; print(sys.flags.dev_mode, sys.warnoptions[-1])"),
        "python3": subprocess.run(["python3", "-c", "print(1)"], capture_output=True, text=True).stdout,
        "environment": sorted(os.environ),
    }, content_type="json")
"""


def test_sys_executable_is_a_python_that_takes_what_any_python_takes(appliance: Appliance) -> None:
    assert appliance.run(RUNS_PROGRAMS).json() == {
        "executable": "/usr/bin/python3",
        "-c": "/usr/bin/python3 0\n",
        "-m": '{"a":1}\n',
        "FILE": "['/tmp/program.py', 'an argument'] __main__\n",
        "-": "42\n",
        "options": "True error\n",
        "python3": "1\n",
        "environment": ["HOME", "LANG", "PATH", "TMPDIR", "TZ"],
    }


# A spawned process reads its maker's source again, and an action's isn't in a file: it must not be named as one.
SPAWNS = """
import multiprocessing, sys
del __file__
def Run(engine):
    with open("/tmp/work.py", "w") as file:
        file.write("def double(x): return 2 * x")
    sys.path.insert(0, "/tmp")
    import work
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        engine.result.set(pool.map(work.double, [1, 2]))
"""


def test_multiprocessing_can_spawn(appliance: Appliance) -> None:
    answer = appliance.run(SPAWNS)
    assert answer.body == b"[2, 4]", appliance.logs_of(answer)


def test_actions_see_nothing_of_the_servers_libraries(appliance: Appliance) -> None:
    source = """
def Run(engine):
    found = []
    for name in ("trio", "msgspec", "quart", "structlog", "appliance.cli"):
        try:
            __import__(name)
        except ImportError:
            continue
        found.append(name)
    engine.result.set(found)
"""
    assert appliance.run(source).json() == []


def test_time_zones_and_certificates_are_found(appliance: Appliance) -> None:
    source = """
import importlib.resources, os, ssl, zoneinfo
def Run(engine):
    zone = importlib.resources.files("tzdata").joinpath("zoneinfo/America/Sao_Paulo").read_bytes()
    paths = ssl.get_default_verify_paths()
    engine.result.set([zone[:4] == b"TZif", str(zoneinfo.ZoneInfo("America/Sao_Paulo")), os.path.exists(paths.openssl_cafile)])
"""
    assert appliance.run(source).json() == [True, "America/Sao_Paulo", os.path.exists("/usr/lib/ssl/cert.pem")]


def test_programs_of_the_host_get_the_environment_as_it_was(program: Path) -> None:
    script = f"""
import os, runpy, sys
entry = runpy.run_path({str(ROOT / "packaging/binary/entry.py")!r})
entry["restore_environment"]()
import json; print(json.dumps(dict(os.environ)))
"""
    bootloaders = {
        "LD_LIBRARY_PATH": "/theirs:/mine",
        "LD_LIBRARY_PATH_ORIG": "/mine",
        "_PYI_ARCHIVE_FILE": "x",
        "_MEIPASS2": "x",
    }
    python = program.parent / "_internal/python/bin/python3"
    done = subprocess.run([python, "-c", script], env=bootloaders, capture_output=True, text=True, check=True)
    seen = json.loads(done.stdout)
    assert {name: seen[name] for name in seen if name != "LC_CTYPE"} == {"LD_LIBRARY_PATH": "/mine"}


@needs_root
@pytest.mark.parametrize("place", ["codeactions", "_internal/appliance/cli.py", "."])
def test_root_starts_no_sandboxes_from_what_others_can_write(program: Path, shelf: Path, tmp_path: Path, place: str) -> None:
    tree = shelf / "copy" / "tree"
    shutil.copytree(program.parent, tree, symlinks=True)
    try:
        changed = tree / place
        changed.chmod(changed.stat().st_mode | 0o020)
        refused = refused_start(tmp_path / "state", (str(tree / "codeactions"), "serve"))
        assert refused.returncode == 1
        first, second = refused.stderr.splitlines()
        assert first.startswith(f"codeactions: others than root can write {changed}, and root runs what lies there: ")
        assert second == "codeactions: the launcher ended before it was ready; it has said why above"
    finally:
        shutil.rmtree(tree.parent)


@needs_root
def test_nor_from_a_folder_in_one_that_others_can_write(program: Path, shelf: Path, tmp_path: Path) -> None:
    above = shelf / "open"
    shutil.copytree(program.parent, above / "tree", symlinks=True)
    try:
        above.chmod(0o777)
        refused = refused_start(tmp_path / "state", (str(above / "tree" / "codeactions"), "serve"))
        assert refused.stderr.startswith(f"codeactions: others than root can write {above}, ")
    finally:
        shutil.rmtree(above)
