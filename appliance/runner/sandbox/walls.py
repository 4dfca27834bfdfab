"""What the kernel refuses to a worker and to its guard, for good: made once in the zygote, put on in each sandbox."""

import errno
import os
from typing import NamedTuple

from appliance.runner.sandbox import landlock, seccomp, syscalls
from appliance.runner.sandbox.steps import Step, steps, take

SECCOMP, LANDLOCK, NAMESPACES = "seccomp", "landlock", "namespaces"


class Walls(NamedTuple):
    worker: seccomp.Filter
    guard: seccomp.Filter
    scope: landlock.Scope | None

    def confining_worker(self, free: int) -> list[Step]:
        """The last step of giving up its identity: afterwards neither wall can be raised again. `free` is the lowest free
        descriptor, and then the listener's of its end, where the kernel has that (`leaving`)."""
        scope = [] if self.scope is None else self.scope.entering(free)
        return steps("filter", [*scope, self.worker.putting_on()])

    def confining_guard(self) -> list[Step]:
        return steps("filter", [self.guard.putting_on()])


class Host(NamedTuple):
    """`walls` by whether the sandboxes have uids of their own. `lacking` names what this kernel has not."""

    walls: dict[bool, Walls]
    lacking: tuple[str, ...]


def survey() -> Host:
    """Needs no_new_privs, and CAP_SYS_ADMIN so that the probe proves something."""
    scope = landlock.scope()
    walls = _build(scope, leaves=syscalls.can_listen(seccomp.NOTIFY, seccomp.NOTICE_BYTES, seccomp.REPLY_BYTES))
    if not _all_hold(walls):  # a listener of somebody above us, of a container's manager, is the only one that may be
        walls = _build(scope, leaves=False)
    lacking = [] if _all_hold(walls) else [SECCOMP]
    return Host(walls, (*lacking, *([] if scope else [LANDLOCK])))


def _build(scope: landlock.Scope | None, *, leaves: bool) -> dict[bool, Walls]:
    return {own_uids: Walls(*seccomp.build(own_uids, leaves), scope) for own_uids in (True, False)}


def _all_hold(walls: dict[bool, Walls]) -> bool:
    return all(_holds(one) for one in walls.values())


def _holds(walls: Walls) -> bool:
    """Whether a process that puts them on is refused what it could do before."""
    pid = syscalls.bare_fork()
    if pid == 0:
        refused = False
        try:
            first = 3  # behind standard input and output
            take([*steps("descriptors", [syscalls.closing_range(first)]), *walls.confining_worker(free=first)])
            refused = _is_refused()
        finally:
            os._exit(0 if refused else 1)
    return os.waitpid(pid, 0)[1] == 0


def _is_refused() -> bool:
    try:
        syscalls.unshare(syscalls.CLONE_NEWUTS)
    except OSError as error:
        return error.errno == errno.EPERM
    return False
