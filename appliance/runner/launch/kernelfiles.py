"""The kernel's small text files, in /proc and of cgroups. A run takes some twenty of them: without file objects, which cost more
than the kernel's part. Both functions raise OSError.
"""

import os
from pathlib import Path

_MOST_BYTES = 1 << 16  # at once; the files are smaller, but for a list of very many processes
_WHOLE_BYTES = 1 << 10  # the kernel gives a page and more at once where there is more than that; none of the lines is as long


def read(path: Path | str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = part = os.read(fd, _MOST_BYTES)
        while len(part) > _WHOLE_BYTES:
            part = os.read(fd, _MOST_BYTES)
            text += part
    finally:
        os.close(fd)
    return text.decode()


def write(path: Path | str, text: str) -> None:
    """In one write(2), as these files want it."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
