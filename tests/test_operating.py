"""docs/operating.md against the program: each event that it logs is explained, and none that it doesn't."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.appliance import ROOT

_LEVELS = {"info", "warning", "error", "exception"}  # debug is for who reads the sources
DOCUMENT = (ROOT / "docs/operating.md").read_text()


def events_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and _logs(node.func) and node.args:
            event = node.args[0]
            if isinstance(event, ast.Constant) and isinstance(event.value, str):
                yield event.value


def _logs(function: ast.expr) -> bool:
    """`log.info`, and `say`, which is one of them by the case."""
    if isinstance(function, ast.Attribute):
        return isinstance(function.value, ast.Name) and function.value.id == "log" and function.attr in _LEVELS
    return isinstance(function, ast.Name) and function.id == "say"


def documented() -> set[str]:
    """The first column of the table below Logs."""
    table = DOCUMENT.partition("\n## Logs\n")[2].partition("\n## ")[0]
    return {
        event for line in table.splitlines() if line.startswith("| `") for event in re.findall("`([^`]+)`", line.split(" | ")[0])
    }


def test_each_event_that_is_logged_is_explained() -> None:
    logged = {event for package in ("appliance", "ui") for path in (ROOT / package).rglob("*.py") for event in events_of(path)}
    assert len(logged) > 30
    assert sorted(logged - documented()) == []
    assert sorted(documented() - logged) == []
