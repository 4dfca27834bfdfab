"""What an attack comes to, inside the cage and outside of it, in whatever language it is written.

A language joins by a module of its own beside this one, with a payload for each name that it can say: a program that tries, and
prints one word. An attempt that is refused prints the name of the errno, one that isn't prints `it worked`, so that the same
program shows both that the cage holds and that the attack is one.
"""

from importlib import import_module
from typing import NamedTuple, Protocol

WORKED = "it worked"
REFUSED_FILE = ("ENOENT", "EROFS", "EACCES", "EPERM")
OUT_OF_MEMORY = "out_of_memory"

MARK = "611.7353"  # seconds, in the command line of the process that `OUTLIVES` leaves behind

LANGUAGES = ("python", "javascript", "go")


class Attack(NamedTuple):
    """`inside`: the words that a run may end with: what its payload printed, or the run's outcome where that isn't `completed`.
    `outside`: what the same payload prints on this host. `needs_root`: an ordinary user's attack comes to nothing anyway.
    `needs_scope`: without one nothing counts what it takes."""

    inside: tuple[str, ...]
    outside: tuple[str, ...] = (WORKED,)
    needs_root: bool = False
    needs_scope: bool = False


class Payloads(Protocol):
    """A language's module. `OUTLIVES` is a program that ends at once and leaves `sleep MARK` behind, which has left its session,
    has no parent, and hears neither SIGTERM nor SIGHUP."""

    PAYLOADS: dict[str, str]
    OUTLIVES: str

    def command(self, source: str) -> list[str]:
        """Runs a payload outside of the cage. It may use nothing below /tmp, which is another one there."""


def payloads(language: str) -> Payloads:
    module: Payloads = import_module(f"tests.attacks.{language}")
    return module


ATTACKS = {
    "a flood of descriptors": Attack(("EMFILE",)),
    "a flood of pipes": Attack(("EMFILE",)),
    "a flood of files": Attack(("ENOSPC",)),
    "a flood of folders": Attack(("ENOSPC",)),
    "a flood of links": Attack(("ENOSPC",)),
    "a flood of processes": Attack(("EAGAIN",)),
    "a flood of zombies": Attack(("EAGAIN",)),
    "a flood of threads": Attack(("EAGAIN",)),
    "a file without end": Attack(("ENOSPC",)),
    "shared memory without end": Attack(("ENOSPC",)),
    "a heap without end": Attack((OUT_OF_MEMORY,)),
    "private pages without end": Attack((OUT_OF_MEMORY, "error")),  # without a scope the mapping itself is refused
    "shared pages without end": Attack((OUT_OF_MEMORY,), needs_scope=True),
    "a file in memory without end": Attack((OUT_OF_MEMORY,), needs_scope=True),
    "a child for each piece of memory": Attack(("a child was killed", OUT_OF_MEMORY), needs_scope=True),
    "a privilege by a setuid program": Attack(("none",), ("it is root",), needs_root=True),
    "the superuser's uid": Attack(("EPERM",), needs_root=True),
    "the superuser's gid": Attack(("EPERM",), needs_root=True),
    "another group": Attack(("EPERM",), needs_root=True),
    "a file given away": Attack(("EPERM",), needs_root=True),
    "a higher limit of descriptors": Attack(("EPERM",)),
    "a character device": Attack(("EPERM",), needs_root=True),
    "a block device": Attack(("EPERM",), needs_root=True),
    "a socket as a file": Attack(("EAFNOSUPPORT",)),
    "an abstract socket": Attack(("EAFNOSUPPORT",)),
    "the system bus": Attack(("EAFNOSUPPORT",), (WORKED, "ENOENT", "ECONNREFUSED")),
    "the socket of Docker": Attack(("EAFNOSUPPORT",), (WORKED, "ENOENT", "ECONNREFUSED")),
    "a cgroup's processes": Attack(("ENOENT",), (WORKED, "EROFS"), needs_root=True),
    "the settings of the kernel": Attack(REFUSED_FILE, (WORKED, "EROFS"), needs_root=True),
    "the symbols of the kernel": Attack(("ENOENT",)),
    "the command line of the kernel": Attack(("ENOENT",)),
    "the keys of the kernel": Attack(("ENOENT",)),
    "the mounts of all": Attack(("ENOENT",)),
    "the devices of the kernel": Attack(("ENOENT",)),
    "the host's passwords": Attack(("ENOENT",), needs_root=True),
    "the host's homes": Attack(("ENOENT",), needs_root=True),
    "the host's state": Attack(("ENOENT",)),
    "a file of the system": Attack(REFUSED_FILE, needs_root=True),
    "a file of its library": Attack(REFUSED_FILE, needs_root=True),
    "a new file beside its library": Attack(REFUSED_FILE, needs_root=True),
    "a process in sight": Attack(("none",), ("another's",)),
    "a kill of everybody": Attack(("ESRCH",)),
    "a stop of everybody": Attack(("ESRCH",)),
    "the memory of pid 1": Attack(("EACCES", "EPERM")),
    "the environment of pid 1": Attack(("EACCES", "EPERM")),
    "the descriptors of pid 1": Attack(("EACCES", "EPERM")),
    "the root of pid 1": Attack(("EACCES", "EPERM")),
    "a signal to pid 1": Attack(("EPERM",)),
    "a descriptor left open": Attack(("none",), ("a file",)),
    "a descriptor left to a child": Attack(("none",), ("a file",)),
}
