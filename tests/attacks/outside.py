"""Attacks without the cage: the positive control, which shows that a payload does what it claims to.

It runs with all the privilege that there is, but in namespaces made for it: it may end every process that it sees, and fill /tmp.
A file is left open for it to find, and a bystander for it to meet.
"""

import os
import subprocess

from tests.appliance import HANG_GUARD
from tests.attacks.table import payloads

_NAMESPACES = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "--net"]
_PREPARE = """
ulimit -Sn 1900
for place in /tmp /dev/shm; do mount -t tmpfs -o size=1g,nr_inodes=100k none $place; done
mount -t proc proc /proc
cd /tmp
exec 9</etc/passwd
sleep 60 &
exec "$@"
"""


def comes_to(language: str, name: str) -> str:
    """The word that the payload prints."""
    chosen = payloads(language)
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = [*_NAMESPACES, *as_root, "sh", "-c", _PREPARE, "sh", *chosen.command(chosen.PAYLOADS[name])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=HANG_GUARD)
    return done.stdout.strip() or f"{done.returncode}: {done.stderr[-2000:]}"
