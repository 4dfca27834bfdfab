"""What is left of the disk, and what is kept of a run's body and result when that is little."""

import math
import os
import time
from pathlib import Path

import msgspec

KEPT_BYTES = 64 * 1024
MARK = " …[truncated: low disk]"


class Kept(msgspec.Struct, frozen=True):
    """The text to store, and whether it was cut; the caller says so in `extra` as `body_truncated` or `result_truncated`."""

    text: str
    cut: bool


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write on the file system of `path`: without the share reserved for root."""
    about = os.statvfs(path)
    return about.f_bavail * about.f_frsize


def fit_for_disk(text: str, low: bool, is_base64: bool = False) -> Kept:
    """The text as it is stored: at most 64 KiB of UTF-8, the mark included, while the disk is `low`.

    Base64 stays valid base64, of the first bytes: it is cut between groups of four characters and has no mark inside.
    """
    encoded = text.encode(errors="replace") if low else b""
    if len(encoded) <= KEPT_BYTES:
        return Kept(text, cut=False)
    if is_base64:
        return Kept(text[: KEPT_BYTES // 4 * 4], cut=True)
    room = KEPT_BYTES - len(MARK.encode())
    return Kept(encoded[:room].decode(errors="ignore") + MARK, cut=True)


class DiskWatch:
    """Whether the disk of `folder` is low, asked at most once a second."""

    def __init__(self, folder: Path, min_free_bytes: int) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._asked_at = -math.inf
        self._low = False

    def is_low(self) -> bool:
        if time.monotonic() - self._asked_at >= 1:
            self._low = free_bytes(self._folder) < self._min_free_bytes
            self._asked_at = time.monotonic()
        return self._low
