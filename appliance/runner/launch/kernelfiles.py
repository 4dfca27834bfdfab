"""The kernel's small text files, in /proc and of cgroups. A run takes some twenty of them: without file objects, which cost more
than the kernel's part. Both functions raise OSError.
"""

import os
from pathlib import Path

_MOST_BYTES = 1 << 16  # at once; the files are smaller, but for a list of very many processes


def read(path: Path | str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, _MOST_BYTES):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode()


def write(path: Path | str, text: str) -> None:
    """In one write(2), as these files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
