"""The build of one Go source, in a sandbox of its own: the job's source in, an executable in the descriptor that came with it.

The cache of the toolchain is filled beforehand and read-only (`BASE`); a build works on links to it in its own /tmp. A source
that isn't the author's but the word `WARM` (or `LATER`, for which nobody waits) and names of packages fills that cache: the
archive of what is new is the output.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

from engines.go.source import FILE, attached, is_plain, line_of_run, package_of, why_no_run
from engines.python.frames import Channel, read_frame
from engines.python.job import Job
from engines.python.text import cut, encode
from engines.spec import TOOLCHAIN_CACHE as BASE
from engines.spec import Lacking, Place

WARM = "codeactions:warm "
LATER = "codeactions:later "
_LATER_NICE = 10
_OURS = Path(__file__).parent
_MAIN = (_OURS / "main.go").read_text()
_WORK = Path("/tmp/build")
_CACHE = Path("/dev/shm/cache")
FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w")
_MAX_ERRORS = 20
_AUTHORS_LINE = re.compile(rf"^(?:\./|actions/|\S*/)?{re.escape(FILE)}:")
_WRONG_RUN = re.compile(rf"^({re.escape(FILE)}:\d+)(?::\d+)?: (.+?) does not (?:satisfy|implement) .*func\(\*")
_GENERIC_RUN = re.compile(
    rf"^({re.escape(FILE)}:\d+)(?::\d+)?: (?:in call to codeactions_engine\.Use, |cannot use generic function Run )"
)
_CHAIN = re.compile(r"^(?:package \S+|\timports [^\s:]+)$")
_OTHER_PLACE = re.compile(r"^\s*(?:\./)?(?:actions/)?a_engine\.go:\d+:\d+: other declaration of (\w+)$")

_go = ""


def prepare(program: str) -> str:
    """The version of the toolchain in the root. Nothing of it is executed here, where root is."""
    global _go
    _go = program
    return version_of(Path(program).parents[1])


def version_of(goroot: Path) -> str:
    """Raises `Lacking` for what is no toolchain, or one that is too old."""
    try:
        version = (goroot / "VERSION").read_text().split()[0].removeprefix("go")
    except (OSError, IndexError):
        raise Lacking(f"{goroot} is no Go toolchain: it has no file VERSION") from None
    numbers = re.findall(r"\d+", version)
    if len(numbers) < 2 or (int(numbers[0]), int(numbers[1])) < (1, 19):
        raise Lacking(f"Go {version} is too old: install Go 1.19 or newer, or name one by the setting GO")
    return version


def work(place: Place) -> int:
    try:
        output = place.program().descriptor
    except EOFError:
        return 0
    frame = read_frame(place.job)
    if frame is None:
        return 0
    job = Job.from_frame(*frame)
    place.confine(job.limits)
    channel = Channel(place.answers, job.max_log_bytes)
    if job.source.startswith((WARM, LATER)):
        packages = job.source.split()[1:]
        if job.source.startswith(LATER):
            os.nice(_LATER_NICE)
        return _warm(packages, output, channel)
    return _build(job.source, output, channel, job.limits)


def _build(source: str, output: int, channel: Channel, limits: dict[str, Any]) -> int:
    name = package_of(source)
    if name not in ("actions", "main", ""):
        return _refuse(channel, f"{FILE}: the package is {name}; it must be actions, with func Run(engine *Engine), or main")
    _link_cache()
    _lay_out_module(source)
    done = _toolchain("build", *FLAGS, "-o", "/tmp/action", ".")
    if done.returncode != 0:
        return _tell(done, source, channel, limits)
    with open("/tmp/action", "rb") as file:
        while os.sendfile(output, file.fileno(), None, 1 << 24):
            pass
    with os.fdopen(os.dup(output), "wb") as file:
        file.write(attached(source))
    channel.send({"type": "done", "dropped": 0})
    return 0


def lay_out(source: str, folder: Path, path: str) -> None:
    """The package of the program, whose import path is `path`, and below it that of the action, if the source is one."""
    folder.mkdir(parents=True, exist_ok=True)
    if is_plain(source):
        (folder / "main.go").write_text('package main\n\nimport _ "codeactions/plain"\n')
        (folder / FILE).write_text(source, newline="")
        return
    (folder / "main.go").write_text(_MAIN.replace("codeactions/actions", f"{path}/actions"))
    actions = folder / "actions"
    actions.mkdir(exist_ok=True)
    shutil.copy(_OURS / "actions" / "a_engine.go", actions)
    (actions / FILE).write_text(source, newline="")
    # The compiler then says of a Run that isn't the contract's where the author has it.
    use = f"func init() {{\n//line {FILE}:{line_of_run(source)}\n\tcodeactions_engine.Use(Run)\n}}\n"
    (actions / "start.go").write_text(f'package actions\n\nimport codeactions_engine "codeactions/engine"\n\n{use}')


def _lay_out_module(source: str) -> None:
    lay_out(source, _WORK, "codeactions")
    for part in ("engine", "gate", "plain"):
        shutil.copytree(_OURS / part, _WORK / part)
    (_WORK / "go.mod").write_text(go_mod(Path(_go).parents[1]))


def go_mod(goroot: Path) -> str:
    """With the toolchain's own version of the language; the file that is there names the oldest, which our packages do with."""
    major, minor = re.findall(r"\d+", version_of(goroot))[:2]
    return re.sub(r"(?m)^go .*$", f"go {major}.{minor}", (_OURS / "go.mod").read_text())


