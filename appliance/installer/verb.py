"""The verbs `install` and `uninstall`, as lists of steps.

THEORY OF OPERATION

`install` makes this host like the lists in `layout`, whatever it is now: first installation, the same again, another version.
Each step compares before it changes, and leaves on a stack how to take it back; what fails unwinds the stack. The link
`current` is what the units start, so an upgrade is one rename and a restart, over which the port's socket stays open.
"""

import argparse
import http.client
import ipaddress
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from appliance import launcherfile, logsetup, settings, settings_report
from appliance import program as this_program
from appliance.doctor.report import Verdict
from appliance.installer import layout
from appliance.installer.changes import Changes, StepFailed, failure_of, remove_empty
from appliance.runner.launch.network import forwarding

_TOOLS = ("systemctl", "systemd-sysusers", "systemd-tmpfiles", "userdel")
_STARTED = (*layout.SOCKETS, layout.SERVICE)  # the launcher is, by its socket
_UNIT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # systemd.exec(5), Environment variables
_HEALTH_SECONDS = 30.0
_DOCTOR_SECONDS = 600.0  # six on a quiet machine, a minute and a half on an emulated one
_LAST_SYSTEM_UID = 999  # login.defs(5), SYS_UID_MAX


def install(arguments: argparse.Namespace) -> int:
    _require_root()
    logsetup.configure("error", logsetup.style_of(sys.stderr, ""))
    _require_systemd(is_booted=not arguments.no_start)
    wanted = settings.load({}).settings
    _require_address(wanted)
    _require_own_user()
    program = layout.program(arguments.prefix)
    changes = Changes(is_dry=arguments.dry_run)
    with changes.undo:
        was_active = not arguments.no_start and _is_active(layout.SERVICE)
        if not changes.is_dry and not arguments.no_start:
            changes.undo.callback(_come_back, was_active)  # the last to be undone: the files are the old ones then
        is_other = _place_program(changes, program)
        _make_user(changes)
        _make_folders(changes, settings.read_host().path)
        is_other |= _write_units(changes, wanted, program)
        _enable(changes)
        if not arguments.no_start:
            _start(changes, wanted, program, is_other=is_other, was_active=was_active)
        changes.undo.pop_all()
    _report(changes, wanted, is_started=not arguments.no_start)
    return 0


def _require_root() -> None:
    if os.geteuid() != 0:
        raise StepFailed("install and uninstall change the host: run them as root")


def _require_systemd(*, is_booted: bool) -> None:
    if is_booted and not Path("/run/systemd/system").is_dir():
        raise StepFailed("systemd doesn't run this host: `codeactions serve` works without, --no-start prepares an image")
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        raise StepFailed(f"{', '.join(missing)} isn't on this host: install the packages systemd and passwd")


def _require_address(wanted: settings.Settings) -> None:
    try:
        ipaddress.ip_address("127.0.0.1" if wanted.host == "localhost" else wanted.host)
    except ValueError:
        raise StepFailed(f"HOST {wanted.host}: systemd listens on addresses, not on names: write the address") from None
    if wanted.port == 0:
        raise StepFailed("PORT 0 is a port that nobody knows: write one into /etc/codeactions/config.toml")


def _require_own_user() -> None:
    if _has_user() and not _is_system_user():
        uid = pwd.getpwnam(layout.USER).pw_uid
        raise StepFailed(
            f"the user {layout.USER} is somebody's (uid {uid}), and the service would have his name: rename him (usermod "
            "--login), and install again"
        )


def _is_system_user() -> bool:
    return pwd.getpwnam(layout.USER).pw_uid <= _LAST_SYSTEM_UID


def _place_program(changes: Changes, program: layout.Program) -> bool:
    if program.tree is None:
        changes.write(program.folder / "codeactions", layout.script(), 0o755)
    else:
        if program.tree != program.folder:
            changes.copy_tree(program.tree, program.folder)
        _refuse_changeable(changes, program.folder)
    is_other = changes.link(program.current, program.version)
    changes.link(program.link, str(program.command))
    return is_other


def _refuse_changeable(changes: Changes, folder: Path) -> None:
    """The launcher wouldn't start from there: an older Debian's /usr/local is its group staff's too."""
    if not changes.is_dry and (changeable := this_program.changeable_by_others(folder)) is not None:
        raise StepFailed(f"others than root can write {changeable}: `chmod go-w {changeable}`, or install with --prefix /opt")


