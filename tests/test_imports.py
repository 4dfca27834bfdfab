"""The arrows of the design: who may import whom. A module that the table doesn't know fails: say where it belongs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = [path for package in ("appliance", "ui", "engines") for path in sorted((ROOT / package).rglob("*.py"))]

VALUES = {"entities", "errors", "openings"}
INTERFACES = {"storage.interface", "coordination.interface", "runner"}
RULES = {"builds", "codes", "calls", "access", "health", "metrics", "fields", "receipts", "runlog", "ends", "spool", "disk"}
SERVICES = {"api", "ui", "events", "cleaning", "instances"}
# Each part of appliance/ (its longest matching name) and what it may import beside itself.
MAY_IMPORT: dict[str, set[str]] = {
    "entities": set(),
    "errors": set(),
    "openings": set(),
    "settings": VALUES | {"settings_table"},
    "settings_table": {"settings_readers"},
    "settings_readers": {"openings"},
    "settings_report": {"settings", "settings_table"},
    "logsetup": set(),
    "sdnotify": set(),
    "program": {"errors"},
    "admintoken": {"errors"},
    "privileges": {"errors", "runner"},
    "supervisor": set(),
    "runner": VALUES | {"program"},
    "degrees": {"runner"},
    "dns": {"runner"},
    "storage.interface": VALUES,
    "coordination.interface": VALUES,
    "storage": VALUES | {"storage.interface"},
    "coordination": VALUES | {"coordination.interface"},
    **dict.fromkeys(RULES | SERVICES, VALUES | INTERFACES | RULES | {"supervisor"}),
    "__main__": {"cli"},
}
# They put everything together: the verbs that need all of it, and what `serve` is made of. The settings stop here.
COMPOSITION = {
    "cli",
    "serve",
    "runfile",
    "doctor",
    "localrunner",
    "selftest",
    "startup",
    "assembly",
    "options",
    "launcherfile",
    "installer",
}
# The modules that hold the bridge between Trio and asyncio, or that wrap one asyncio library.
BRIDGES: set[str] = set()
ASYNCIO_LIBRARIES = {"asyncio", "trio_asyncio", "asyncpg", "redis", "aio_pika", "aiormq", "aioboto3", "aiobotocore", "pymongo"}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part_of(module: str) -> str:
    """The part of the design that `appliance.storage.sqlite.codes` or `ui.pages` belongs to."""
    if module.split(".")[0] == "ui":
        return "ui"
    inside = module.removeprefix("appliance.")
    known = [part for part in {*MAY_IMPORT, *COMPOSITION} if inside == part or inside.startswith(part + ".")]
    assert known, f"{module} is in no part of the design: place it in this test's table"
    return max(known, key=len)


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_module_imports_only_what_lies_below_it(path: Path) -> None:
    module = name_of(path)
    if module.split(".")[0] == "engines" or module == "appliance":
        return
    part = part_of(module)
    for imported in imports_of(path):
        if imported.split(".")[0] in {"appliance", "ui"} and imported != "appliance.__version__" and part not in COMPOSITION:
            assert part_of(imported) in MAY_IMPORT[part] | {part}, f"{module} imports {imported}"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_asyncio_stays_behind_the_bridge(path: Path) -> None:
    if name_of(path).split(".")[0] == "engines" or name_of(path) in BRIDGES:
        return  # an author's action may speak asyncio: its engine runs outside the server
    assert not {imported.split(".")[0] for imported in imports_of(path)} & ASYNCIO_LIBRARIES


@pytest.mark.parametrize("path", [path for path in SOURCES if name_of(path).startswith("engines")], ids=name_of)
def test_an_engine_knows_nothing_of_the_server(path: Path) -> None:
    assert not [imported for imported in imports_of(path) if imported.split(".")[0] in {"appliance", "ui"}]


@pytest.mark.parametrize("path", [path for path in SOURCES if not name_of(path).startswith("engines")], ids=name_of)
def test_only_settings_reads_the_environment(path: Path) -> None:
    if name_of(path) == "appliance.settings":
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        assert not (isinstance(node, ast.Attribute) and node.attr in {"environ", "environb", "getenv", "getenvb"}), node.lineno
    assert not {"os.environ", "os.environb", "os.getenv"} & set(imports_of(path))
