"""What the binary carries beside what PyInstaller finds by itself: the standard library, our own packages, compiled modules.

Entries are PyInstaller's: (place in the tree, file or link's target, kind). Compiled files depend on nothing but their source: no
time of change, no path of this machine.
"""

import importlib.util
import py_compile
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from PyInstaller.depend.bindepend import resolve_library_path

Entry = tuple[str, str, str]

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
PREFIX = "python"  # the sandboxes' /opt/python
MODULES = f"{PREFIX}/lib/{PYTHON}"
LIBRARIES = f"{PREFIX}/lib/codeactions-python"
INSIDE = f"/opt/{PREFIX}"
OWN = ("appliance", "ui", "engines")
UNITS = "systemd"  # the files that `codeactions install` writes

# Modules of `sys.stdlib_module_names` that aren't carried: of other systems, …
_ELSEWHERE = {"_msi", "_overlapped", "_scproxy", "_winapi", "msilib", "msvcrt", "nt", "winreg", "winsound"}
# … those that need Tcl/Tk and a display, and one that Debian's python3 hasn't got either without a package of its own.
LEFT_OUT = _ELSEWHERE | {"_tkinter", "tkinter", "turtle", "turtledemo", "idlelib", "_gdbm"}

_NOT_MODULES = {"test", "site-packages", "dist-packages", "lib-dynload", "__pycache__", "sitecustomize.py", "EXTERNALLY-MANAGED"}
_TESTS = {"test", "tests", "__pycache__", "_bundled"}  # of packages; `_bundled` are ensurepip's wheels
# PyInstaller finds them by way of distutils, and nothing of ours imports them.
_TOOLS = {"setuptools", "_distutils_hack", "pkg_resources"}
EXCLUDED = sorted(LEFT_OUT - {"nt"} | _TOOLS)  # `nt` is a name that it knows how to leave out itself
_SUFFIX = f".{sys.implementation.cache_tag}.pyc"


class Incomplete(Exception):
    """This Python can't be what the binary carries; the message says what it lacks."""


def check_python() -> None:
    """A Debian without python3-distutils, say, would make a binary that lacks it. Raises `Incomplete`."""
    wanted = sys.stdlib_module_names - LEFT_OUT
    missing = sorted(name for name in wanted if importlib.util.find_spec(name) is None)
    if missing:
        raise Incomplete(f"this Python lacks modules of the standard library: {', '.join(missing)}")


def extensions() -> Iterator[tuple[str, str]]:
    """The standard library's modules in C, and their folder: their libraries are PyInstaller's to find."""
    for path in sorted(Path(sysconfig.get_config_var("DESTSHARED")).glob("*.so")):
        if path.name.partition(".")[0] in sys.stdlib_module_names - LEFT_OUT:
            yield str(path), f"{MODULES}/lib-dynload"


def standard_library(work: Path) -> Iterator[Entry]:
    folder = Path(sysconfig.get_path("stdlib"))
    for path in _files(folder):
        inner = path.relative_to(folder)
        top = inner.parts[0]
        if top in _NOT_MODULES or top.partition(".")[0] in LEFT_OUT or top.startswith("config-") or _TESTS & set(inner.parts[1:]):
            continue
        if path.suffix == ".py" and "venv/scripts" not in str(inner):
            yield compiled(path, f"{MODULES}/{inner}c", f"{INSIDE}/lib/{PYTHON}/{inner}", work)
        else:
            yield f"{MODULES}/{inner}", str(path), "DATA"


def time_zones(work: Path) -> Iterator[Entry]:
    """The package tzdata, which zoneinfo takes where the host has no zones of its own."""
    folder = Path(importlib.util.find_spec("tzdata").submodule_search_locations[0])  # type: ignore[union-attr,index]
    for path in _files(folder):
        inner = path.relative_to(folder.parent)
        if path.suffix == ".py":
            yield compiled(path, f"{MODULES}/{inner}c", f"{INSIDE}/lib/{PYTHON}/{inner}", work)
        elif "__pycache__" not in inner.parts:
            yield f"{MODULES}/{inner}", str(path), "DATA"


