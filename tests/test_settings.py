import tomllib
from pathlib import Path

import pytest

from appliance.entities import Network
from appliance.settings import Loaded, Settings, SettingsError, default_limits, default_of, load, validate, variables
from appliance.settings_report import markdown
from appliance.settings_table import PREFIX

CONTRACT = tomllib.loads((Path(__file__).parent / "contract_settings.toml").read_text("utf-8"))
NO_FILE = Path("/nonexistent/config.toml")
MIB = 2**20


def loaded(**names: str) -> Loaded:
    """As with these variables in the environment, without their prefix, and no file."""
    return load({PREFIX + name: value for name, value in names.items()}, NO_FILE)


def settings(**names: str) -> Settings:
    return loaded(**names).settings


def refusal(**names: str) -> str:
    with pytest.raises(SettingsError) as error:
        loaded(**names)
    return str(error.value).removeprefix(PREFIX)


def from_file(folder: Path, text: str, **environ: str) -> Loaded:
    path = folder / "config.toml"
    path.write_text(text, "utf-8")
    return load({PREFIX + "CONFIG": str(path), **environ}, NO_FILE)


def file_refusal(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as error:
        from_file(folder, text)
    return str(error.value)


# The contract and the document


def test_every_variable_of_the_contract_is_defined_and_no_other() -> None:
    assert {item.name.upper() for item, _ in variables()} == {*CONTRACT["variables"], *CONTRACT["computed"]}


@pytest.mark.parametrize(("name", "text"), CONTRACT["variables"].items())
def test_a_default_is_the_contracts(name: str, text: str) -> None:
    item, var = next(pair for pair in variables() if pair[0].name == name.lower())
    if text:
        assert default_of(item) == var.kind.read(text)
    else:
        assert default_of(item) in (None, "", ())


def test_other_names_are_the_contracts() -> None:
    assert {alias: item.name.upper() for item, var in variables() for alias in var.aliases} == CONTRACT["aliases"]


def test_a_default_reads_back_from_how_it_is_shown() -> None:
    for item, var in variables():
        value = default_of(item)
        if value not in (None, "", ()):
            assert var.kind.read(var.kind.show(value)) == value


def test_the_document_is_generated_from_the_definitions() -> None:
    document = Path(__file__).parent.parent / "docs" / "settings.md"
    assert document.read_text("utf-8") == markdown(), "renew it: make docs"


# Values


def test_nothing_configured_is_sqlite_on_the_loopback() -> None:
    values = settings()
    assert (values.host, values.port, values.db_type, values.auth, values.log_level) == (
        "127.0.0.1",
        8050,
        "sqlite",
        "token",
        "info",
    )


def test_in_a_checkout_the_state_is_kept_there() -> None:
    assert settings().state_dir == Path(__file__).parent.parent / "var"


def test_an_empty_value_is_the_default() -> None:
    result = loaded(PORT="", HOST="  ")
    assert (result.settings.port, result.settings.host, result.sources["port"]) == (8050, "127.0.0.1", "default")


@pytest.mark.parametrize(
    ("text", "size"), [("1048576", MIB), ("64M", 64 * MIB), ("1G", 2**30), ("10MiB", 10 * MIB), ("2 kb", 2048)]
)
def test_a_size_has_a_unit(text: str, size: int) -> None:
    assert settings(MAX_BODY_BYTES=text).max_body_bytes == size


@pytest.mark.parametrize(("text", "seconds"), [("30", 30), ("30s", 30), ("5m", 300), ("500ms", 0.5), ("1.5", 1.5), ("1h", 3600)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert settings(DRAIN_TIMEOUT=text).drain_timeout == seconds


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("T", True), ("1", True), ("yes", True), ("FALSE", False), ("no", False)]
)
def test_a_boolean_has_many_spellings(text: str, value: bool) -> None:
    assert settings(HTML_SANDBOX=text).html_sandbox is value


@pytest.mark.parametrize(
    ("text", "host"),
    [(":", "0.0.0.0"), ("*", "0.0.0.0"), ("10.0.0.1:", "10.0.0.1"), ("::", "::"), ("[::1]", "::1"), ("db.local", "db.local")],
)
def test_the_host_is_written_as_existing_installations_do(text: str, host: str) -> None:
    assert settings(HOST=text).host == host


@pytest.mark.parametrize(("text", "level"), [("WARN", "warning"), ("trace", "debug"), ("fatal", "critical"), ("error", "error")])
def test_levels_of_the_old_log_are_understood(text: str, level: str) -> None:
    assert settings(LOG_LEVEL=text).log_level == level


def test_lists_are_trimmed() -> None:
    values = settings(BLACKLIST="eval, exec ,,", REDACT_HEADERS="X-Secret", TRUSTED_PROXIES="10.1.2.3/8,::1")
    assert values.blacklist == ("eval", "exec")
    assert values.redact_headers == ("x-secret",)
    assert values.trusted_proxies == ("10.0.0.0/8", "::1/128")


def test_an_origin_is_kept_without_its_slash() -> None:
    assert settings(CORS_ORIGINS="https://Example.org/").cors_origins == ("https://example.org",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("PORT", "eighty"),
        ("PORT", "65536"),
        ("WORKER_POOL_SIZE", "0"),
        ("WORKER_POOL_SIZE", "-1"),
        ("MAX_BODY_BYTES", "10X"),
        ("DRAIN_TIMEOUT", "-1"),
        ("DRAIN_TIMEOUT", "nan"),
        ("CLEANER_SCHEDULE_TIME", "25:00"),
        ("CLEANER_RETENTION_PERIOD", "0"),
        ("HTML_SANDBOX", "maybe"),
        ("AUTH", "nobody"),
        ("HOST", "a b"),
        ("LOG_LEVEL", "loud"),
        ("CORS_ORIGINS", "example.org"),
        ("TRUSTED_PROXIES", "10.0.0.0/40"),
        ("NETWORK", "intranet"),
        ("NETWORK_ALLOW", "10.0.0.300"),
        ("NETWORK_ALLOW", "127.0.0.1"),
        ("NETWORK_ALLOW", "10.0.0.0/8,fe80::1"),
        ("NETWORK_ALLOW", "db.internal:99999"),
        ("NETWORK_ALLOW", "a name"),
        ("SANDBOX_UID_BASE", "1000"),
        ("MAX_CPU", "0%"),
        ("CODE_LIMITER_WINDOW", "0"),
    ],
)
def test_what_cannot_be_read_ends_the_start_with_one_line(name: str, text: str) -> None:
    line = refusal(**{name: text})
    assert line.startswith(f"{name}: takes ")
    assert repr(text) in line
    assert "\n" not in line


