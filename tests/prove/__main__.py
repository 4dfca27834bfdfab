"""What the release must show with counts that are too big for the suite: `make prove`.

`python -m tests.prove [STEP…]` makes only the steps named. Each prints what it found; the exit status is 1 when one of them
isn't as it must be.
"""

import subprocess
import sys
from collections.abc import Callable

from appliance.runner.execution import TIMEOUT_MESSAGE
from tests.appliance import ROOT, leave_the_network
from tests.prove import calls, neighbours, scoped
from tests.systemd.box import Box, booted, why_no_box

CALLS, LEFT, FORKS, ENDS, REPEATS = 1000, 3000, 10_000, 500, 20
BESIDE = 300
P99_MS = 1000
MOST_SLOWER = 2.0


def thousand_calls() -> bool:
    """A thousand calls of all languages, eight at a time: each gets its own answer, and nothing is left of them."""
    found = calls.prove(CALLS)
    print(f"{found.calls} calls, 8 at a time, in {found.seconds:.1f} s: {found.calls / found.seconds:.0f} a second")
    print(f"languages: {', '.join(found.languages)}")
    print(f"answers that weren't the caller's own: {found.wrong}")
    print(f"runs completed: {found.completed}; log entries: {found.logs}")
    print(f"processes left: {found.processes_left}; files left: {found.files_left or 'none'}")
    for name, (before, after) in (("serve", found.server_kib), ("launch", found.launcher_kib)):
        print(f"memory of {name}: {before / 1024:.1f} MiB before, {after / 1024:.1f} MiB after")
    print("(serve grows by about 11 MiB in its first 4000 calls or so; then it stays)")
    print("descriptors of both: {} before, {} after".format(*found.descriptors))
    print("processes with sandboxes: {} before, {} after".format(*found.processes))
    good = (found.wrong, found.completed, found.logs) == (0, CALLS, 3 * CALLS)
    return good and not found.processes_left and not found.files_left


def mixed(box: Box) -> bool:
    """The same with a scope for each run."""
    found = scoped.mixed(box, CALLS)
    print(f"{CALLS} calls in scopes, 8 at a time, of {', '.join(found.languages)}")
    print(f"answers that weren't the caller's own: {found.wrong}; runs completed: {found.completed}; log entries: {found.logs}")
    print(f"processes outside of every scope: {found.strays}; ended by the sweep: {found.orphans:g}")
    return found.is_right(CALLS)


def nothing_left(box: Box) -> bool:
    """No unit, cgroup, mount or process is left of the calls."""
    found = scoped.nothing_left(box, LEFT)
    print(f"{LEFT} calls on a real systemd: {dict(found.statuses)}")
    print(f"left of them: {found.cgroups} cgroups, {found.units} units, {found.mounts} mounts, {found.strays} processes")
    print(f"ended by the sweep: {found.orphans:g}")
    return found.is_nothing and found.statuses == {200: LEFT}


def forks(box: Box) -> bool:
    """Of an action that forks as its first statement, no process was ever outside its scope."""
    found = scoped.forks(box, FORKS)
    print(f"{FORKS} starts that fork at once: {dict(found.statuses)}; tasks in the scope: {dict(found.tasks)}")
    print(f"seen outside a scope: {found.strays}, in {found.looks} looks")
    return found.strays == 0 and found.tasks == {2: FORKS}


def ends(box: Box) -> bool:
    """Runs with ten double-forked children are gone within a second of their time-out, 99 of 100."""
    found = scoped.ends(box, ENDS)
    print(f"{ENDS} time-outs with ten double-forked children each: {dict(found.messages)}; processes left: {found.strays}")
    print(f"from the time-out to nothing left: p99 {found.p99_ms:.0f} ms, at most {max(found.late_ms):.0f} ms")
    return found.p99_ms < P99_MS and found.messages == {TIMEOUT_MESSAGE: ENDS} and found.strays == 0


def beside(box: Box) -> bool:
    """A project's calls take at most twice as long beside another's that burns processor, memory and processes."""
    found = neighbours.neighbours(box, BESIDE)
    print(f"{BESIDE} calls alone: p95 {found.alone_p95_ms:.1f} ms; beside a project that burns: {found.beside_p95_ms:.1f} ms")
    print(f"ratio: {found.ratio:.2f}; ends: {dict(found.statuses)}; of the other's calls: {found.burnt}")
    return found.ratio <= MOST_SLOWER and found.statuses == {200: 2 * BESIDE}


def repeats() -> bool:
    """The tests on a real systemd, again and again."""
    green = 0
    for number in range(1, REPEATS + 1):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/systemd"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        green += done.returncode == 0
        print(f"{number}: {done.stdout.strip().splitlines()[-1]}", flush=True)
    print(f"tests/systemd: {green} of {REPEATS} green")
    return green == REPEATS


def in_a_box(step: Callable[[Box], bool]) -> bool:
    if reason := why_no_box():
        print(f"NOT PROVED on a real systemd: {reason}")
        return False
    with booted() as box:
        return step(box)


STEPS: dict[str, Callable[[], bool]] = {
    "calls": thousand_calls,
    "mixed": lambda: in_a_box(mixed),
    "left": lambda: in_a_box(nothing_left),
    "forks": lambda: in_a_box(forks),
    "ends": lambda: in_a_box(ends),
    "beside": lambda: in_a_box(beside),
    "repeats": repeats,
}


def main(names: list[str]) -> int:
    leave_the_network()
    if unknown := set(names) - set(STEPS):
        print(f"no such step: {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
        return 2
    leave_the_network()
    failed = [name for name in names or STEPS if not STEPS[name]()]
    print(f"not as it must be: {', '.join(failed)}" if failed else "all is as it must be")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