def _write_units(changes: Changes, wanted: settings.Settings, program: layout.Program) -> bool:
    wished = dict(layout.units(wanted, program))
    changed = [changes.write(path, text) for path, text in wished.items()]
    changed += [changes.remove(path) for path in layout.OF_A_CHECKOUT if path not in wished]
    return any(changed)


def _make_user(changes: Changes) -> None:
    changes.write(layout.SYSUSERS, layout.source("sysusers.conf"))
    if not _has_user():
        advice = "see `journalctl -b`; an account of that name may be needed by hand: useradd --system codeactions"
        changes.run("systemd-sysusers", str(layout.SYSUSERS), advice=advice, undo=_remove_user)


def _make_folders(changes: Changes, host_path: str) -> None:
    changes.write(layout.TMPFILES, layout.source("tmpfiles.conf"))
    missing = [folder for folder in (layout.ETC, layout.CREDENTIALS, layout.STATE, layout.RUN) if not folder.exists()]
    if missing:
        changes.run(
            "systemd-tmpfiles",
            "--create",
            str(layout.TMPFILES),
            advice="is the file system full or read-only?",
            undo=lambda: _remove_made(missing),
        )
    changes.write_once(layout.ETC / "config.toml", settings_report.commented_toml())
    changes.write_once(layout.ETC / "launcher.toml", launcherfile.commented(host_path, _UNIT_PATH))


def _remove_made(folders: list[Path]) -> None:
    """What a server and a launcher of minutes have put into folders that are as old goes with them."""
    for folder in {layout.STATE, layout.RUN} & set(folders):
        shutil.rmtree(folder, ignore_errors=True)
    remove_empty(reversed(folders))


def _enable(changes: Changes) -> None:
    if not all(_is_enabled(unit) for unit in _STARTED):
        changes.run("systemctl", "enable", "--quiet", *_STARTED, advice="see `systemctl status`", undo=lambda: _disable(_STARTED))


def _start(changes: Changes, wanted: settings.Settings, program: layout.Program, *, is_other: bool, was_active: bool) -> None:
    if is_other:
        changes.run("systemctl", "daemon-reload", advice="see `systemctl status`")
    if not was_active:
        _require_port(wanted)
        changes.run("systemctl", "start", *_STARTED, advice=_last_words, undo=partial(_unmake_start, layout.UID_LOCKS.exists()))
    elif is_other:
        _take_up_address(changes, wanted)
        changes.run("systemctl", "restart", layout.SERVICE, advice=_last_words)
    if changes.is_dry:
        return
    if unwell := _unwell(wanted):
        raise StepFailed(f"it doesn't answer well: {unwell}; {_last_words()}")
    changes.warnings.extend(_told_by_doctor(program))


def _unmake_start(had_locks: bool) -> None:
    _stop((*_STARTED, *layout.SLICES))
    forwarding.give_back_what_is_left()
    if not had_locks:
        layout.UID_LOCKS.unlink(missing_ok=True)


def _last_words() -> str:
    """The services' own, without systemd's about them."""
    fields = " + ".join(f"_SYSTEMD_UNIT={unit}" for unit in (layout.SERVICE, layout.LAUNCHER)).split()
    command = ["journalctl", "--boot", "--no-pager", "--output=cat", "--lines=1", *fields]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    look = f"see `journalctl -u {layout.SERVICE} -u {layout.LAUNCHER}`"
    return f"it said last: {said}; {look}" if said else look


def _take_up_address(changes: Changes, wanted: settings.Settings) -> None:
    """A socket that listens elsewhere takes its new address when it is restarted, for which the service must stop."""
    shown = subprocess.run(
        ["systemctl", "show", "--property=Listen", "--value", layout.SOCKETS[0]], capture_output=True, text=True, check=False
    )
    if layout.listen_address(wanted) not in shown.stdout:
        changes.run("systemctl", "stop", layout.SERVICE, layout.SOCKETS[0], advice="see `systemctl status`")
        changes.run("systemctl", "start", layout.SOCKETS[0], advice="is the port free? `ss -ltnp` tells")


