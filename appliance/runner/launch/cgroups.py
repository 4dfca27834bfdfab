"""Where this host's cgroups are, and what the kernel says in them: limits that are in force, and what was used.

A controller belongs to one hierarchy, of version 1 or 2; systemd's hybrid mode has the controllers on version 1 and an empty
version 2 beside them, which is named "" here, as in /proc/<pid>/cgroup. cgroups(7).
"""

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from appliance.runner.launch import kernelfiles

UNIFIED = ""
_SYSTEMD = "name=systemd"
CONTROLLERS = ("memory", "pids", "cpu")
PERIOD_US = 100_000  # systemd's own, which a quota is a part of


class Mount(NamedTuple):
    """`root` is the cgroup that is seen at `point`."""

    root: str
    point: Path


class Hierarchies(NamedTuple):
    """Mounts by controller."""

    mounts: Mapping[str, Mount]

    def is_v1(self, controller: str) -> bool:
        return controller in self.mounts

    def required(self) -> list[str]:
        """The names under which a process must be in its scope."""
        return [name for name in (_SYSTEMD, *CONTROLLERS, UNIFIED) if name in self.mounts]

    def folders(self, paths: Mapping[str, str]) -> "Folders":
        """Where the files are of the cgroups that a process with these `paths` is in."""
        memory, pids, cpu = (self._folder(name if self.is_v1(name) else UNIFIED, paths) for name in CONTROLLERS)
        return Folders(memory, pids, cpu, self._folder(UNIFIED, paths) if UNIFIED in self.mounts else None)

    def _folder(self, name: str, paths: Mapping[str, str]) -> Path:
        root, point = self.mounts[name]
        return Path(f"{point}/{paths[name].removeprefix('' if root == '/' else root).lstrip('/')}")


class Folders(NamedTuple):
    """The cgroup of one scope, in each controller's hierarchy; `unified` None where the host has no version 2."""

    memory: Path
    pids: Path
    cpu: Path
    unified: Path | None

    def of(self, controller: str) -> Path:
        folder: Path = getattr(self, controller)
        return folder


def hierarchies(mountinfo: str | None = None) -> Hierarchies:
    """From /proc/self/mountinfo, unless given."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    mounts: dict[str, Mount] = {}
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        _, _, _, root, point, *_ = before.split(" ")
        kind, _, options = after.split(" ", 2)
        names = [UNIFIED] if kind == "cgroup2" else options.split(",") if kind == "cgroup" else []
        for name in names:
            if name in (UNIFIED, _SYSTEMD, *CONTROLLERS):
                mounts.setdefault(name, Mount(root, Path(point)))
    return Hierarchies(mounts)


def controls_v2() -> bool:
    """Whether version 2 has the controllers."""
    mounts = hierarchies().mounts
    return UNIFIED in mounts and not any(name in mounts for name in CONTROLLERS)


def paths_of(pid: int) -> dict[str, str]:
    """Controller → cgroup of a process; FileNotFoundError or ProcessLookupError when there is none."""
    return parse_paths(kernelfiles.read(f"/proc/{pid}/cgroup"))


def parse_paths(text: str) -> dict[str, str]:
    paths = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            paths[name] = path
    return paths


class Limit(NamedTuple):
    """A file of a controller, and what it holds when the limit is in force."""

    controller: str
    file: str
    value: str


class Counters(NamedTuple):
    """What a scope has used so far. A figure that the host can't tell is None."""

    cpu_us: int | None
    memory_peak_bytes: int | None
    tasks_peak: int | None
    oom_kills: int | None


NO_COUNTERS = Counters(None, None, None, None)


def read_counters(folders: Folders) -> Counters:
    """Whatever is there: of a scope that has gone, nothing is. First what the outcome depends on, since it may go meanwhile."""
    kills = _field(f"{folders.memory}/memory.events", "oom_kill")
    if kills is None:
        kills = _field(f"{folders.memory}/memory.oom_control", "oom_kill")
    memory = _number(f"{folders.memory}/memory.peak", f"{folders.memory}/memory.max_usage_in_bytes")
    return Counters(cpu_us(folders), memory, _number(f"{folders.pids}/pids.peak"), kills)


def cpu_us(folders: Folders) -> int | None:
    """From version 2 only: on version 1 `cpuacct` is no hierarchy that systemd puts a scope into."""
    return _field(f"{folders.unified}/cpu.stat", "usage_usec") if folders.unified else None


def pids_of(folder: Path) -> tuple[int, ...]:
    """The processes in a cgroup; none in one that has gone."""
    return tuple(map(int, (read(folder / "cgroup.procs") or "").split()))


def read(path: Path | str) -> str | None:
    """A file's one line; None when it isn't there, or its cgroup has gone."""
    try:
        return kernelfiles.read(path).strip()
    except OSError:  # ENOENT, or ENODEV of a cgroup that goes while we read
        return None


def _number(*paths: str) -> int | None:
    return next((int(text) for path in paths if (text := read(path)) is not None and text.isdigit()), None)


def _field(path: str, name: str) -> int | None:
    """Of a file with a name and a number a line."""
    for line in (read(path) or "").splitlines():
        found, _, value = line.partition(" ")
        if found == name and value.isdigit():
            return int(value)
    return None


def whole_pages(size: int) -> int:
    """A limit as the kernel keeps it: rounded down to pages."""
    return size // mmap.PAGESIZE * mmap.PAGESIZE
