"""launcher.toml: what the installed launcher is told by root, and no server can change. It holds no secret.

A server of a tenant's making may ask for anything; the launcher grants no more than this file says.
"""

import os
import shutil
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.entities import Language, Network
from appliance.errors import CannotStart
from appliance.runner.launch.limits import Limits
from appliance.runner.launch.main import Bounds, LaunchOptions
from appliance.sdnotify import FIRST_FD
from appliance.settings_readers import LEVEL, OPENINGS, PATH, PERCENT, SIZE, Kind, choice, whole
from appliance.settings_table import GIB, LAST_UID_BASE, MIB
from engines.table import spec_of

SYSTEM_FILE = Path("/etc/codeactions/launcher.toml")
_PROGRAMS = tuple(spec.program for spec in map(spec_of, Language) if spec.program is not None)
_TOOLCHAIN = Path(
    "/run/codeactions/toolchain"
)  # the unit shows the server's folder there: the folders above it are the server's alone


@dataclass(frozen=True)
class Key:
    kind: Kind
    default: Any
    doc: str


KEYS: Mapping[str, Key] = {
    "max_memory": Key(SIZE, GIB, "The most memory that a run or a build is granted; at least MAX_MEMORY and BUILD_MEMORY."),
    "max_cpu": Key(PERCENT, 200, "The most CPU that it is granted; at least MAX_CPU."),
    "max_tasks": Key(whole(4, 100_000), 512, "The most processes and threads; at least MAX_TASKS."),
    "max_seconds": Key(whole(1, 10_000_000), 3600, "The longest run, with the seconds that a backstop adds."),
    "networks": Key(choice("all", "none"), "all", "none: no run gets a network, whatever its code says."),
    "memory": Key(SIZE, 256 * MIB, "Memory of a parked sandbox: best what most runs have (MEMORY_LIMIT)."),
    "memory_reservation": Key(SIZE, 0, "Memory of a run that is reclaimed last; 0 is unset (MEMORY_RESERVATION)."),
    "cpu": Key(PERCENT, 100, "CPU of a parked sandbox (CPU_QUOTA)."),
    "cpu_weight": Key(whole(0, 10_000), 0, "A run's weight as CPUWeight= of systemd; 0 is unset (CPU_SHARES)."),
    "tasks": Key(whole(4, 100_000), 64, "Processes and threads of a parked sandbox (TASKS_LIMIT)."),
    "network": Key(choice("internet", "none"), "internet", "Network of a parked sandbox (NETWORK)."),
    "keep": Key(whole(1, 64), 4, "Parked sandboxes a language, some megabytes each."),
    "runs": Key(whole(1, 1000), 4, "Runs at once, which reservations are made for (WORKER_POOL_SIZE)."),
    "sandbox_uid_base": Key(whole(65_536, LAST_UID_BASE), 1_900_000_000, "First of the uids that runs get."),
    "node": Key(PATH, None, "The node to use; unset, the one on PATH."),
    "network_allow": Key(OPENINGS, (), "Hosts or ranges that runs may reach beside public addresses (NETWORK_ALLOW)."),
    "toolchain_cache": Key(PATH, _TOOLCHAIN, "What the server's builds have filled: builds read it."),
    "go": Key(PATH, None, "The go to use; unset, the one on PATH."),
    "log_level": Key(LEVEL, "info", "The least level that the launcher logs."),
}


def load(path: Path, host_path: str) -> tuple[LaunchOptions, str]:
    """What the file says, with the defaults, and the level of the log. Raises `CannotStart`. `host_path` is the host's PATH."""
    values = {name: key.default for name, key in KEYS.items()} | _values(path)
    limits = Limits(values["memory"], values["cpu"], values["tasks"], values["memory_reservation"], values["cpu_weight"] or None)
    bounds = Bounds(
        memory_bytes=values["max_memory"],
        cpu_percent=values["max_cpu"],
        tasks=values["max_tasks"],
        deadline_ms=values["max_seconds"] * 1000,
        networks=frozenset(Network if values["networks"] == "all" else {Network.NONE}),
    )
    options = LaunchOptions(
        listens=True,
        fd=FIRST_FD,
        bounds=bounds,
        keep=values["keep"],
        runs=values["runs"],
        limits=limits,
        uid_base=values["sandbox_uid_base"],
        network=Network(values["network"]),
        programs=_programs(values, host_path),
        allow=values["network_allow"],
        toolchain_cache=str(values["toolchain_cache"]) if values["toolchain_cache"].is_dir() else "",
    )
    return options, values["log_level"]


def _programs(values: Mapping[str, Any], host_path: str) -> dict[Language, str]:
    programs = {}
    for language in Language:
        if (name := spec_of(language).program) is not None and (found := values[name] or shutil.which(name, path=host_path)):
            programs[language] = str(found)
    return programs


def _values(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            _refuse_foreign(path, os.fstat(file.fileno()))
            found = tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CannotStart(f"{path} can't be read: {error}") from None
    return {name: _read(path, name, value) for name, value in found.items()}


def _refuse_foreign(path: Path, about: os.stat_result) -> None:
    if os.geteuid() == 0 and (about.st_uid != 0 or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
        raise CannotStart(f"{path} can be written by others than root: `chown root: {path}; chmod 644 {path}`")


def _read(path: Path, name: str, value: object) -> Any:
    if (key := KEYS.get(name)) is None:
        raise CannotStart(f"{path}: {name} is no key of this file; it takes {', '.join(KEYS)}")
    try:
        return key.kind.read(str(value))
    except (ValueError, KeyError):
        raise CannotStart(f"{path}: {name} takes {key.kind.takes}; {value!r} isn't that") from None


_HIDDEN = ("/root/", "/home/", "/tmp/", "/var/tmp/")  # from the launcher's unit


def commented(host_path: str, unit_path: str) -> str:
    """The file that `install` writes: every key with its default, commented out. A program that a person's PATH has and a unit's
    hasn't, such as a Go in /usr/local/go, is named."""
    head = (
        "# What root tells the launcher, the only part that is root. No server can ask it for more than this file grants.\n"
        "# Read when the launcher starts: systemctl restart codeactions-launcher\n"
    )
    found = {name: _elsewhere(name, host_path, unit_path) for name in _PROGRAMS}
    return head + "".join(_line(name, key, found.get(name)) for name, key in KEYS.items())


def _elsewhere(name: str, host_path: str, unit_path: str) -> str | None:
    path = shutil.which(name, path=host_path)
    if path is None or shutil.which(name, path=unit_path) is not None or path.startswith(_HIDDEN):
        return None
    return path


def _line(name: str, key: Key, found: str | None) -> str:
    if found is not None:
        return f'\n# {key.doc}\n{name} = "{found}"\n'
    shown = "/usr/bin/" + name if key.default is None else key.kind.show(key.default)
    value = shown if shown.isdigit() else f'"{shown}"'
    return f"\n# {key.doc}\n#{name} = {value}\n"
