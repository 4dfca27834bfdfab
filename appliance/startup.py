"""What `serve` and `run` do before their event loop and when they are ready: the log, the port, the launcher, giving up root."""

import resource
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from hypercorn.config import Config

from appliance import __version__, admintoken, logsetup, privileges, program, sdnotify
from appliance.builds import existing_toolchain_cache, make_folders
from appliance.degrees import remedies
from appliance.errors import CannotStart
from appliance.options import launcher_arguments
from appliance.runner.launcher import Launcher, reach_launcher, start_launcher
from appliance.settings import Loaded, Settings

log = structlog.get_logger()

_BACKLOG = 1024
_ANSWER_SECONDS = 5.0  # after the drain, for the answers of the runs that it has interrupted


@dataclass(frozen=True)
class Begun:
    """`launcher`: the socket to a launcher, and where the next one is found if it isn't a child of ours; `listener`: the port's,
    None for a program that doesn't serve."""

    launcher: socket.socket
    launcher_path: Path | None
    listener: socket.socket | None

    @property
    def url(self) -> str:
        assert self.listener is not None
        host, port = self.listener.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{shown}:{port}"

    def http_config(self, settings: Settings) -> Config:
        assert self.listener is not None
        config = Config()
        config.bind = [f"fd://{self.listener.detach()}"]
        config.accesslog = None
        config.errorlog = logsetup.standard_logger("hypercorn.error")
        config.errorlog.setLevel("WARNING")  # that it runs is ours to say
        config.include_server_header = False
        config.graceful_timeout = settings.drain_timeout + _ANSWER_SECONDS
        return config


def begin(loaded: Loaded, log_level: str, *, listen: bool, launcher_path: Path | None = None) -> Begun:
    """The order matters: the port may need root, the launcher keeps it, everything after is without. Raises `CannotStart`."""
    settings = loaded.settings
    style = logsetup.style_of(sys.stderr, loaded.host.journal_stream)
    logsetup.configure(log_level, style)
    for warning in loaded.warnings:
        log.warning("setting ignored", reason=warning)
    _raise_descriptor_limit()
    listener = (_inherited(loaded) or _listen(settings.host, settings.port)) if listen else None
    if listen:
        privileges.make_state_dir(settings.state_dir)
    cache = make_folders(settings.state_dir) if listen else existing_toolchain_cache(settings.state_dir)
    launcher = reach_launcher(launcher_path) if launcher_path else _own_launcher(loaded, cache, log_level, style)
    privileges.become_unprivileged(settings.state_dir, program.folders())
    return Begun(launcher, launcher_path, listener)


def _own_launcher(loaded: Loaded, cache: Path | None, log_level: str, style: logsetup.Style) -> socket.socket:
    arguments = launcher_arguments(loaded.settings, loaded.host.path, str(cache or ""), log_level, style.value)
    return start_launcher(program.command("launch", *arguments))


def _raise_descriptor_limit() -> None:
    """As far as we may, for us and our launcher: the usual 1024 are a few connections for each of a hundred clients.

    Also, what an ordinary user's sandboxes do counts as his: 1024 descriptors on their way through a tenant's sockets would
    keep the launcher from sending its own (ETOOMANYREFS, unix(7)).
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _inherited(loaded: Loaded) -> socket.socket | None:
    """The port that systemd holds open for us across restarts; HOST and PORT then only say what was meant."""
    sock = sdnotify.inherited_socket(loaded.host.listen_fds, loaded.host.listen_pid)
    if sock is None:
        return None
    sock.listen(_BACKLOG)
    settings, (host, port) = loaded.settings, sock.getsockname()[:2]
    meant = {info[4][0] for info in _resolved(settings.host)}
    if settings.port not in (0, port) or host not in meant:
        log.warning(
            "systemd listens elsewhere than HOST and PORT say",
            listens=f"{host}:{port}",
            settings=f"{settings.host}:{settings.port}",
            advice="`codeactions install` writes codeactions.socket from HOST and PORT",
        )
    return sock


def _resolved(host: str) -> list[Any]:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return []


def _listen(host: str, port: int) -> socket.socket:
    """`::` takes IPv4 too, where the host lets it."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    dual = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=dual)
    except OSError as error:
        reason = str(error.strerror).partition(" (while")[0]  # Python adds the address, which is said already
        raise CannotStart(f"HOST {host}, PORT {port}: can't listen there: {reason}") from None


def check_isolation(settings: Settings, launcher: Launcher) -> None:
    """Says how strong the cage is, and raises `CannotStart` where the operator asks for more."""
    isolation = launcher.isolation
    if settings.require_isolation == "full" and isolation.missing:
        raise CannotStart(f"REQUIRE_ISOLATION is full, and this host lacks {'; '.join(remedies(isolation))}")
    if launcher.floor:
        log.error("no run can start on this host", reason=launcher.floor)
    missing, absent = ", ".join(isolation.missing), ", ".join(isolation.absent)
    say = log.warning if missing else log.info
    say("isolation", degree=isolation.level, missing=missing, absent=absent, reasons=isolation.reasons or None)


def announce(loaded: Loaded, url: str, token: str) -> None:
    """Ready: to the service manager, to the log, and to a person at a terminal, who alone is shown the token."""
    settings = loaded.settings
    sdnotify.ready(loaded.host.notify_socket, f"ready at {url}")
    token_file = settings.state_dir / admintoken.FILE_NAME
    log.info("ready", url=url, version=__version__, admin_token_file=None if settings.admin_token else str(token_file))
    if settings.auth == "none":
        log.warning("the management API is open to everybody who reaches it", setting="AUTH=none")
    if sys.stderr.isatty():
        kept = "set by ADMIN_TOKEN" if settings.admin_token else f"kept in {token_file}"
        sys.stderr.write(f"\n  Flows Code Actions is ready at {url}\n  admin token: {token} ({kept})\n\n")
        sys.stderr.flush()
