#!/usr/bin/env python3
"""Builds the binary: `build.py TARGET`, with the Python of an environment that holds the lock of the group `build`, nothing else.

THEORY OF OPERATION

1. gcc makes three small things: the sandboxes' Python (interpreter.c, around libpython), a libexpat that Ubuntu 22.04's glibc can
   load (Debian's archive with random.c), and the beginning of the file (unpack.c, static).
2. PyInstaller makes the tree (codeactions.spec, contents.py).
3. The tree is listed, its files' contents compressed one after the other, and all put together.
4. The file starts from a folder of its own and tests itself: `codeactions selftest`.

The same sources, lock and packages of the build host give the same bytes: hashes in Python are seeded, compiled modules depend on
their source only, the list is sorted, and no time and no path of this machine gets in.
"""

import hashlib
import lzma
import os
import stat
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import contents  # noqa: E402

ROOT = HERE.parent.parent
MAGIC = b"codeactions-tree"
TRAILER = struct.Struct("<QQQQQQ64s16s")
MOST_BYTES = 40_000_000
# No path of this machine: they would be in debug information and in assertions.
COMPILE = ("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-ffile-prefix-map={ROOT}=.", "-s", "-Wl,--build-id=none")


class Entry(NamedTuple):
    """A line of the list: kind (d, l, f), mode, size, path, and the target of a link."""

    kind: str
    mode: int
    size: int
    path: str
    target: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.mode:o} {self.size} {self.path}" + (f"\t{self.target}" if self.target else "")


def die(message: str) -> NoReturn:
    sys.exit(f"binary: {message}")


def run(command: Sequence[str | Path], **environment: str) -> None:
    """Its output is shown when it fails."""
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(list(map(str, command)), env=inherited | environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        die(f"{Path(command[0]).name} failed:\n{done.stdout}{done.stderr}")


def compile_parts(work: Path) -> None:
    name = Path(contents.LIBRARIES).name
    home = [f'-DLIBRARIES="{name}"', f"-I{sysconfig.get_path('include')}"]
    # RPATH and not RUNPATH: it holds for the libraries of libraries too.
    search = ["-Wl,--disable-new-dtags", f"-Wl,-rpath,$ORIGIN/../lib/{name}:{contents.INSIDE}/lib/{name}"]
    run([*COMPILE, *home, "-o", work / "python3", HERE / "interpreter.c", libpython(), *search])
    exported = work / "expat.map"
    exported.write_text("{ global: XML_*; local: *; };\n")
    shared = ["-shared", "-fPIC", "-Wl,-soname,libexpat.so.1", "-Wl,-Bsymbolic", f"-Wl,--version-script={exported}"]
    expat = ["-Wl,--whole-archive", "-l:libexpat.a", "-Wl,--no-whole-archive"]
    run([*COMPILE, *shared, "-o", work / "libexpat.so.1", HERE / "random.c", *expat])
    run([*COMPILE, "-static", "-o", work / "unpack", HERE / "unpack.c", "-llzma"])


def libpython() -> Path:
    """Debian's lies in a folder for the machine's kind."""
    folder, name = Path(sysconfig.get_config_var("LIBDIR")), f"libpython{sysconfig.get_config_var('LDVERSION')}.so.1.0"
    for path in (folder / name, folder / (sysconfig.get_config_var("MULTIARCH") or "") / name):
        if path.is_file():
            return path
    die(f"{sys.base_prefix} has no {name}: install it, or name a Python that was built with --enable-shared in PYTHON")


def make_tree(work: Path) -> Path:
    folders = [f"--distpath={work}/dist", f"--workpath={work}/pyinstaller"]
    run(
        [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", *folders, HERE / "codeactions.spec"],
        CODEACTIONS_ROOT=str(ROOT),
        CODEACTIONS_WORK=str(work),
        PYINSTALLER_CONFIG_DIR=str(work / "cache"),
        PYTHONHASHSEED="0",
        SOURCE_DATE_EPOCH="0",
    )
    return work / "dist" / "tree"


def listed(tree: Path) -> Iterator[Entry]:
    """A folder before what is in it. Modes are ours: the build's umask must not show."""
    for path in sorted(tree.rglob("*")):
        inner = str(path.relative_to(tree))
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            yield Entry("l", 0o777, 0, inner, os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            yield Entry("d", 0o755, 0, inner)
        else:
            yield Entry("f", 0o755 if status.st_mode & 0o100 else 0o644, status.st_size, inner)


def compress(parts: Iterable[bytes]) -> bytes:
    """With a sum inside, which the beginning of the file compares."""
    compressor = lzma.LZMACompressor(check=lzma.CHECK_SHA256, preset=6)
    return b"".join(compressor.compress(part) for part in parts) + compressor.flush()


def put_together(work: Path, tree: Path) -> bytes:
    entries = list(listed(tree))
    text = "".join(f"{entry}\n" for entry in entries).encode()
    listing, data = compress([text]), compress((tree / entry.path).read_bytes() for entry in entries if entry.kind == "f")
    beginning = (work / "unpack").read_bytes()
    name = f"{version()}-{hashlib.sha256(listing + data).hexdigest()[:12]}"
    at, size = len(beginning), sum(entry.size for entry in entries)
    trailer = TRAILER.pack(at, len(listing), len(text), at + len(listing), len(data), size, name.encode(), MAGIC)
    return beginning + listing + data + trailer


def version() -> str:
    sys.path.insert(0, str(ROOT))
    from appliance import __version__

    return __version__


def test(file: Path) -> None:
    """As its first user does: it unpacks itself, and then says what it found."""
    with tempfile.TemporaryDirectory(prefix="codeactions-", dir=file.parent) as folder:
        # Root's sandboxes and server are other users, who must be able to enter.
        os.chmod(folder, 0o755)
        environment = {"PATH": os.environ["PATH"], "CODEACTIONS_UNPACK": folder, "LANG": "C.UTF-8"}
        if subprocess.run([file, "selftest"], env=environment, check=False).returncode != 0:
            die(f"{file} doesn't pass its own test; it is left there to be looked at")


def key() -> str:
    """A hash of all that decides the bytes."""
    compiler = subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, check=True).stdout
    total = hashlib.sha256(sys.version.encode() + compiler)
    folders = [ROOT / name for name in (*contents.OWN, contents.UNITS)] + [HERE]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    for path in sorted([*files, ROOT / "requirements-build.lock"]):
        total.update(f"{path.relative_to(ROOT)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return total.hexdigest()


def main(target: Path) -> None:
    stamp = target.with_name(target.name + ".key")
    if target.exists() and stamp.exists() and stamp.read_text() == key():
        return
    try:
        contents.check_python()
    except contents.Incomplete as error:
        die(str(error))
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=target.parent) as folder:
        work = Path(folder)
        compile_parts(work)
        data = put_together(work, make_tree(work))
    made = target.with_name(target.name + ".new")
    made.write_bytes(data)
    made.chmod(0o755)
    if len(data) > MOST_BYTES:
        die(f"{made} has {len(data)} bytes: over {MOST_BYTES}")
    test(made)
    made.rename(target)
    stamp.write_text(key())
    print(f"binary: {target}, {len(data) / 1e6:.1f} MB, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
