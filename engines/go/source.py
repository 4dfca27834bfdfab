"""The author's file as the build and the run see it."""

import re

FILE = "action.go"  # its name in compile errors and stack traces

_BEFORE_PACKAGE = r"(?:\s|//[^\n]*\n|/\*.*?\*/)*"
_PACKAGE = re.compile(rf"\ufeff?{_BEFORE_PACKAGE}package\s+(\w+)", re.DOTALL)
_RUN = re.compile(r"^func\s+Run\s*\(", re.MULTILINE)


def package_of(source: str) -> str:
    """The name in its package clause, "" for a text that has none."""
    found = _PACKAGE.match(source)
    return found[1] if found else ""


def is_plain(source: str) -> bool:
    """A program of its own, whose standard output is the result."""
    return package_of(source) == "main"


def line_of_run(source: str) -> int:
    """Where `Run` is declared; 1 when it isn't."""
    found = _RUN.search(source)
    return source.count("\n", 0, found.start()) + 1 if found else 1