def own_packages(root: Path, work: Path) -> Iterator[Entry]:
    """With their sources: an engine is copied into sandboxes, and a traceback in the log shows lines."""
    for package in OWN:
        for path in _files(root / package):
            inner = path.relative_to(root)
            if "__pycache__" in inner.parts or inner.parts[:2] == ("engines", "cases"):
                continue
            yield str(inner), str(path), "DATA"
            if path.suffix == ".py":
                place = inner.parent / "__pycache__" / (path.stem + _SUFFIX)
                yield compiled(path, str(place), str(inner), work)


def units(root: Path) -> Iterator[Entry]:
    yield from ((str(path.relative_to(root)), str(path), "DATA") for path in _files(root / UNITS))


def own_modules(root: Path) -> list[str]:
    sources = [path.relative_to(root).with_suffix("") for package in OWN for path in sorted((root / package).rglob("*.py"))]
    return [".".join(path.parts).removesuffix(".__init__") for path in sources]


def dependencies(pure: Iterable[Entry], work: Path) -> Iterator[Entry]:
    """The modules of other projects that PyInstaller has found, each as a compiled file."""
    for name, source, _ in sorted(pure):
        top = name.partition(".")[0]
        if top in {*OWN, *sys.stdlib_module_names, "sitecustomize"} or top.startswith("_sysconfigdata") or source in (None, "-"):
            continue
        inner = name.replace(".", "/") + ("/__init__" if Path(source).name == "__init__.py" else "")
        yield compiled(Path(source), f"{inner}.pyc", f"{inner}.py", work)


def data(found: Iterable[Entry]) -> Iterator[Entry]:
    """Without the lists of installed files, which have hashes of scripts that name this machine's folders."""
    yield from (entry for entry in found if Path(entry[0]).name != "RECORD")


def compiled(source: Path, place: str, shown: str, work: Path) -> Entry:
    """`shown` is the file's name in tracebacks; the import system puts the real one there where the source lies next to it."""
    target = str(work / place)
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(source), target, shown, doraise=True, optimize=0, invalidation_mode=mode)
    return place, target, "DATA"


def binaries(found: Iterable[Entry], expat: Path) -> Iterator[Entry]:
    """What PyInstaller has found, with the shared libraries in one folder, for the program's and the sandboxes' interpreter.

    Not glibc's own libraries, which PyInstaller leaves to the host, and not libcrypt: every supported host has it, and Debian
    12's wants a glibc that Ubuntu 22.04 has not.
    """
    for place, source, kind in found:
        name = Path(place).name
        if place.startswith(f"{PYTHON}/lib-dynload/") or name.startswith("libcrypt.so."):
            continue
        if "/" in place or kind != "BINARY":
            yield place, source, kind
            continue
        yield f"{LIBRARIES}/{name}", str(expat) if name == expat.name else source, kind
        yield name, f"{LIBRARIES}/{name}", "SYMLINK"
    yield from _kept_for_nis()
    yield f"{PYTHON}/lib-dynload", f"../{MODULES}/lib-dynload", "SYMLINK"  # where the bootloader looks


def licences(carried: Iterable[Entry]) -> Iterator[Entry]:
    """Of Debian's packages that come along. Other projects' are in their dist-info folders, Python's with its modules."""
    sources = {Path(source).resolve().name for place, source, _ in carried if place.startswith(f"{LIBRARIES}/")}
    for package in sorted({_package_of(name) for name in sources} - {""}):
        if (text := Path("/usr/share/doc", package, "copyright")).is_file():
            yield f"licences/{package}", str(text), "DATA"


def _package_of(library: str) -> str:
    """Debian's; "" for a library of no package, or on another system."""
    if shutil.which("dpkg-query") is None:
        return ""
    command = ["dpkg-query", "--search", f"*/{library}"]
    found = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    return found.partition(":")[0]


def _kept_for_nis() -> Iterator[Entry]:
    """PyInstaller takes libnsl for a part of glibc, which it was; of it the host has one only by accident."""
    path = resolve_library_path("libnsl.so.2")
    if path is not None:
        yield f"{LIBRARIES}/libnsl.so.2", path, "BINARY"


def _files(folder: Path) -> Iterator[Path]:
    yield from (path for path in sorted(folder.rglob("*")) if path.is_file())
