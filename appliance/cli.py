"""The program's verbs. Each is imported when it is asked for: `version` must be quick, and `launch` small."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from appliance import __version__

if TYPE_CHECKING:
    from appliance.settings import Loaded

OK, FAILED, USAGE = 0, 1, 2

DESCRIPTION = "Small actions, called over HTTP, each call in a cage of its own."
EPILOG = (
    "Settings come from the environment and a TOML file; `codeactions settings` shows them. Status 2: wrong usage or settings."
)


@dataclass(frozen=True)
class Verb:
    summary: str
    run: Callable[[argparse.Namespace], int]
    arguments: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    description: str = ""
    is_internal: bool = False


def load_settings() -> "Loaded":
    """The settings, with their warnings said; for verbs that only read. `serve` logs the warnings instead."""
    from appliance import settings

    loaded = settings.load()
    for warning in loaded.warnings:
        complain(f"warning: {warning}")
    return loaded


def serve(arguments: argparse.Namespace) -> int:
    from appliance import serve, settings

    return serve.main(settings.load(), arguments.launcher)


def serve_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--launcher", type=Path, metavar="SOCKET", help="the installed launcher's; without it the program starts its own"
    )


def run(arguments: argparse.Namespace) -> int:
    from appliance import runfile

    return runfile.main(arguments, load_settings())


def run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the action's source; the suffix says the language")
    parser.add_argument("-p", "--param", metavar="K=V", action="append", default=[], help="a query parameter; may be repeated")
    parser.add_argument("-H", "--header", metavar="K:V", action="append", default=[], help="a request header; may be repeated")
    parser.add_argument(
        "-d", "--data", metavar="BODY", default="", help="the request's body; @FILE reads it from a file, @- from stdin"
    )
    parser.add_argument("-X", "--method", metavar="METHOD", default="", help="the request's method (GET, or POST with -d)")


def doctor(arguments: argparse.Namespace) -> int:
    from appliance.doctor import verb

    return verb.main(arguments, load_settings())


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON, for a machine")


def launch(arguments: argparse.Namespace) -> int:
    from appliance import logsetup, program
    from appliance.entities import Language, Network
    from appliance.runner.launch.limits import Limits
    from appliance.runner.launch.main import Bounds, LaunchOptions, main

    program.refuse_foreign_tree()
    if arguments.config is not None:
        return _launch_installed(arguments.config)
    logsetup.configure(arguments.log_level, logsetup.Style(arguments.log_style))
    limits = Limits(
        memory_bytes=arguments.memory,
        cpu_percent=arguments.cpu,
        tasks=arguments.tasks,
        memory_reservation=arguments.memory_reservation,
        cpu_weight=arguments.cpu_weight,
    )
    programs = {Language(name): path for name, _, path in (text.partition("=") for text in arguments.program)}
    options = LaunchOptions(
        listens=False,
        fd=arguments.fd,
        bounds=Bounds(),
        keep=arguments.keep,
        runs=arguments.runs,
        limits=limits,
        uid_base=arguments.uid_base,
        network=Network(arguments.network),
        programs=programs,
        allow=arguments.network_allow,
        toolchain_cache=arguments.toolchain_cache,
    )
    return main(options)


def _launch_installed(config: Path) -> int:
    import socket

    from appliance import launcherfile, logsetup, sdnotify, settings
    from appliance.errors import CannotStart
    from appliance.runner.launch.main import main

    host = settings.read_host()
    options, level = launcherfile.load(config, host.path)
    logsetup.configure(level, logsetup.style_of(sys.stderr, host.journal_stream))
    listener = sdnotify.inherited_socket(host.listen_fds, host.listen_pid)
    if listener is None or listener.type != socket.SOCK_SEQPACKET:
        raise CannotStart("launch --config is started by codeactions-launcher.socket, which passes its socket")
    listener.detach()
    return main(options)


def launch_arguments(parser: argparse.ArgumentParser) -> None:
    """The launcher reads no settings, since they hold secrets: `serve` says everything, or, installed, root's own file does."""
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--config", type=Path, metavar="FILE", help="root's file: installed, with a socket from systemd")
    how.add_argument("--fd", type=int, help="the socket to the server, inherited")
    parser.add_argument("--keep", type=int, help="parked sandboxes a language")
    parser.add_argument("--runs", type=int, help="runs at once")
    parser.add_argument("--memory", type=int, help="a parked sandbox's limit of memory, in bytes")
    parser.add_argument("--memory-reservation", type=int, help="its reservation, in bytes; 0 is none")
    parser.add_argument("--cpu", type=int, help="its limit of CPU, in percent of one processor")
    parser.add_argument("--cpu-weight", type=int, help="its weight among others, 1 to 10000")
    parser.add_argument("--tasks", type=int, help="its limit of processes and threads")
    parser.add_argument("--uid-base", type=int, help="first of the sandboxes' uids")
    parser.add_argument("--network", choices=("internet", "none"), default="internet", help="network of a parked sandbox")
    parser.add_argument("--toolchain-cache", default="", help="a folder that builds may read")
    parser.add_argument(
        "--network-allow", action="append", default=[], metavar="WHERE[:PORT]", help="what is opened; may be repeated"
    )
    parser.add_argument(
        "--program", action="append", default=[], metavar="LANGUAGE=PATH", help="what a language needs of the host"
    )
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-style", default="json")


def dns(arguments: argparse.Namespace) -> int:
    from appliance import logsetup
    from appliance.dns.main import DnsOptions, main

    logsetup.configure(arguments.log_level, logsetup.Style(arguments.log_style))
    return main(DnsOptions(arguments.udp, arguments.tcp, arguments.uid, arguments.name))


