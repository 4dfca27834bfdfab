"""What makes a sandbox of a process, prepared in the zygote: the system calls of its guard and of its worker, in their order (see
`steps`), and where each descriptor is to be found.
"""

import functools
import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from appliance.runner.sandbox import records, syscalls
from appliance.runner.sandbox.leaving import Leaving, files_from, handing_over, opening_files
from appliance.runner.sandbox.steps import Step, steps
from appliance.runner.sandbox.walls import Walls
from appliance.runner.sandbox.watch import Watch
from engines.spec import Place

Work = Callable[[Place], int]
"""Executes one job; returns the worker's exit status."""

STATUS, JOB, ANSWERS, STDOUT, STDERR, PROGRAM = range(3, 9)
_GUARD, WORKER = 1, 2  # their pids in a new namespace
NOBODY_INSIDE = 1000  # the uid that a sandbox sees where the maker isn't root
_PLANS = 32  # 6 KiB each
_ASIDE = 100  # above all that a zygote ever has open
_TMP = "mode=1777,size=64m,nr_inodes=16384"
_PLAIN = syscalls.MS_NOSUID | syscalls.MS_NODEV


class Identity(NamedTuple):
    """The worker's and the guard's uid; None when the maker isn't root, and a user namespace stands for them."""

    worker: int
    guard: int


class Channels(NamedTuple):
    """`fds`: the near ends of status, job, answers, stdout, stderr, in this order, and for a compiled language that of the
    socket which its program comes through. `network`: the namespace to join; without one, `with_network` says whether the host's
    network stays or an empty one is made."""

    fds: tuple[int, ...]
    network: int | None
    with_network: bool


class Plan(NamedTuple):
    """What is done to make a sandbox, in this order: by its guard before and after go, and after the fork; by the worker.
    `zygotes_proc` is the descriptor of a /proc with sysctls, where the maker isn't root;
    `work` executes the job."""

    before_go: list[Step]
    after_go: list[Step]
    zygotes_proc: int | None
    fork: list[Step]
    guard: list[Step]
    watch: Watch
    worker: list[Step]
    work: Work
    place: Place


@functools.lru_cache(_PLANS)
def plan_sandbox(channels: Channels, identity: Identity | None, walls: Walls, work: Work, place: Place) -> Plan:
    """In the zygote: what is prepared here both processes have in their memory from the beginning. Slots and the numbers of
    descriptors come again, and so do plans: the zygote itself never carries one out. They share what isn't a slot's own,
    since the memory they take is a run's as well."""
    free = STATUS + len(channels.fds)  # the lowest descriptor that is, once the channels are in their places
    ours, workers = free, free + 1
    files = files_from(workers)  # the guard has closed that end by then
    return Plan(
        before_go=[*_descriptor_steps(channels), *_namespace_steps(channels, free), *_mount_steps(identity, free)],
        after_go=_cgroup_steps(),
        zygotes_proc=None if identity else free,
        fork=_pair_steps(),
        guard=[*_files_steps(workers), *_drop_steps(identity.guard if identity else None), *_guard_steps(walls, workers)],
        watch=Watch(STATUS, files.behind, WORKER, Leaving(ours, WORKER, files)),
        worker=[*_worker_steps(identity, ours), *_last_steps(walls, workers)],
        work=work,
        place=place,
    )


@functools.lru_cache(_PLANS)
def _descriptor_steps(channels: Channels) -> list[Step]:
    """Puts the channels from 3 on, behind them the network to join, /dev/null at 0 to 2, and closes all else."""
    fds = channels.fds if channels.network is None else (*channels.fds, channels.network)
    calls = [syscalls.copying(fd, _ASIDE + index) for index, fd in enumerate(fds)]  # out of the way of the places they go to
    calls += [syscalls.copying(_ASIDE + index, STATUS + index, os.O_CLOEXEC) for index in range(len(fds))]
    calls += [syscalls.copying(0, 1), syscalls.copying(0, 2)]  # a zygote's standard input is /dev/null already
    return steps("descriptors", [*calls, syscalls.closing_range(STATUS + len(fds))])


@functools.lru_cache(_PLANS)
def _namespace_steps(channels: Channels, network: int) -> list[Step]:
    joining = [] if channels.network is None else [syscalls.joining(network, syscalls.CLONE_NEWNET), syscalls.closing(network)]
    flags = syscalls.CLONE_NEWNS | syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS
    if not channels.with_network:
        flags |= syscalls.CLONE_NEWNET
    making = [syscalls.unsharing(flags), syscalls.naming_the_host(b"action")]
    return steps("network", joining) + steps("namespaces", making)


def _mount_steps(identity: Identity | None, free: int) -> list[Step]:
    uid = identity.worker if identity else NOBODY_INSIDE
    passwd, group = f"action:x:{uid}:{uid}::/tmp:/bin/sh\n", f"action:x:{uid}:\n"
    files = [*_writing("/run/passwd", passwd, free), *_writing("/run/group", group, free)]
    return [*_tmpfs_steps(), *steps("mounts", files), *_proc_steps(own_uids=identity is not None)]


