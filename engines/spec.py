"""What a language is to the rest of the program: a value `LANGUAGE` in engines/<language>/language.py, and a module or two that
its zygotes import in the sandbox. engines/README.md tells it as a whole.
"""

import os
import re
import signal
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, NoReturn

TOOLCHAIN_CACHE = "/opt/cache"  # where a build finds, read-only, what `warming` has made

# How many times what is to be warm is done in a zygote: a function is specialised after eight calls, each of its instructions
# a few executions later (PEP 659).
OFTEN = 40

LEAVING, LEAVING_MASK = 0x5EED0000, 0xFFFF0000  # a mark beside the exit status, which has the lowest eight bits

_SIGNALS = tuple(map(int, signal.valid_signals()))  # plain numbers: the others are objects all over the memory

Confine = Callable[[Mapping[str, Any]], None]


def leave(status: int) -> NoReturn:
    """Ends the worker, from any thread of it: 0 completed, 1 failed. The appliance knows of this end before the kernel has given
    the process's memory back; an end without the mark is as good, and a millisecond or two later.
    """
    # A signal that is handled meanwhile would break off the wait for the appliance.
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    finally:  # a handler of the author's, which is called in there, may raise
        os._exit(LEAVING | status)


class Lacking(Exception):
    """This host can't run the language; the message says why, and what to install or to set."""


class Found(NamedTuple):
    """What the host has for a language: pairs of a path on the host and its place in the sandbox's root, beyond /usr, and the
    program's path in there ("" for a language that needs none)."""

    mounts: tuple[tuple[str, str], ...] = ()
    program: str = ""


class Program(NamedTuple):
    """What comes with a claim, or ahead of it, for a language that is compiled: the descriptor (close-on-exec) of the program, or
    of the file that a build is to fill, and the limits of the run. The job comes when the run begins: nothing of the author's is
    to be executed before."""

    descriptor: int
    limits: Mapping[str, Any]


class Place(NamedTuple):
    """What a worker has: the descriptors of the job and of the answers, the size class that it was parked for, and two functions.

    `confine` is to be called with the job's limits (keys of the contract's `extra.limits`) before anything of the author's is
    executed; it limits the process that calls it, and does nothing in a scope (`in_scope`), which is limited from outside.
    `program` waits for what was compiled, for a language that is; it raises EOFError when the sandbox is retired.
    `rehearses`: whether there is time for a dry run before the job comes; not where a call waits, or soon will.
    """

    job: int
    answers: int
    room: int
    confine: Confine
    program: Callable[[], Program]
    in_scope: bool = False
    rehearses: bool = True


class Stage(NamedTuple):
    """One kind of sandbox of a language.

    `preload` is the module that its zygote imports, in the sandbox's root: `prepare(program) -> str` returns the version, and
    raises `Lacking` for one that is too old; `work(place) -> int` executes one job in a process forked for it, and returns its
    exit status. `find` is given the host's program.
    """

    preload: str
    find: Callable[[str], Found] = lambda program: Found()


def any_room(memory_bytes: int) -> int:
    """For a language whose parked sandboxes serve every limit of memory."""
    return 0


def wants_nothing(source: str) -> bool:
    return False


class LanguageSpec(NamedTuple):
    """`program` is what it needs of the host, by name: it is looked for on PATH, and the setting of that name says another.

    `install` says what to install when there is none. `least_memory_bytes` and `least_tasks` are what a run can't do without.
    `out_of_memory` is a regular expression for what its runtime writes to standard error before it aborts for lack of memory.
    `room` is the size class of a sandbox for so much memory. `more` does what `run` does, and sooner for the sources that
    `wants_more` says: it has loaded more, takes more memory, and is there only when such were called lately. `build` compiles a
    source; its program then comes with each claim. `warming` are sources of ours for it: what comes of each is an archive of what
    the toolchain's cache lacks.
    """

    label: str
    suffixes: tuple[str, ...]
    least_memory_bytes: int
    least_tasks: int
    run: Stage
    more: Stage | None = None
    wants_more: Callable[[str], bool] = wants_nothing
    program: str | None = None
    install: str = ""
    out_of_memory: str = ""
    room: Callable[[int], int] = any_room
    build: Stage | None = None
    warming: tuple[str, ...] = ()

    def died_of_memory(self, last_words: bytes) -> bool:
        """Whether a run that ended without its engine's word, and wrote this to standard error at last, ran out of memory."""
        return bool(self.out_of_memory) and re.search(self.out_of_memory.encode(), last_words) is not None