def dns_arguments(parser: argparse.ArgumentParser) -> None:
    """It is started by the launcher, which has bound the sockets."""
    parser.add_argument("--udp", type=int, required=True, help="the bound datagram socket, inherited")
    parser.add_argument("--tcp", type=int, required=True, help="the listening socket, inherited")
    parser.add_argument("--uid", type=int, required=True, help="whom it becomes")
    parser.add_argument("--name", action="append", default=[], help="a name whose addresses it tells; may be repeated")
    parser.add_argument("--log-level", default="info")
    parser.add_argument("--log-style", default="json")


def install(arguments: argparse.Namespace) -> int:
    from appliance.installer import installing

    return installing.install(arguments)


def install_arguments(parser: argparse.ArgumentParser) -> None:
    _prefix_argument(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--no-start", action="store_true", help="only files, user and folders: for an image that boots later")


def uninstall(arguments: argparse.Namespace) -> int:
    from appliance.installer import uninstalling

    return uninstalling.uninstall(arguments)


def uninstall_arguments(parser: argparse.ArgumentParser) -> None:
    _prefix_argument(parser)
    parser.add_argument("--purge", action="store_true", help="data, settings, secrets and the user too")


def _prefix_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prefix", type=Path, default=Path("/usr/local"), metavar="FOLDER", help="where the program goes (default: /usr/local)"
    )


def show_settings(arguments: argparse.Namespace) -> int:
    from appliance import settings_report

    sys.stdout.write(settings_report.markdown() if arguments.format == "markdown" else settings_report.text(load_settings()))
    return OK


def settings_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--format",
        choices=("text", "markdown"),
        default="text",
        help="text: what is in force (default); markdown: the reference of all",
    )


def token(_: argparse.Namespace) -> int:
    from appliance import admintoken

    settings = load_settings().settings
    return admintoken.show(settings.state_dir, settings.admin_token)


def selftest(_: argparse.Namespace) -> int:
    from appliance import selftest

    return selftest.main(load_settings())


def version(_: argparse.Namespace) -> int:
    sys.stdout.write(f"codeactions {__version__}\n")
    return OK


VERBS = {
    "serve": Verb(
        "start the appliance",
        serve,
        serve_arguments,
        description="Starts the appliance: API, runner and daily cleaning. SIGTERM lets the running calls end, and stops it.",
    ),
    "run": Verb(
        "run a local file as a call would",
        run,
        run_arguments,
        "Runs an action's source exactly as a call would, without a server: its logs go to stderr, its result to stdout. "
        "Exit status 0 when the action completed, 1 when it failed.",
    ),
    "doctor": Verb(
        "try the cage on this host",
        doctor,
        doctor_arguments,
        "Tries, in sandboxes made as for any call, what a run must not be able to do, and says what this host lacks and what to "
        "do about it. It needs no server, and may run beside one. Exit status 0 when nothing got through, else 1.",
    ),
    "settings": Verb(
        "print every setting and where it comes from",
        show_settings,
        settings_arguments,
        "Prints every setting, its value and where it comes from; secrets are masked. Creates and changes nothing.",
    ),
    "token": Verb(
        "print the admin token",
        token,
        description="Prints the admin token, to a terminal only; elsewhere it says in which file the token is.",
    ),
    "selftest": Verb(
        "check that this installation is whole",
        selftest,
        description="Imports every module, looks for the engines' files, and runs an action in each language that this host has. "
        "Exit status 0 when all is well; a language that the host lacks is said, and is no failure.",
    ),
    "install": Verb(
        "make it a service of this host's systemd (root)",
        install,
        install_arguments,
        "Installs this version: program, user, folders, settings, units; starts it and waits until it is ready. Again, it "
        "changes nothing; another version's install is the upgrade. A step that fails is taken back with all before it.",
    ),
    "uninstall": Verb(
        "take it off this host (root)",
        uninstall,
        uninstall_arguments,
        "Stops the services and removes what install made, except data, settings and the user.",
    ),
    "version": Verb("print the version", version),
    "launch": Verb("start sandboxes for `serve` (internal)", launch, launch_arguments, is_internal=True),
    "dns": Verb("answer runs' questions for names (internal)", dns, dns_arguments, is_internal=True),
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="codeactions", description=DESCRIPTION, epilog=EPILOG)
    top.add_argument("--version", action="version", version=f"codeactions {__version__}")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, verb in VERBS.items():
        description = verb.description or verb.summary.capitalize() + "."
        # Only a verb with a help text is listed.
        verb.arguments(
            verbs.add_parser(name, description=description)
            if verb.is_internal
            else verbs.add_parser(name, description=description, help=verb.summary)
        )
    return top


def main(argv: list[str] | None = None) -> int:
    """The exit status; wrong usage leaves through argparse with 2. A start that can't be is one line, all else a traceback."""
    given = sys.argv[1:] if argv is None else argv
    if not given:
        parser().print_help(sys.stderr)
        return USAGE
    arguments = parser().parse_args(given)
    try:
        return VERBS[arguments.verb].run(arguments)
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # a defect is raised again
        status = known_failure(error)
        if status is None:
            raise
        complain(str(sole(error)))
        return status


def complain(sentence: str) -> None:
    sys.stderr.write(f"codeactions: {sentence}\n")


def sole(error: BaseException) -> BaseException:
    """The error inside the groups that nurseries wrap around it, if it is the only one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def known_failure(error: Exception) -> int | None:
    """The exit status of an error whose sentence tells the operator all; None for a defect."""
    from appliance.errors import CannotStart
    from appliance.settings import SettingsError

    match sole(error):
        case SettingsError():
            return USAGE
        case CannotStart():
            return FAILED
    return None