@functools.cache
def _tmpfs_steps() -> list[Step]:
    calls = [
        syscalls.mounting("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE),
        syscalls.mounting("tmpfs", "/tmp", "tmpfs", _PLAIN, _TMP),
        syscalls.mounting("tmpfs", "/dev/shm", "tmpfs", _PLAIN, _TMP),
        syscalls.mounting("tmpfs", "/run", "tmpfs", _PLAIN | syscalls.MS_NOEXEC, "mode=755,size=16k,nr_inodes=8"),
    ]
    return steps("mounts", calls)


@functools.cache
def _proc_steps(*, own_uids: bool) -> list[Step]:
    remount = syscalls.MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY | _PLAIN | syscalls.MS_NOEXEC
    # With one uid for both, the guard's files in /proc would be the worker's own: oom_score_adj, for one, can be written by it.
    processes = "subset=pid" if own_uids else "subset=pid,hidepid=invisible"
    calls = [
        syscalls.mounting("none", "/run", None, remount),
        *([] if own_uids else [syscalls.opening("/proc", os.O_PATH | os.O_CLOEXEC)]),  # `zygotes_proc`
        syscalls.mounting("proc", "/proc", "proc", _PLAIN | syscalls.MS_NOEXEC, processes),
        # While a part of this /proc is covered, none may mount a whole one in a user namespace of his own (mount_too_revealing).
        syscalls.mounting("/run", "/proc/1/fdinfo", None, syscalls.MS_BIND),
    ]
    return steps("mounts", calls)


@functools.cache
def _cgroup_steps() -> list[Step]:
    """Made before it is in its scope, the namespace would show the way out."""
    return steps("cgroup namespace", [syscalls.unsharing(syscalls.CLONE_NEWCGROUP)])


@functools.cache
def _pair_steps() -> list[Step]:
    return steps("fork", [syscalls.pairing_sockets()])


def _writing(path: str, text: str, free: int) -> list[syscalls.Call]:
    """`free` is the lowest free descriptor, which the file gets."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    return [syscalls.opening(path, flags), syscalls.writing(free, text.encode()), syscalls.closing(free)]


def _drop_steps(uid: int | None) -> list[Step]:
    """Gives up every privilege, for good; `uid` None: the only one there is stays. `confine_descendants` has done the rest."""
    return [*(steps("identity", syscalls.becoming(uid)) if uid is not None else []), *_capability_steps()]


@functools.cache
def _capability_steps() -> list[Step]:
    return steps("identity", syscalls.dropping_capabilities())


@functools.lru_cache(_PLANS)
def _files_steps(workers: int) -> list[Step]:
    """The guard's first: `workers` is the worker's end of the pair, and where what it opens begins."""
    opening = opening_files(_GUARD, WORKER)
    return steps("watch", [syscalls.closing(workers), *opening, *syscalls.holding_signals({signal.SIGCHLD})])


@functools.lru_cache(_PLANS)
def _guard_steps(walls: Walls, workers: int) -> list[Step]:
    # Where worker and guard have one uid: no /proc/1/mem, no ptrace.
    alone = [syscalls.setting_dumpable(False), syscalls.closing_range(JOB, workers - 2)]
    parked = syscalls.writing(STATUS, records.pack(records.PARKED))
    return [*steps("identity", alone), *walls.confining_guard(), *steps("watch", [parked])]


def _worker_steps(identity: Identity | None, guards: int) -> list[Step]:
    """`STATUS` is the guard's alone, and so the lowest free descriptor from the first of them on."""
    return [*_alone_steps(guards), *_drop_steps(identity.worker if identity else None), *_home_steps()]


@functools.lru_cache(_PLANS)
def _alone_steps(guards: int) -> list[Step]:
    calls = [
        syscalls.closing(STATUS),
        syscalls.closing(guards),
        syscalls.leading_a_session(),  # a process group reaches across pid namespaces: kill(0) would hit the makers
        syscalls.copying(STDOUT, 1),
        syscalls.copying(STDERR, 2),
        syscalls.closing_range(STDOUT, STDERR),
    ]
    # A preference, no protection: under memory pressure of the host it is the action that dies.
    preference = _writing("/proc/self/oom_score_adj", "1000", STATUS)
    return [*steps("worker", calls), *steps("worker", preference, may_fail=True)]


@functools.cache
def _home_steps() -> list[Step]:
    calls = [
        syscalls.setting_dumpable(True),  # else its own /proc/self belongs to root; it holds nothing that isn't the tenant's
        syscalls.changing_folder("/tmp"),
        syscalls.setting_umask(0o022),
    ]
    return steps("worker", calls)


@functools.lru_cache(_PLANS)
def _last_steps(walls: Walls, channel: int) -> list[Step]:
    handing = handing_over(channel, listener=STATUS) if walls.worker.tells else [syscalls.closing(channel)]
    return [*walls.confining_worker(STATUS), *steps("leaving", handing)]