def _require_port(wanted: settings.Settings) -> None:
    if _is_active(layout.SOCKETS[0]):
        return
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    try:
        socket.create_server((wanted.host, wanted.port), family=family).close()
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]
        raise StepFailed(
            f"HOST {wanted.host}, PORT {wanted.port}: can't listen there: {reason}; write another into "
            f"{layout.ETC / 'config.toml'} (`port = 9000`), and install again"
        ) from None


def _unwell(wanted: settings.Settings) -> str:
    """What its /health says; "" when it is well."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(wanted.host, wanted.host)
    connection = http.client.HTTPConnection(host, wanted.port, timeout=_HEALTH_SECONDS)
    try:
        connection.request("GET", "/health")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        return "" if answer.status == 200 else f"/health says {answer.status}: {text}"
    except (OSError, http.client.HTTPException) as error:
        return f"/health can't be had: {error}"
    finally:
        connection.close()


def _told_by_doctor(program: layout.Program) -> list[str]:
    """What this host lacks, which REQUIRE_ISOLATION permits. Raises `StepFailed` for anything else that isn't right."""
    try:
        done = subprocess.run(
            [program.command, "doctor", "--json"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOCTOR_SECONDS,
            check=False,
            env={"PATH": _UNIT_PATH, "LANG": "C.UTF-8"},
        )
        report = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise StepFailed("`codeactions doctor` didn't come to its end: run it by itself") from None
    failed = [one for one in (*report["host"], *report["checks"]) if one["verdict"] == Verdict.FAILED and not one["because"]]
    if failed or report["floor"]:
        first = failed[0] if failed else {"name": "no run can start", "happened": report["floor"], "remedy": ""}
        to_do = first["remedy"] or "`codeactions doctor` tells more"
        raise StepFailed(f"`codeactions doctor` isn't content: {first['name']}: {first['happened']}; to do: {to_do}")
    return [f"no {lack['name']}: {lack['then']}; to do: {lack['remedy']}" for lack in report["lacks"] if lack["counts"]]


def _report(changes: Changes, wanted: settings.Settings, *, is_started: bool) -> None:
    if not changes.told:
        _say("nothing to change: this version is installed already")
    for line in changes.told:
        _say(f"would {line}" if changes.is_dry else line)
    if changes.is_dry:
        return
    for warning in changes.warnings:
        _say(f"warning: {warning}")
    url = f"http://{layout.listen_address(wanted)}"
    kept = f"{layout.STATE / 'admin_token'}, or what ADMIN_TOKEN or {layout.CREDENTIALS / 'admin_token'} says"
    _say("")
    _say(f"Flows Code Actions {'is ready' if is_started else 'will be'} at {url}")
    _say(f"  admin token: in {kept}")
    _say(f"  settings:    {layout.ETC / 'config.toml'}, then: systemctl restart codeactions")


def uninstall(arguments: argparse.Namespace) -> int:
    """Goes on where something is missing: half an installation can be taken away too."""
    _require_root()
    logsetup.configure("error", logsetup.style_of(sys.stderr, ""))
    program = layout.program(arguments.prefix)
    units = (layout.SERVICE, layout.LAUNCHER, *layout.SOCKETS, *layout.SLICES)
    if Path("/run/systemd/system").is_dir():
        _stop(units)
        _disable(units)
    forwarding.give_back_what_is_left()
    found = _remove(_own_paths(program))
    remove_empty([program.home.parent, layout.SYSUSERS.parent])
    if arguments.purge:
        found += _remove([layout.ETC, layout.STATE])
        if _has_user() and _is_system_user() and (reason := _remove_user()):
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


def _come_back(was_active: bool) -> None:
    failure_of("systemctl", "daemon-reload")
    if was_active:
        failure_of("systemctl", "restart", layout.SERVICE)


def _stop(units: Iterable[str]) -> None:
    failure_of("systemctl", "stop", *units, layout.LAUNCHER)
    failure_of("systemctl", "reset-failed", *units, layout.LAUNCHER)


def _disable(units: Iterable[str]) -> None:
    failure_of("systemctl", "disable", "--quiet", *units)


def _is_active(unit: str) -> bool:
    return not failure_of("systemctl", "is-active", "--quiet", unit)


def _is_enabled(unit: str) -> bool:
    return not failure_of("systemctl", "is-enabled", "--quiet", unit)


def _has_user() -> bool:
    try:
        pwd.getpwnam(layout.USER)
    except KeyError:
        return False
    return True


def _remove_user() -> str:
    return failure_of("userdel", layout.USER)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
