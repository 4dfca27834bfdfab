"""The one frame that the server sends: what to run, with which request, within which limits."""

from typing import Any, NamedTuple


class Job(NamedTuple):
    """`limits` has the keys of the contract's `extra.limits`; the other two bounds are in bytes."""

    source: str
    method: str
    path: str
    params: list[tuple[str, str]]
    headers: list[tuple[str, str]]
    body: bytes
    limits: dict[str, Any]
    max_log_bytes: int
    max_result_bytes: int

    @classmethod
    def from_frame(cls, header: dict[str, Any], blob: bytearray) -> "Job":
        size = header["source_bytes"]
        return cls(
            # An editor's byte-order mark is no part of a program, but the compiler takes it for one.
            source=blob[:size].decode("utf-8", "replace").removeprefix("\ufeff"),
            method=header["method"],
            path=header["path"],
            params=header["params"],
            headers=header["headers"],
            body=bytes(memoryview(blob)[size:]),
            limits=header["limits"],
            max_log_bytes=header["max_log_bytes"],
            max_result_bytes=header["max_result_bytes"],
        )
