"""What a host may lack of the whole cage: what follows from it, and what an operator can do. docs/operating.md has the table."""

from collections.abc import Iterator
from typing import NamedTuple

from appliance.runner.outcome import CGROUP_V2, NETWORK_FILTER, SCOPE, Isolation
from appliance.runner.sandbox.walls import LANDLOCK, NAMESPACES, SECCOMP


class Degree(NamedTuple):
    """`then`: what a run isn't kept from; `remedy`: an instruction to the operator."""

    then: str
    remedy: str


DEGREES = {
    SCOPE: Degree(
        "the CPU limit isn't enforced; the memory limit holds for the private memory of each process of a run, not for what is "
        "shared, nor for all of them together",
        "start it as root on a host that systemd runs",
    ),
    "swap_unlimited": Degree(
        "a run may swap beyond its memory limit",
        "boot with swapaccount=1, or switch swap off",
    ),
    NETWORK_FILTER: Degree(
        "a run with network internet reaches all that this host reaches, its loopback too",
        "start it as root with the packages nftables and iproute2 installed, and until then set NETWORK=none, or run only "
        "actions of people whom you trust that far",
    ),
    "own_uid": Degree(
        "sandboxes have user namespaces, but no uids of their own on the host",
        "start it as root",
    ),
    NAMESPACES: Degree(
        "no action runs",
        "start it as root, or let ordinary users make namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone)",
    ),
    SECCOMP: Degree(
        "no action runs",
        "boot a kernel with system call filters (CONFIG_SECCOMP_FILTER)",
    ),
    CGROUP_V2: Degree(
        "nothing is weaker: version 1 has the same limits",
        "boot with systemd.unified_cgroup_hierarchy=1",
    ),
    LANDLOCK: Degree(
        "nothing is weaker: it is a second wall behind others",
        "boot Linux 6.12 or later with landlock among lsm=",
    ),
}
_UNKNOWN = Degree("", "see Isolation in docs/operating.md")


def degree_of(name: str) -> Degree:
    return DEGREES.get(name, _UNKNOWN)


def remedies(isolation: Isolation) -> Iterator[str]:
    """For each thing that is missing its name, this host's reason where it is known, and what to do about it."""
    for name in isolation.missing:
        reason = isolation.reasons.get(name, "")
        yield f"{name}{f' ({reason})' if reason else ''}: {degree_of(name).remedy}"