def _link_cache() -> None:
    """Folders of our own with links to the files of the base: what is new comes to lie beside them."""
    for number in range(256):
        folder = _CACHE / f"{number:02x}"
        folder.mkdir(parents=True, exist_ok=True)
        with os.scandir(f"{BASE}/{folder.name}") if os.path.isdir(f"{BASE}/{folder.name}") else _nothing() as entries:
            for entry in entries:
                os.symlink(entry.path, folder / entry.name)


class _nothing:  # noqa: N801 - an empty scandir
    def __enter__(self) -> tuple[()]:
        return ()

    def __exit__(self, *_: object) -> None:
        pass


def settings_of_toolchain(cache: Path) -> dict[str, str]:
    return {
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "CGO_ENABLED": "0",
        "GOTOOLCHAIN": "local",
        "GOPROXY": "off",
        "GOFLAGS": "-p=2",
        "GOENV": "off",
        "GOTELEMETRY": "off",
        "GO111MODULE": "on",
        "GOCACHE": str(cache),
        "GOPATH": "/tmp/gopath",
    }


def _toolchain(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = settings_of_toolchain(_CACHE) | {
        name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ
    }
    return subprocess.run(
        [_go, *arguments], cwd=_WORK, env=environment, capture_output=True, text=True, errors="replace", check=False
    )


def _tell(done: "subprocess.CompletedProcess[str]", source: str, channel: Channel, limits: dict[str, Any]) -> int:
    text = done.stderr + done.stdout
    if done.returncode < 0 or "signal: killed" in text or "out of memory" in text or "cannot allocate memory" in text:
        limit = limits["memory_bytes"] >> 20
        message = f"the source could not be compiled: out of memory: the limit is {limit} MiB (BUILD_MEMORY)"
        return _fail(channel, "out_of_memory", message)
    errors = authors_errors(text, source) or [text.strip() or f"go build ended with status {done.returncode}"]
    for error in errors[:_MAX_ERRORS]:
        channel.log("error", encode(cut(error)))
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return _fail(channel, "error", errors[0].partition("\n")[0][:480] + more)


def _refuse(channel: Channel, error: str) -> int:
    channel.log("error", encode(cut(error)))
    return _fail(channel, "error", error)


def authors_errors(text: str, source: str) -> list[str]:
    """The compiler's errors, each with the author's file and line, and what belongs to it on lines of its own."""
    errors: list[str] = []
    chain = ""  # of imports from our package to the author's, which go build puts before an error of an import
    for line in text.splitlines():
        if line.startswith("#") or not line.strip():
            continue
        if _CHAIN.match(line):
            chain = line
            continue
        if chain and _AUTHORS_LINE.match(line.strip()):
            line = line.strip()
        chain = ""
        if (other := _OTHER_PLACE.match(line)) and errors:
            errors[-1] += f": {other[1]} is a name that the engine gives to every action"
        elif line.endswith("too many errors") or line.startswith("\tgo get "):
            continue
        elif line.startswith(("\t", "    ")) and errors:
            errors[-1] += "\n" + _AUTHORS_LINE.sub(f"{FILE}:", line.strip())
        else:
            errors.append(_in_words(_AUTHORS_LINE.sub(f"{FILE}:", line), source))
    return errors


def _in_words(error: str, source: str) -> str:
    """What the compiler says of the line that is ours, which calls Run; and without the toolchain's place."""
    if error.endswith(": undefined: Run"):
        return why_no_run(source)
    if (generic := _GENERIC_RUN.match(error)) is not None:
        return f"{generic[1]}: Run must be func(engine *Engine) or func(engine *Engine) error, without type parameters"
    if (wrong := _WRONG_RUN.match(error)) is not None:
        return f"{wrong[1]}: Run must be func(engine *Engine) or func(engine *Engine) error, not {wrong[2]}"
    error = re.sub(r"(no required module provides package [^\s;:]+).*", r"\1: only the standard library can be used", error)
    return re.sub(r" is not in (?:std|GOROOT) \(.*\)$", " is not in the standard library, and others can't be used", error)


def _fail(channel: Channel, kind: str, message: str) -> int:
    channel.send({"type": "failed", "kind": kind, "message": message, "dropped": 0})
    return 1


def _warm(packages: list[str], output: int, channel: Channel) -> int:
    """Compiles packages of the standard library, and the engine, with the flags of a build."""
    _link_cache()
    _lay_out_module("package actions\n\nfunc Run(engine *Engine) {}\n")
    known = [name for name in packages if (Path(_go).parents[1] / "src" / name).is_dir()]
    done = _toolchain("build", "-trimpath", *known, "./engine", "./plain")
    if done.returncode != 0:
        return _fail(channel, "error", done.stderr.strip()[:480])
    with os.fdopen(os.dup(output), "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
        for path in sorted(_CACHE.glob("??/*")):
            if not path.is_symlink():
                content = path.read_bytes()
                member = tarfile.TarInfo(f"{path.parent.name}/{path.name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    channel.send({"type": "done", "dropped": 0})
    return 0
