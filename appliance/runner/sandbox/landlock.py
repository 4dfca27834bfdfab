"""Landlock's scopes, where the kernel has them (Linux 6.12): no signal and no abstract unix socket reaches out of the worker.

A second wall behind the pid and network namespaces and the system call filter, which leave nothing of that kind to reach.
Sources: landlock(7), linux/landlock.h.
"""

from typing import NamedTuple

from appliance.runner.sandbox import syscalls

_ABI_WITH_SCOPES = 6
_ABI_WITH_QUIET = 7
_SCOPE_ABSTRACT_UNIX_SOCKET = 1 << 0
_SCOPE_SIGNAL = 1 << 1
_LOG_SAME_EXEC_OFF = 1 << 0  # else a worker could fill the host's audit log with what it is refused


class Scope(NamedTuple):
    """What this kernel can do, found out once."""

    flags: int

    def entering(self, free: int) -> list[syscalls.Call]:
        """For good, for this thread and all that it starts. Needs no_new_privs. `free` is the lowest free descriptor."""
        return [
            syscalls.creating_landlock_ruleset(_SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL),
            syscalls.restricting_by_landlock(free, self.flags),
            syscalls.closing(free),
        ]


def scope() -> Scope | None:
    """None where the kernel has no Landlock, has it switched off, or has one without scopes."""
    abi = syscalls.landlock_abi()
    if abi < _ABI_WITH_SCOPES:
        return None
    return Scope(_LOG_SAME_EXEC_OFF if abi >= _ABI_WITH_QUIET else 0)