def test_a_secret_is_not_repeated_in_its_error() -> None:
    assert "open sesame" not in refusal(ADMIN_TOKEN="open sesame")


def test_the_settings_do_not_show_their_secrets() -> None:
    assert "s3same" not in repr(loaded(ADMIN_TOKEN="s3same"))


# Names


def test_the_doubled_window_and_the_plain_one_are_the_same() -> None:
    assert settings(CODE_LIMITER_WINDOW_WINDOW="5").code_limiter_window == 5
    assert settings(CODE_LIMITER_WINDOW="7", CODE_LIMITER_WINDOW_WINDOW="5").code_limiter_window == 7


def test_the_queue_of_permissions_is_known_without_its_s() -> None:
    assert (
        load({"FLOW_CODE_ACTIONS_PERMISSION_QUEUE": "code-actions-permissions"}, NO_FILE)
        .sources["permission_queue"]
        .endswith("_QUEUE")
    )


def test_an_unknown_variable_is_a_warning_with_the_nearest_name() -> None:
    assert loaded(HSOT="x").warnings == (f"{PREFIX}HSOT: unknown setting; the nearest is {PREFIX}HOST",)


def test_a_variable_that_is_near_to_none_is_a_warning_without_a_guess() -> None:
    assert loaded(X="1").warnings == (f"{PREFIX}X: unknown setting",)


