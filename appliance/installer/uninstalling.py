"""The verb `uninstall`."""

import argparse
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from appliance import logsetup
from appliance.installer import account, demands, layout, services
from appliance.installer.changes import StepFailed, failure_of, remove_empty
from appliance.runner.launch.network import forwarding


def uninstall(arguments: argparse.Namespace) -> int:
    """Goes on where something is missing: half an installation can be taken away too."""
    demands.root()
    logsetup.configure("error", logsetup.style_of(sys.stderr, ""))
    program = layout.program(arguments.prefix)
    units = (layout.SERVICE, layout.LAUNCHER, *layout.SOCKETS, *layout.SLICES)
    if Path("/run/systemd/system").is_dir():
        services.stop(units)
        services.disable(units)
    forwarding.give_back_what_is_left()
    found = _remove(_own_paths(program))
    remove_empty([program.home.parent, layout.SYSUSERS.parent])
    if arguments.purge:
        found += _remove([layout.ETC, layout.STATE])
        if account.exists() and account.is_of_system() and (reason := account.remove()):
            raise StepFailed(f"the user {layout.USER} can't be removed: {reason}; end its processes and uninstall again")
    if Path("/run/systemd/system").is_dir():
        failure_of("systemctl", "daemon-reload")
        failure_of("systemctl", "reset-failed", *units)
    for path in found:
        _say(f"removed {path}")
    if not found:
        _say("nothing to remove")
    elif not arguments.purge:
        _say(f"kept {layout.ETC}, {layout.STATE} and the user {layout.USER}; --purge removes them too")
    return 0


def _own_paths(program: layout.Program) -> list[Path]:
    names = (layout.SERVICE, layout.LAUNCHER, *layout.SOCKETS, layout.SLICES[0])
    units = [layout.UNITS / name for name in names]
    drop_ins = [layout.UNITS / f"{name}.d" for name in (layout.SERVICE, layout.LAUNCHER)]
    link = [program.link] if program.link.is_symlink() and os.readlink(program.link) == str(program.command) else []
    return [
        *units,
        *drop_ins,
        layout.SYSUSERS,
        layout.TMPFILES,
        *link,
        program.home,
        layout.RUN,
        layout.UID_LOCKS,
        layout.UNPACKED,
    ]


def _remove(paths: Iterable[Path]) -> list[Path]:
    """Those that were there; one of them may lie in another."""
    found = []
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or path.exists():
            path.unlink()
        else:
            continue
        found.append(path)
    return found


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
