"""A second reading of the filters: runs one as linux/filter.h says, so that a verdict of another machine can be seen too."""

import struct
from collections.abc import Sequence

_INSTRUCTION = struct.Struct("=HBBI")
_CALL = struct.Struct("=iIQ6Q")  # struct seccomp_data: number, architecture, instruction pointer, arguments
MOST_INSTRUCTIONS = 4096
SIGNED = 1 << 32


def verdict(program: bytes, number: int, audit: int, arguments: Sequence[int] = ()) -> int:
    """What the filter returns for a call. Falls over anything that the kernel would not take."""
    filled = [argument % (1 << 64) for argument in (*arguments, *[0] * 6)[:6]]
    call = _CALL.pack(number if number < 1 << 31 else number - SIGNED, audit, 0, *filled)
    instructions = list(_INSTRUCTION.iter_unpack(program))
    assert len(instructions) <= MOST_INSTRUCTIONS
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        match code:
            case 0x20:
                accumulator = struct.unpack_from("=I", call, k)[0]
            case 0x54:
                accumulator &= k
            case 0x05:
                at += k
            case 0x15:
                at += if_true if accumulator == k else if_false
            case 0x35:
                at += if_true if accumulator >= k else if_false
            case 0x06:
                return int(k)
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")
