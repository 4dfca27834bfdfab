"""Settings, read once at the start from the environment, systemd's credentials and a TOML file, in that order.

The only module that reads the environment. What can't be read ends the start with one line that names the variable; nothing falls
back to a default in silence. Reading creates nothing.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

from appliance.entities import Network
from appliance.settings_table import LAST_UID_BASE, MIB, MONGO, OIDC, POSTGRES, PREFIX, S3, Settings, Var

__all__ = ["LAST_UID_BASE", "DefaultLimits", "Host", "Loaded", "Settings", "SettingsError", "default_limits", "load"]

SYSTEM_CONFIG = Path("/etc/codeactions/config.toml")
DEFAULT = "default"
# The contract's limits of a run where nothing is configured.
RUN_MEMORY = 256 * MIB
RUN_CPU_PERCENT = 100
# One share of CPU, in the units of the old setting and of systemd's CPUWeight.
ONE_SHARE, ONE_WEIGHT = 1024, 100
MOST_WEIGHT = 10_000

Table = Mapping[str, tuple[Field[Any], Var]]


class SettingsError(ValueError):
    """One line for the operator: the variable, what is wrong, what it takes."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(f"{name}: {problem}")


@dataclass(frozen=True)
class Host:
    """What the service manager and the host put into the environment; "" where they didn't."""

    path: str = ""
    notify_socket: str = ""
    journal_stream: str = ""
    listen_fds: str = ""
    listen_pid: str = ""


@dataclass(frozen=True)
class Loaded:
    """`sources` says of each setting where its value is from: environment, credential, the file's path, default or derived."""

    settings: Settings
    sources: Mapping[str, str]
    warnings: tuple[str, ...]
    host: Host


@dataclass(frozen=True)
class DefaultLimits:
    """What a run may use where its code says nothing. `cpu_weight` is systemd's, 1 to 10000; a reservation of 0 is unset."""

    memory_bytes: int
    cpu_percent: int
    tasks: int
    network: Network
    cpu_weight: int | None
    memory_reservation: int


@dataclass(frozen=True)
class _Given:
    """One value as it was found: its text, the name under which an error speaks of it, and where it is from."""

    text: str
    name: str
    source: str


def variables() -> Iterator[tuple[Field[Any], Var]]:
    hints = get_type_hints(Settings, include_extras=True)
    for item in fields(Settings):
        yield item, hints[item.name].__metadata__[0]


def default_of(item: Field[Any]) -> Any:
    return item.default if item.default_factory is MISSING else item.default_factory()


def load(environ: Mapping[str, str] | None = None, system_config: Path = SYSTEM_CONFIG) -> Loaded:
    """Reads and checks everything; `environ` is the process's unless given. Raises `SettingsError`."""
    environ = os.environ if environ is None else environ
    table = dict(_by_name())
    in_file = _file_values(environ, system_config, table)
    values: dict[str, Any] = {}
    sources = {}
    for key, (item, var) in table.items():
        given = _from_environment(key, var, environ) or _from_credentials(key, environ) or in_file.get(key)
        values[key] = default_of(item) if given is None else _read(var, given)
        sources[key] = DEFAULT if given is None else given.source
    _derive(values, sources)
    settings = Settings(**values)
    _refuse_open_with_openid(settings)
    _refuse_unbuilt(settings, sources)  # before the rules: what such a part wants besides is of no use to anyone yet
    validate(settings, sources)
    return Loaded(settings, sources, tuple(_warnings(environ, table)), _host(environ))


def _by_name() -> Iterator[tuple[str, tuple[Field[Any], Var]]]:
    for item, var in variables():
        yield item.name, (item, var)


def variable_of(key: str) -> str:
    return PREFIX + key.upper()


def _read(var: Var, given: _Given) -> Any:
    try:
        return var.kind.read(given.text)
    except (ValueError, KeyError):
        shown = "what is set" if var.secret else repr(given.text)
        raise SettingsError(given.name, f"takes {var.kind.takes}; {shown} isn't that") from None


