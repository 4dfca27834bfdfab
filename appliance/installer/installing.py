"""The verb `install`, as a list of steps.

THEORY OF OPERATION

`install` makes this host like the lists in `layout`, whatever it is now: first installation, the same again, another version.
Each step compares before it changes, and leaves on a stack how to take it back; what fails unwinds the stack. The link
`current` is what the units start, so an upgrade is one rename and a restart, over which the port's socket stays open.
"""

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

from appliance import launcherfile, logsetup, settings, settings_report
from appliance import program as this_program
from appliance.installer import account, demands, layout, listening, services
from appliance.installer.changes import Changes, StepFailed, remove_empty
from appliance.runner.launch.network import forwarding

_STARTED = (*layout.SOCKETS, layout.SERVICE)  # the launcher is, by its socket


def install(arguments: argparse.Namespace) -> int:
    demands.root()
    logsetup.configure("error", logsetup.style_of(sys.stderr, ""))
    demands.systemd(is_booted=not arguments.no_start)
    wanted = settings.load({}).settings
    demands.address(wanted)
    account.require_own()
    program = layout.program(arguments.prefix)
    changes = Changes(is_dry=arguments.dry_run)
    with changes.or_none():
        was_active = not arguments.no_start and services.is_active(layout.SERVICE)
        if not changes.is_dry and not arguments.no_start:
            changes.undo.callback(services.come_back, was_active)  # the last to be undone: the files are the old ones then
        is_other = _place_program(changes, program)
        _make_user(changes)
        _make_folders(changes, settings.read_host().path)
        is_other |= _write_units(changes, wanted, program)
        _enable(changes)
        if not arguments.no_start:
            _start(changes, wanted, is_other=is_other, was_active=was_active)
        if not changes.count:
            _say("nothing to change: this version is installed already")
        warnings = [] if arguments.no_start else _examine(changes, wanted, program)
    if not changes.is_dry:
        _report(warnings, wanted, is_started=not arguments.no_start)
    return 0


def _place_program(changes: Changes, program: layout.Program) -> bool:
    if program.tree is None:
        changes.write(program.folder / "codeactions", layout.script(), 0o755)
    else:
        if program.tree != program.folder:
            changes.copy_tree(program.tree, program.folder)
        _refuse_changeable(changes, program.folder)
    is_other = changes.link(program.current, program.version)
    changes.link(program.link, str(program.command), aside=program.home / f"{program.version}.file")
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
    if not account.exists():
        advice = "see `journalctl -b`; an account of that name may be needed by hand: useradd --system codeactions"
        changes.run(
            "systemd-sysusers", str(layout.SYSUSERS), advice=advice, undo=account.remove, purpose=f", for the user {layout.USER}"
        )


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
            purpose=f", for {', '.join(map(str, missing))}",
        )
    changes.write_once(layout.ETC / "config.toml", settings_report.commented_toml())
    changes.write_once(layout.ETC / "launcher.toml", launcherfile.commented(host_path, services.UNIT_PATH))


def _remove_made(folders: list[Path]) -> None:
    """What a server and a launcher of minutes have put into folders that are as old goes with them."""
    for folder in {layout.STATE, layout.RUN} & set(folders):
        shutil.rmtree(folder, ignore_errors=True)
    remove_empty(reversed(folders))


def _enable(changes: Changes) -> None:
    if not all(services.is_enabled(unit) for unit in _STARTED):
        changes.run(
            "systemctl", "enable", "--quiet", *_STARTED, advice="see `systemctl status`", undo=lambda: services.disable(_STARTED)
        )


def _start(changes: Changes, wanted: settings.Settings, *, is_other: bool, was_active: bool) -> None:
    advice = partial(services.last_words, changes.began)
    # Before systemd reads the new file, which it then tells the address of.
    is_elsewhere = services.is_active(layout.SOCKETS[0]) and not listening.is_systemd_s(wanted)
    if is_other:
        changes.run("systemctl", "daemon-reload", advice="see `systemctl status`")
    if is_elsewhere:
        # A socket takes another address when it is started, for which the service must stop.
        changes.run("systemctl", "stop", layout.SERVICE, layout.SOCKETS[0], advice="see `systemctl status`")
    if is_elsewhere or not was_active:
        demands.port(wanted)
        undo = partial(_unmake_start, layout.UID_LOCKS.exists())
        changes.run("systemctl", "start", *_STARTED, advice=advice, undo=undo, by=services.failure_of_start)
    elif is_other:
        changes.run("systemctl", "restart", layout.SERVICE, advice=advice, by=services.failure_of_start)


def _examine(changes: Changes, wanted: settings.Settings, program: layout.Program) -> list[str]:
    """Its warnings."""
    changes.say("wait until /health is well and `codeactions doctor` is content")
    if changes.is_dry:
        return []
    if unwell := services.unwell(wanted):
        raise StepFailed(f"it doesn't answer well: {unwell}{services.last_words(changes.began)}")
    return services.told_by_doctor(program)


def _unmake_start(had_locks: bool) -> None:
    services.stop((*_STARTED, *layout.SLICES))
    forwarding.give_back_what_is_left()
    if not had_locks:
        layout.UID_LOCKS.unlink(missing_ok=True)


def _report(warnings: list[str], wanted: settings.Settings, *, is_started: bool) -> None:
    for warning in warnings:
        _say(f"warning: {warning}")
    _say("")
    _say(f"Flows Code Actions {'is ready' if is_started else 'will be'} at http://{layout.listen_address(wanted)}")
    _say(f"  admin token: in {_place_of_token(wanted)}")
    _say(f"  settings:    {layout.ETC / 'config.toml'}, then: systemctl restart codeactions")


def _place_of_token(wanted: settings.Settings) -> Path:
    """By the order that the server looks in."""
    if (credential := layout.CREDENTIALS / "admin_token").exists():
        return credential
    return layout.ETC / "config.toml" if wanted.admin_token else layout.STATE / "admin_token"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
