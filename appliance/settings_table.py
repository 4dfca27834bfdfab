"""Every setting, defined once: name, type, default, group, what it does. docs/settings.md is generated from here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from appliance.settings_readers import (
    BOOLEAN,
    CLOCK,
    DAYS,
    DURATION,
    HEADER_NAMES,
    HOST,
    LEVEL,
    NETWORKS,
    OPENINGS,
    ORIGINS,
    PATH,
    PERCENT,
    SIZE,
    TERMS,
    TEXT,
    TOKEN,
    Kind,
    at_least,
    choice,
    whole,
)

PREFIX = "FLOWS_CODE_ACTIONS_"
MIB = 2**20
GIB = 2**30
# An unsigned 32-bit uid less the two that mean "none"; two a slot are used upwards from the base.
LAST_UID_BASE = 2**32 - 2**20
MOST = 2**31 - 1

# Parts of the contract that this version lacks: a setting that would need one ends the start and names it.
POSTGRES = "PostgreSQL isn't"
MONGO = "MongoDB isn't"
REDIS = "Redis isn't"
RABBITMQ = "RabbitMQ isn't"
S3 = "S3 isn't"
OIDC = "OpenID Connect isn't"
SENTRY = "Sentry isn't"


@dataclass(frozen=True)
class Var:
    """What is known of a setting beside its type and default. `part`: what it needs and this version lacks, with its verb;
    `aliases`: other full names in the environment; `default_text`: the default, where it is worked out at the start."""

    group: str
    kind: Kind
    doc: str
    secret: bool = False
    part: str = ""
    aliases: tuple[str, ...] = ()
    default_text: str = ""


def checkout() -> Path | None:
    """The checkout that this package runs from, if it is one."""
    root = Path(__file__).resolve().parent.parent
    return root if (root / "pyproject.toml").is_file() else None


def default_state_dir() -> Path:
    root = checkout()
    return root / "var" if root else Path("/var/lib/codeactions")


# Without a repr: a traceback or a log line must not show the secrets.
@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """An attribute is its variable's name in lower case, without the prefix. Sizes are bytes, durations seconds; "", () and None
    are unset."""

    host: Annotated[str, Var("server", HOST, "Address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Var("server", whole(0, 65535), "Port to listen on; 0 takes a free one.")] = 8050
    environment: Annotated[str, Var("server", TEXT, "Name of the installation, as it appears in logs.")] = "local"
    log_level: Annotated[str, Var("server", LEVEL, "The least level that is logged.")] = "info"
    state_dir: Annotated[
        Path,
        Var(
            "server",
            PATH,
            "The embedded database, the admin token, spools and caches.",
            default_text="`./var` in a checkout, `/var/lib/codeactions` installed",
        ),
    ] = field(default_factory=default_state_dir)
    config: Annotated[
        Path | None,
        Var(
            "server",
            PATH,
            "The TOML file; only the environment says where.",
            default_text="`/etc/codeactions/config.toml` if it exists",
        ),
    ] = None
    drain_timeout: Annotated[
        float, Var("server", DURATION, "How long running calls may go on when the program is told to stop.")
    ] = 30.0
    trusted_proxies: Annotated[
        tuple[str, ...], Var("server", NETWORKS, "Proxies whose `X-Forwarded-…` headers are believed.")
    ] = ()
    cors_origins: Annotated[tuple[str, ...], Var("server", ORIGINS, "Origins whose pages may call the API.")] = ()
    max_body_bytes: Annotated[int, Var("server", SIZE, "The largest request body.")] = 10 * MIB
    min_free_disk: Annotated[int, Var("server", SIZE, "Free space below which stored bodies and results are cut to 64 KiB.")] = (
        GIB
    )
    health_check_cache_time: Annotated[float, Var("server", DURATION, "How long an answer of `/health` is kept.")] = 3.0
    sentry_dsn: Annotated[str, Var("server", TEXT, "Where errors are reported.", secret=True, part=SENTRY)] = ""

    auth: Annotated[
        Literal["token", "none"],
        Var("access", choice("token", "none"), "`none` opens the management API to everybody who reaches it."),
    ] = "token"
    admin_token: Annotated[
        str,
        Var(
            "access",
            TOKEN,
            "The key to the management API.",
            secret=True,
            default_text="made at the first start, kept in `admin_token` in the state directory",
        ),
    ] = ""
    auth_token: Annotated[
        str, Var("access", TOKEN, "The key to `POST /run`; unset, only the admin token opens it.", secret=True)
    ] = ""
    metrics_token: Annotated[
        str, Var("access", TOKEN, "A key to `/metrics`; with it, or the admin token, codes are named by their ids.", secret=True)
    ] = ""
    oidc_auth_enabled: Annotated[bool, Var("access", BOOLEAN, "Users come from an OpenID provider.", part=OIDC)] = False
    oidc_host: Annotated[str, Var("access", TEXT, "The provider's address.", part=OIDC)] = ""
    oidc_realm: Annotated[str, Var("access", TEXT, "The provider's realm.", part=OIDC)] = ""
    oidc_client_id: Annotated[str, Var("access", TEXT, "This installation's name at the provider.", part=OIDC)] = ""
    oidc_client_secret: Annotated[str, Var("access", TEXT, "Its secret.", secret=True, part=OIDC)] = ""
    oidc_validate: Annotated[str, Var("access", choice("userinfo"), "How a token is checked.", part=OIDC)] = "userinfo"

    db_type: Annotated[
        Literal["sqlite", "postgres", "mongodb"],
        Var(
            "database",
            choice("sqlite", "postgres", "mongodb"),
            "Where everything is stored; only `sqlite` is built into this version.",
            default_text="`sqlite`; `postgres` when `DB_URI` is set, else `mongodb` when `MONGO_DB_URI` is",
        ),
    ] = "sqlite"
    db_uri: Annotated[
        str, Var("database", TEXT, "PostgreSQL's address; `sslmode` in it is honoured.", secret=True, part=POSTGRES)
    ] = ""
    db_name: Annotated[str, Var("database", TEXT, "The database, where the address names none.", part=POSTGRES)] = "codeactions"
    db_timeout: Annotated[
        float, Var("database", DURATION, "The longest statement.", part=POSTGRES, aliases=(PREFIX + "POSTGRES_DB_TIMEOUT",))
    ] = 35.0
    db_max_retries: Annotated[int, Var("database", whole(0, 1000), "Tries to connect at the start.", part=POSTGRES)] = 3
    db_max_pool_size: Annotated[int, Var("database", whole(1, 10_000), "Connections at most.", part=POSTGRES)] = 100
    db_min_pool_size: Annotated[int, Var("database", whole(0, 10_000), "Connections kept open.", part=POSTGRES)] = 5
    db_connect_timeout: Annotated[float, Var("database", DURATION, "The longest wait for a connection.", part=POSTGRES)] = 30.0
    db_socket_timeout: Annotated[float, Var("database", DURATION, "The longest wait for the server's answer.", part=POSTGRES)] = (
        30.0
    )
    mongo_db_uri: Annotated[
        str,
        Var(
            "database",
            TEXT,
            "MongoDB's address.",
            secret=True,
            part=MONGO,
            default_text="`mongodb://localhost:27017` with `DB_TYPE=mongodb`",
        ),
    ] = ""
    mongo_db_name: Annotated[str, Var("database", TEXT, "The database.", part=MONGO)] = "code-actions"
    mongo_db_timeout: Annotated[float, Var("database", DURATION, "The longest operation.", part=MONGO)] = 35.0
    mongo_db_max_retries: Annotated[int, Var("database", whole(0, 1000), "Tries to connect at the start.", part=MONGO)] = 3
    mongo_db_max_pool_size: Annotated[int, Var("database", whole(1, 10_000), "Connections at most.", part=MONGO)] = 100
    mongo_db_min_pool_size: Annotated[int, Var("database", whole(0, 10_000), "Connections kept open.", part=MONGO)] = 5
    mongo_db_connect_timeout: Annotated[float, Var("database", DURATION, "The longest wait for a connection.", part=MONGO)] = 30.0
    mongo_db_socket_timeout: Annotated[
        float, Var("database", DURATION, "The longest wait for the server's answer.", part=MONGO)
    ] = 30.0
    mongo_db_server_selection_timeout: Annotated[
        float, Var("database", DURATION, "The longest wait for a usable server.", part=MONGO)
    ] = 30.0
    mongo_db_heartbeat_interval: Annotated[float, Var("database", DURATION, "How often servers are checked.", part=MONGO)] = 10.0

    redis: Annotated[
        str,
        Var(
            "coordination",
            TEXT,
            "Redis's address: limits, locks and sessions shared by all hosts.",
            secret=True,
            part=REDIS,
            default_text="none: limits and locks in process",
        ),
    ] = ""
    code_limiter_max_requests: Annotated[int, Var("coordination", whole(1, MOST), "Calls of one code in a window.")] = 600
    code_limiter_window: Annotated[
        float,
        Var("coordination", at_least(DURATION, 1), "The window.", aliases=(PREFIX + "CODE_LIMITER_WINDOW_WINDOW",)),
    ] = 60.0

    cleaner_schedule_time: Annotated[
        str, Var("cleaning", CLOCK, "When old runs and logs are deleted, in the host's time zone.")
    ] = "01:00"
    cleaner_retention_period: Annotated[int, Var("cleaning", DAYS, "How many days runs and logs are kept.")] = 30

    blacklist: Annotated[tuple[str, ...], Var("codes", TERMS, "Terms that a source may not contain.")] = ()
    skiplist: Annotated[tuple[str, ...], Var("codes", TERMS, "Without effect; taken because existing installations set it.")] = ()
    redact_headers: Annotated[
        tuple[str, ...],
        Var("codes", HEADER_NAMES, "Headers whose values are kept with the run as `[redacted]`; the action sees them."),
    ] = ("authorization", "cookie", "x-api-key", "proxy-authorization")
    html_sandbox: Annotated[
        bool, Var("codes", BOOLEAN, "Pages that an action answers are cut off from this origin by the browser.")
    ] = True
    metrics_codes: Annotated[
        int, Var("codes", whole(0, 1_000_000), "Codes that have metrics of their own; the rest is `other`.")
    ] = 1000

    worker_pool_size: Annotated[int, Var("runs", whole(1, 4096), "Runs at once.")] = 4
    worker_pool_queue_size: Annotated[int, Var("runs", whole(0, 1_000_000), "Runs waiting; past it a call is answered 503.")] = (
        100
    )
    worker_pool_project_queue_size: Annotated[int, Var("runs", whole(0, 1_000_000), "Runs of one project waiting.")] = 25
    queue_timeout: Annotated[float, Var("runs", DURATION, "The longest wait of a run.")] = 30.0
    max_result_bytes: Annotated[int, Var("runs", SIZE, "The largest result.")] = 10 * MIB
    max_log_bytes: Annotated[int, Var("runs", SIZE, "What one run may log; later entries are dropped and counted.")] = MIB
    resource_enabled: Annotated[
        bool | None,
        Var(
            "runs",
            BOOLEAN,
            "`false`, said explicitly, lifts memory and CPU of a run to the maxima.",
            default_text="unset: 256 MiB and one processor",
        ),
    ] = None
    cpu_shares: Annotated[int, Var("runs", whole(0, 262_144), "A run's weight; 1024 is one share, 0 is unset.")] = 0
    cpu_quota: Annotated[int, Var("runs", whole(0, 10**9), "CPU time of a run, in µs per 100 ms; 0 is one processor.")] = 0
    memory_limit: Annotated[
        int, Var("runs", SIZE, "Memory of a run; 0 is 256 MiB. At least what its language needs: node 96 MiB.")
    ] = 0
    memory_reservation: Annotated[int, Var("runs", SIZE, "Memory of a run that is reclaimed last; 0 is unset.")] = 0
    tasks_limit: Annotated[
        int, Var("runs", whole(4, 100_000), "Processes and threads of a run. At least what its language needs: node and Go 16.")
    ] = 64
    network: Annotated[
        Literal["internet", "none"],
        Var("runs", choice("internet", "none"), "What a run can reach, where its code doesn't say."),
    ] = "internet"
    network_allow: Annotated[
        tuple[str, ...],
        Var("runs", OPENINGS, "Hosts or ranges that are opened beside public addresses: `10.1.0.0/16,db.example.org:5432`."),
    ] = ()
    max_memory: Annotated[int, Var("runs", at_least(SIZE, 32 * MIB), "The most memory that a code may ask for.")] = GIB
    max_cpu: Annotated[int, Var("runs", PERCENT, "The most CPU that a code may ask for.")] = 200
    max_tasks: Annotated[int, Var("runs", whole(4, 100_000), "The most tasks that a code may ask for.")] = 512
    require_isolation: Annotated[
        Literal["available", "full"],
        Var("runs", choice("available", "full"), "`full` refuses to start where the cage would lack something."),
    ] = "available"
    sandbox_uid_base: Annotated[
        int,
        Var(
            "runs",
            whole(65_536, LAST_UID_BASE),
            "First of the uids that runs get: 2048 a launcher. Where an account or another process has one, there is no start.",
        ),
    ] = 1_900_000_000

    node: Annotated[Path | None, Var("languages", PATH, "The `node` to use.", default_text="from PATH")] = None
    go: Annotated[Path | None, Var("languages", PATH, "The `go` to use.", default_text="from PATH")] = None
    go_cache_bytes: Annotated[int, Var("languages", SIZE, "What compiled sources may take on disk.")] = 2 * GIB
    build_timeout: Annotated[float, Var("languages", DURATION, "The longest compilation.")] = 60.0
    build_memory: Annotated[int, Var("languages", SIZE, "Memory of a compilation.")] = GIB

    rabbitmq_url: Annotated[
        str, Var("events", TEXT, "RabbitMQ's address.", secret=True, part=RABBITMQ, default_text="none: no events are read")
    ] = ""
    project_exchange: Annotated[str, Var("events", TEXT, "Exchange of projects.", part=RABBITMQ)] = "projects.topic"
    project_queue: Annotated[str, Var("events", TEXT, "Queue of projects.", part=RABBITMQ)] = "code-actions.projects"
    permission_exchange: Annotated[str, Var("events", TEXT, "Exchange of permissions.", part=RABBITMQ)] = "permissions.topic"
    permission_queue: Annotated[
        str,
        Var("events", TEXT, "Queue of permissions.", part=RABBITMQ, aliases=("FLOW_CODE_ACTIONS_PERMISSION_QUEUE",)),
    ] = "code-actions-permissions"

    s3_enabled: Annotated[bool, Var("s3", BOOLEAN, "Logs are kept in S3, once a bucket is named.")] = True
    s3_bucket_name: Annotated[
        str, Var("s3", TEXT, "The bucket.", part=S3, default_text="none: logs are kept in the database")
    ] = ""
    s3_region: Annotated[str, Var("s3", TEXT, "The bucket's region.", part=S3)] = "us-east-1"
    s3_endpoint: Annotated[str, Var("s3", TEXT, "Another service's address; path-style addressing.", part=S3)] = ""
    s3_prefix: Annotated[str, Var("s3", TEXT, "What every key begins with.", part=S3)] = "codeactions"
    s3_access_key_id: Annotated[
        str, Var("s3", TEXT, "Key.", secret=True, part=S3, default_text="the usual AWS credential chain")
    ] = ""
    s3_secret_access_key: Annotated[
        str, Var("s3", TEXT, "Secret key.", secret=True, part=S3, default_text="the usual AWS credential chain")
    ] = ""
    s3_layout: Annotated[
        Literal["run", "entry"],
        Var("s3", choice("run", "entry"), "One object a run, or the old layout of one an entry.", part=S3),
    ] = "run"
