"""A thousand calls, eight at a time, and what is left of them: `python -m tests.prove [CALLS]`."""

import sys

from tests.appliance import leave_the_network
from tests.prove.calls import prove


def main() -> int:
    leave_the_network()
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    figures = prove(calls)
    print(f"{figures.calls} calls, 8 at a time, in {figures.seconds:.1f} s: {figures.calls / figures.seconds:.0f} a second")
    print(f"answers that weren't the caller's own: {figures.wrong}")
    print(f"runs completed: {figures.completed}; log entries: {figures.logs}")
    print(f"processes left: {figures.processes_left}; files left: {figures.files_left or 'none'}")
    for name, (before, after) in (("serve", figures.server_kib), ("launch", figures.launcher_kib)):
        print(f"memory of {name}: {before / 1024:.1f} MiB before, {after / 1024:.1f} MiB after")
    print("(serve grows by about 11 MiB in its first 4000 calls or so; then it stays)")
    print("descriptors of both: {} before, {} after".format(*figures.descriptors))
    print("processes with sandboxes: {} before, {} after".format(*figures.processes))
    good = (figures.wrong, figures.completed, figures.logs) == (0, calls, 3 * calls)
    return 0 if good and not figures.processes_left and not figures.files_left else 1


if __name__ == "__main__":
    sys.exit(main())