# Where values come from


def _from_environment(key: str, var: Var, environ: Mapping[str, str]) -> _Given | None:
    for name in (variable_of(key), *var.aliases):
        text = environ.get(name, "").strip()
        if text:
            return _Given(text, name, "environment" if name == variable_of(key) else f"environment, {name}")
    return None


def _from_credentials(key: str, environ: Mapping[str, str]) -> _Given | None:
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        return None
    path = Path(folder) / key
    try:
        text = path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(variable_of(key), f"the credential {path} can't be read: {_reason(error)}") from None
    return _Given(text, f"{variable_of(key)} (credential {path})", "credential") if text else None


def _file_values(environ: Mapping[str, str], system_config: Path, table: Table) -> dict[str, _Given]:
    """The file's values by their setting's name; keys lie at the top level or in the table that is named like their group."""
    named = environ.get(variable_of("config"), "").strip()
    path = Path(named) if named else system_config
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if named:
            raise SettingsError(variable_of("config"), f"there is no file {path}") from None
        return {}
    except (OSError, ValueError) as error:
        raise SettingsError(variable_of("config"), f"{path} can't be read: {_reason(error)}") from None
    groups = {var.group for _, var in table.values()}
    found: dict[str, _Given] = {}
    for group, key, value in _entries(document, groups):
        _check_place(path, group, key, table, groups)
        if key in found:
            raise SettingsError(f"{path}: {key}", "is given twice")
        given = _Given(_file_text(path, key, value), f"{path}: {key}", str(path))
        if given.text:
            found[key] = given
    return found


def _entries(document: Mapping[str, Any], groups: set[str]) -> Iterator[tuple[str, str, Any]]:
    """Every entry as (its table, "" at the top level; its key; its value)."""
    for name, value in document.items():
        if name in groups and isinstance(value, dict):
            for key, inner in value.items():
                yield name, key, inner
        else:
            yield "", name, value


def _check_place(path: Path, group: str, key: str, table: Table, groups: set[str]) -> None:
    if key == "config":
        raise SettingsError(f"{path}: {key}", f"only {variable_of(key)} in the environment says where the file is")
    if key not in table:
        near = _nearest(key.lower().removeprefix(PREFIX.lower()), [*table, *groups])
        raise SettingsError(f"{path}: {key}", "unknown key" + (f"; the nearest is {near}" if near else ""))
    belongs = table[key][1].group
    if group not in {"", belongs}:
        raise SettingsError(f"{path}: {key}", f"belongs to [{belongs}], not to [{group}]")