# The file and the credentials


def test_the_file_has_keys_at_the_top_or_in_their_group(tmp_path: Path) -> None:
    result = from_file(
        tmp_path, 'port = 9000\nhtml_sandbox = false\n[runs]\nmemory_limit = "64M"\n[codes]\nblacklist = ["a", "b"]\n'
    )
    values = result.settings
    assert (values.port, values.html_sandbox, values.memory_limit, values.blacklist) == (9000, False, 64 * MIB, ("a", "b"))
    assert result.sources["port"] == str(tmp_path / "config.toml")


def test_the_environment_wins_over_a_credential_and_that_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("9001\n")
    (tmp_path / "auth_token").write_text("from-credential\n")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), PREFIX + "PORT": "9002"}
    result = from_file(tmp_path, 'port = 9000\nauth_token = "from-file"\ndrain_timeout = 9', **environ)
    values = result.settings
    assert (values.port, values.auth_token, values.drain_timeout) == (9002, "from-credential", 9)
    assert (result.sources["port"], result.sources["auth_token"]) == ("environment", "credential")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prot = 1", "config.toml: prot: unknown key; the nearest is port"),
        (f"{PREFIX}PORT = 1", f"config.toml: {PREFIX}PORT: unknown key; the nearest is port"),
        ("[runz]\nnetwork = 'none'", "config.toml: runz: unknown key; the nearest is runs"),
        ("[server]\nnetwork = 'none'", "config.toml: network: belongs to [runs], not to [server]"),
        ("network = 'none'\n[runs]\nnetwork = 'none'", "config.toml: network: is given twice"),
        ("port = 'x'", "config.toml: port: takes a whole number"),
        ("port = 1.5", "config.toml: port: takes a whole number"),
        ("blacklist = [1]", "config.toml: blacklist: takes a text"),
        ("config = 'x'", "config.toml: config: only FLOWS_CODE_ACTIONS_CONFIG"),
        ("port = ", "can't be read"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path: Path, text: str, problem: str) -> None:
    line = file_refusal(tmp_path, text)
    assert problem in line
    assert "\n" not in line


def test_a_file_that_was_named_and_is_missing_ends_the_start() -> None:
    assert refusal(CONFIG="/nonexistent/x.toml") == "CONFIG: there is no file /nonexistent/x.toml"


def test_an_unreadable_credential_is_named(tmp_path: Path) -> None:
    (tmp_path / "auth_token").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"AUTH_TOKEN: the credential .* can't be read"):
        load({"CREDENTIALS_DIRECTORY": str(tmp_path)}, NO_FILE)


# Rules between settings, and parts that aren't built


def test_no_authentication_contradicts_openid() -> None:
    assert refusal(AUTH="none", OIDC_AUTH_ENABLED="true") == f"AUTH: none contradicts {PREFIX}OIDC_AUTH_ENABLED=true"


def broken_rule(settings: Settings) -> str:
    """Of settings whose part isn't built, which `load` refuses before."""
    with pytest.raises(SettingsError) as error:
        validate(settings, {"tasks_limit": "default"})
    return str(error.value).removeprefix(PREFIX)


def test_openid_wants_its_provider() -> None:
    assert broken_rule(Settings(oidc_auth_enabled=True)).startswith("OIDC_HOST: is needed")


def test_a_database_wants_its_address() -> None:
    assert broken_rule(Settings(db_type="postgres")).startswith("DB_URI: is needed")


def test_a_pool_is_not_larger_at_least_than_at_most() -> None:
    line = broken_rule(Settings(db_min_pool_size=101))
    assert line.startswith("DB_MIN_POOL_SIZE: 101 is over FLOWS_CODE_ACTIONS_DB_MAX_POOL_SIZE")


