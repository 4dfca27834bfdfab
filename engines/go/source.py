"""The author's file as the build and the run see it."""

import os
import re
import struct

FILE = "action.go"  # its name in compile errors and stack traces

_BEFORE_PACKAGE = r"(?:\s|//[^\n]*\n|/\*.*?\*/)*"
_PACKAGE = re.compile(rf"\ufeff?{_BEFORE_PACKAGE}package\s+(\w+)", re.DOTALL)
_RUN = re.compile(r"^(?:func|var|const|type)\s+Run\b", re.MULTILINE)
_CGO = re.compile(r"""^[\s(]*(?:import[\s(]+)?(?:[\w.]+\s+)?["`]C["`]""", re.MULTILINE)
_CONSTRAINT = re.compile(r"^//(?:go:build|\s*\+build)\b.*$", re.MULTILINE)

_TRAILER = struct.Struct(">Q16s")  # bytes of the source before it, and a word
_WORD = b"codeactions src\0"


def attached(source: str) -> bytes:
    """What is put behind the program that was compiled of it, where the kernel takes no notice of it."""
    content = source.encode("utf-8", "surrogatepass")
    return content + _TRAILER.pack(len(content), _WORD)


def source_of(program: int) -> str:
    """The source that a program was compiled of. Raises ValueError for another file."""
    end = os.fstat(program).st_size - _TRAILER.size
    size, word = _TRAILER.unpack(os.pread(program, _TRAILER.size, end)) if end >= 0 else (0, b"")
    if word != _WORD:
        raise ValueError("this program has no source behind it")
    return os.pread(program, size, end - size).decode("utf-8", "replace")


def package_of(source: str) -> str:
    """The name in its package clause, "" for a text that has none."""
    found = _PACKAGE.match(source)
    return found[1] if found else ""


def is_plain(source: str) -> bool:
    """A program of its own, whose standard output is the result."""
    return package_of(source) == "main"


def may_pass_the_gate(source: str) -> bool:
    """Whether it may put values of its own in the place of another package's variables, those among them that hold a program
    until its job is there: the linker takes the one that has a value (cmd/link, loader). The directive has one spelling."""
    return "go:linkname" in source


def line_of_run(source: str) -> int:
    """Where `Run` is declared; 1 when it isn't."""
    found = _RUN.search(source)
    return source.count("\n", 0, found.start()) + 1 if found else 1


def why_no_run(source: str) -> str:
    """What go build has left the file out for, without a word of it, or that there is no `Run`."""
    header = source[: found.end()] if (found := _PACKAGE.match(source)) else ""
    if (constraint := _CONSTRAINT.search(header)) is not None:
        line = source.count("\n", 0, constraint.start()) + 1
        return f"{FILE}:{line}: this host doesn't satisfy the constraint {constraint[0].strip()}"
    if (cgo := _CGO.search(source)) is not None:
        line = source.count("\n", 0, cgo.end()) + 1
        return f'{FILE}:{line}: import "C": C code can\'t be used'
    return f"{FILE}: there is no func Run(engine *Engine); a program of its own is package main"
