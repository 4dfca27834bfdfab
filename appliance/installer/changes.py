"""Changes of the host, each of which knows how to be undone; a dry run only tells them."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from appliance import program as this_program
from appliance.errors import CannotStart


class StepFailed(CannotStart):
    """What couldn't be done, why, and what to do; the host is as it was."""


class Changes:
    """Each is said before it is made. `count` is how many there were, `began` the Unix time before the first; `undo` brings back
    what was there, in the opposite order."""

    def __init__(self, *, is_dry: bool) -> None:
        self.is_dry = is_dry
        self.began = time.time()
        self.count = 0
        self.undo = ExitStack()

    @contextmanager
    def or_none(self) -> Iterator[None]:
        """Those that are made inside are taken back when it fails."""
        try:
            with self.undo:
                yield
                self.undo.pop_all()
        except StepFailed as failed:
            then = "\n  what was done before is taken back" if self.count and not self.is_dry else ""
            raise StepFailed(f"{failed}{then}") from None

    def tell(self, line: str) -> None:
        self.count += 1
        self.say(line)

    def say(self, line: str) -> None:
        """At once: what follows may take minutes."""
        sys.stdout.write(f"{'would ' if self.is_dry else ''}{line}\n")
        sys.stdout.flush()

    def write(self, path: Path, text: str, mode: int = 0o644) -> bool:
        """Whether it wasn't there with this text and mode. Never half a file: it is renamed into its place."""
        before = _content(path)
        if before == (text, mode):
            return False
        self.tell(f"{'write' if before is None else 'replace'} {path}")
        if not self.is_dry:
            self._make_parents(path)
            self.undo.callback(_restore, path, before)
            try:
                _replace(path, text, mode)
            except OSError as error:
                raise StepFailed(f"{path} can't be written: {error.strerror}; is its file system full or read-only?") from None
        return True

    def write_once(self, path: Path, text: str, mode: int = 0o644) -> None:
        """Of a person's from then on."""
        if not path.exists():
            self.write(path, text, mode)

    def remove(self, path: Path) -> bool:
        """Whether it was there."""
        before = _content(path)
        if before is None:
            return False
        self.tell(f"remove {path}")
        if not self.is_dry:
            self.undo.callback(_restore, path, before)
            path.unlink()
        return True

    def link(self, path: Path, target: str, aside: Path | None = None) -> bool:
        """Whether it wasn't one to there. `aside` is where the program's own file goes, which a person may have copied there."""
        before = os.readlink(path) if path.is_symlink() else None
        if before == target:
            return False
        if aside is not None and this_program.is_the_one_file(path):
            self._move(path, aside)
        elif before is None and path.exists():
            raise StepFailed(f"{path} is there and isn't a link of ours: move it away, and install again")
        self.tell(f"link {path} to {target}")
        if not self.is_dry:
            self._make_parents(path)
            self.undo.callback(_relink, path, before)
            try:
                _relink(path, target)
            except OSError as error:
                raise StepFailed(f"{path} can't be linked: {error.strerror}; is its file system full or read-only?") from None
        return True

    def _move(self, path: Path, target: Path) -> None:
        self.tell(f"move {path} to {target}")
        if self.is_dry:
            return
        self._make_parents(target)
        try:
            shutil.move(path, target)
        except OSError as error:
            raise StepFailed(f"{path} can't be moved: {error.strerror}; is its file system full or read-only?") from None
        self.undo.callback(shutil.move, target, path)

    def _make_parents(self, path: Path) -> None:
        for folder in reversed([folder for folder in path.parents if not folder.exists()]):
            try:
                folder.mkdir(mode=0o755)
            except OSError as error:
                raise StepFailed(f"{folder} can't be made: {error.strerror}; is its file system full or read-only?") from None
            self.undo.callback(remove_empty, [folder])

    def copy_tree(self, source: Path, target: Path) -> None:
        if target.exists():
            return
        self.tell(f"copy {source} to {target}")
        if not self.is_dry:
            self._make_parents(target)
            self.undo.callback(shutil.rmtree, target, ignore_errors=True)
            try:
                shutil.copytree(source, target, symlinks=True)
            except OSError as error:
                raise StepFailed(f"{target} can't be made: {_first_reason(error)}; is its file system full?") from None

    def run(
        self,
        *command: str,
        advice: str | Callable[[], str],
        undo: Callable[[], object] | None = None,
        by: Callable[..., str] | None = None,
        purpose: str = "",
    ) -> None:
        """`purpose` follows the command where it is told; `advice`: what to do when it fails,
        or who tells it then; `by`: instead of `failure_of`."""
        self.tell(f"run {' '.join(command)}{purpose}")
        if self.is_dry:
            return
        if undo is not None:
            self.undo.callback(undo)
        if reason := (by or failure_of)(*command):
            then = f"; {advice}" if isinstance(advice, str) else advice()
            raise StepFailed(f"`{' '.join(command)}` failed: {reason}{then}")


def _first_reason(error: OSError) -> str:
    """shutil.copytree goes on, and tells of each file that it couldn't copy."""
    if isinstance(error, shutil.Error):
        return str(error.args[0][0][-1]).partition("] ")[2].partition(":")[0]  # "[Errno 28] No space left on device: 'PATH'"
    return str(error.strerror)


def failure_of(*command: str) -> str:
    """Runs it: why it failed, "" when it didn't."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{command[0]}: {error.strerror}"
    words = " ".join((done.stderr or done.stdout).split())
    return "" if done.returncode == 0 else words or f"exit status {done.returncode}"


def remove_empty(folders: Iterable[Path]) -> None:
    """Those that are empty; what a person has put into one stays, and the folder with it."""
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _content(path: Path) -> tuple[str, int] | None:
    try:
        return path.read_text("utf-8"), path.stat().st_mode & 0o7777
    except FileNotFoundError:
        return None


def _replace(path: Path, text: str, mode: int) -> None:
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)


def _restore(path: Path, before: tuple[str, int] | None) -> None:
    if before is None:
        path.unlink(missing_ok=True)
    else:
        _replace(path, *before)


def _relink(path: Path, target: str | None) -> None:
    """Never without one in between; None is no link."""
    if target is None:
        path.unlink(missing_ok=True)
        return
    fresh = path.with_name(f".{path.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    fresh.replace(path)