@pytest.mark.parametrize(
    ("names", "line"),
    [
        ({"MEMORY_LIMIT": "2G"}, "MEMORY_LIMIT: 2147483648 is over FLOWS_CODE_ACTIONS_MAX_MEMORY"),
        ({"MEMORY_LIMIT": "64M", "MEMORY_RESERVATION": "65M"}, "MEMORY_RESERVATION: "),
        ({"CPU_QUOTA": "300000"}, "CPU_QUOTA: is over FLOWS_CODE_ACTIONS_MAX_CPU (200%)"),
        ({"TASKS_LIMIT": "600"}, "TASKS_LIMIT: 600 is over FLOWS_CODE_ACTIONS_MAX_TASKS"),
    ],
)
def test_a_default_may_not_be_over_its_maximum(names: dict[str, str], line: str) -> None:
    assert refusal(**names).startswith(line)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("DB_URI", "postgres://db/x", "PostgreSQL"),
        ("DB_TYPE", "postgres", "PostgreSQL"),
        ("DB_TYPE", "mongodb", "MongoDB"),
        ("DB_TIMEOUT", "10", "PostgreSQL"),
        ("DB_MAX_POOL_SIZE", "3", "PostgreSQL"),
        ("MONGO_DB_URI", "mongodb://db", "MongoDB"),
        ("REDIS", "redis://cache:6379/1", "Redis"),
        ("RABBITMQ_URL", "amqp://broker", "RabbitMQ"),
        ("PROJECT_QUEUE", "other", "RabbitMQ"),
        ("S3_BUCKET_NAME", "logs", "S3"),
        ("OIDC_AUTH_ENABLED", "true", "OpenID Connect"),
        ("OIDC_HOST", "https://id.example.org", "OpenID Connect"),
        ("SENTRY_DSN", "https://sentry.example.org/1", "Sentry"),
    ],
)
def test_a_part_that_is_not_built_ends_the_start_and_says_so(name: str, value: str, part: str) -> None:
    assert refusal(**{name: value}) == f"{name}: {part} isn't built into this version yet"


@pytest.mark.parametrize(
    "names",
    [
        {"S3_ENABLED": "false", "S3_BUCKET_NAME": "logs"},
        {"OIDC_AUTH_ENABLED": "false", "OIDC_HOST": "https://id.example.org", "OIDC_REALM": "weni"},
        {"DB_TYPE": "sqlite", "PROJECT_EXCHANGE": "projects.topic", "S3_PREFIX": "codeactions"},
    ],
)
def test_what_is_switched_off_or_at_its_default_needs_no_part(names: dict[str, str]) -> None:
    assert loaded(**names).warnings == ()


# The limits of a run


def limits_with(**names: str) -> tuple[int, int]:
    limits = default_limits(settings(**names))
    return limits.memory_bytes // MIB, limits.cpu_percent


@pytest.mark.parametrize(
    ("names", "memory_and_cpu"),
    [
        ({}, (256, 100)),
        ({"RESOURCE_ENABLED": "true"}, (256, 100)),
        ({"RESOURCE_ENABLED": "false"}, (1024, 200)),
        ({"RESOURCE_ENABLED": "false", "MEMORY_LIMIT": "64M", "CPU_QUOTA": "50000"}, (1024, 200)),
        ({"MEMORY_LIMIT": str(64 * MIB), "CPU_QUOTA": "50000"}, (64, 50)),
        ({"CPU_QUOTA": "500"}, (256, 1)),
        ({"MAX_MEMORY": "128M", "MAX_CPU": "50%"}, (128, 50)),
    ],
)
def test_a_run_has_limits_unless_they_are_lifted_explicitly(names: dict[str, str], memory_and_cpu: tuple[int, int]) -> None:
    assert limits_with(**names) == memory_and_cpu


def test_a_run_has_tasks_and_a_network_by_default() -> None:
    limits = default_limits(settings(MAX_TASKS="32", NETWORK="none"))
    assert (limits.tasks, limits.network) == (32, Network.NONE)


@pytest.mark.parametrize(("shares", "weight"), [("0", None), ("1024", 100), ("512", 50), ("2", 1), ("262144", 10_000)])
def test_a_share_is_a_weight_of_systemd(shares: str, weight: int | None) -> None:
    assert default_limits(settings(CPU_SHARES=shares)).cpu_weight == weight