def _file_text(path: Path, key: str, value: object) -> str:
    """TOML's own types as the text that the environment would have."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value).strip()
    if isinstance(value, list) and all(isinstance(item, str) and "," not in item for item in value):
        return ",".join(value)
    raise SettingsError(f"{path}: {key}", "takes a text, a number, true, false or a list of texts")


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


# What holds between them


def _derive(values: dict[str, Any], sources: dict[str, str]) -> None:
    """An address says which database is meant, unless DB_TYPE does."""
    if sources["db_type"] != DEFAULT:
        return
    for key, db_type in (("db_uri", "postgres"), ("mongo_db_uri", "mongodb")):
        if values[key]:
            values["db_type"] = db_type
            sources["db_type"] = f"derived from {variable_of(key)}"
            return


def _refuse_open_with_openid(settings: Settings) -> None:
    if settings.oidc_auth_enabled and settings.auth == "none":
        raise SettingsError(variable_of("auth"), f"none contradicts {variable_of('oidc_auth_enabled')}=true")


def validate(settings: Settings, sources: Mapping[str, str]) -> None:
    """The rules that concern more than one setting."""
    if settings.oidc_auth_enabled:
        for key, value in (("oidc_host", settings.oidc_host), ("oidc_realm", settings.oidc_realm)):
            if not value:
                raise SettingsError(variable_of(key), f"is needed with {variable_of('oidc_auth_enabled')}=true")
    if settings.db_type == "postgres" and not settings.db_uri:
        raise SettingsError(variable_of("db_uri"), f"is needed with {variable_of('db_type')}=postgres")
    _not_over(settings, "db_min_pool_size", "db_max_pool_size")
    _not_over(settings, "mongo_db_min_pool_size", "mongo_db_max_pool_size")
    _not_over(settings, "memory_limit", "max_memory")
    _not_over(settings, "memory_reservation", "memory_limit" if settings.memory_limit else "max_memory")
    if sources["tasks_limit"] != DEFAULT:
        _not_over(settings, "tasks_limit", "max_tasks")
    if _quota_percent(settings) > settings.max_cpu:
        raise SettingsError(variable_of("cpu_quota"), f"is over {variable_of('max_cpu')} ({settings.max_cpu}%)")


def _not_over(settings: Settings, key: str, maximum: str) -> None:
    least, most = getattr(settings, key), getattr(settings, maximum)
    if least > most:
        raise SettingsError(variable_of(key), f"{least} is over {variable_of(maximum)} ({most})")


def _refuse_unbuilt(settings: Settings, sources: Mapping[str, str]) -> None:
    """A setting that this version can't honour ends the start: an installation must not believe that it is in force."""
    off: set[str] = set() if settings.s3_enabled else {S3}
    if not settings.oidc_auth_enabled and sources["oidc_auth_enabled"] != DEFAULT:
        off.add(OIDC)
    for item, var in variables():
        value = getattr(settings, item.name)
        if var.part and var.part not in off and value and value != default_of(item):
            raise SettingsError(variable_of(item.name), f"{var.part} built into this version yet")
    if settings.db_type != "sqlite":
        part = POSTGRES if settings.db_type == "postgres" else MONGO
        raise SettingsError(variable_of("db_type"), f"{part} built into this version yet")


def _quota_percent(settings: Settings) -> int:
    """µs of CPU per period of 100 ms, as percent of one processor; rounded up, since 0 would mean none."""
    return -(-settings.cpu_quota // 1000)


def default_limits(settings: Settings) -> DefaultLimits:
    """The contract's rule: limits always apply; only an explicit RESOURCE_ENABLED=false lifts memory and CPU to the maxima."""
    lifted = settings.resource_enabled is False
    memory = settings.max_memory if lifted else settings.memory_limit or min(RUN_MEMORY, settings.max_memory)
    percent = settings.max_cpu if lifted else _quota_percent(settings) or min(RUN_CPU_PERCENT, settings.max_cpu)
    weight = min(max(settings.cpu_shares * ONE_WEIGHT // ONE_SHARE, 1), MOST_WEIGHT) if settings.cpu_shares else None
    return DefaultLimits(
        memory_bytes=memory,
        cpu_percent=percent,
        tasks=min(settings.tasks_limit, settings.max_tasks),
        network=Network(settings.network),
        cpu_weight=weight,
        memory_reservation=min(settings.memory_reservation, memory),
    )


# What is merely said


def _warnings(environ: Mapping[str, str], table: Table) -> Iterator[str]:
    known = {variable_of(key) for key in table}.union(*(var.aliases for _, var in table.values()))
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            near = _nearest(name.removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
            yield f"{name}: unknown setting" + (f"; the nearest is {PREFIX}{near}" if near else "")


def _nearest(name: str, known: list[str]) -> str:
    """Of names without their common prefix, with which any two would be near. Empty if none is."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), "")


def read_host() -> Host:
    """For the launcher, which reads no settings."""
    return _host(os.environ)


def _host(environ: Mapping[str, str]) -> Host:
    return Host(
        path=environ.get("PATH", os.defpath),
        notify_socket=environ.get("NOTIFY_SOCKET", ""),
        journal_stream=environ.get("JOURNAL_STREAM", ""),
        listen_fds=environ.get("LISTEN_FDS", ""),
        listen_pid=environ.get("LISTEN_PID", ""),
    )
