"""The system call filters of a sandbox: programs of classic BPF, made once in the zygote, put on in each worker and guard.

THEORY OF OPERATION

A filter is a list of 8-byte instructions (`struct sock_filter`, linux/filter.h) that the kernel runs over a 64-byte description
of each call (`struct seccomp_data`, linux/seccomp.h): number, architecture, arguments. Ours has three parts:

    the architecture isn't ours, or the number is one of x32's      → the process is killed
    a balanced tree over ranges of numbers with the same verdict    → allowed, an errno, or on to
    the tests of a call's arguments                                 → an errno or a notice, else allowed

The numbers of another architecture mean other calls: they could only be a way around this list. Since Linux 5.11 the kernel
finds out by itself, when a filter is put on, which numbers are always allowed, and doesn't run it for them. It does so by
running it once for every number: that is why it is a tree.

Once on, a filter can't be taken off, is inherited by every child and survives exec. It needs no_new_privs.
"""

import os
import struct
from typing import NamedTuple

from appliance.runner.sandbox import seccomp_rules, syscall_numbers, syscalls
from appliance.runner.sandbox.seccomp_rules import TELL, Answer, Rules, Test

NO_SYSTEM_CALL = 38  # ENOSYS: the answer to what the rules don't name

_LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_INSTRUCTION = struct.Struct("=HBBI")
_AT_NUMBER, _AT_ARCHITECTURE, _AT_ARGUMENTS = 0, 4, 16
_WHOLE_WORD = 0xFFFFFFFF

ALLOW = 0x7FFF0000  # SECCOMP_RET_…
KILL_PROCESS = 0x80000000
ERRNO = 0x00050000
NOTIFY = 0x7FC00000

NOTICE_BYTES, REPLY_BYTES = 80, 24  # struct seccomp_notif, struct seccomp_notif_resp


class Machine(NamedTuple):
    """`audit`: AUDIT_ARCH_… of linux/audit.h. From `foreign_from` on, numbers are those of another calling convention."""

    audit: int
    numbers: dict[str, int]
    foreign_from: int | None


MACHINES = {
    "x86_64": Machine(0xC000003E, syscall_numbers.X86_64, foreign_from=0x40000000),
    "aarch64": Machine(0xC00000B7, syscall_numbers.ARM64, foreign_from=None),
}


class _Step(NamedTuple):
    """An instruction; `to` is the call whose tests of arguments a jump goes to: they are placed later."""

    code: int
    k: int = 0
    if_true: int = 0
    if_false: int = 0
    to: str = ""


class _Range(NamedTuple):
    """The verdict from a number on, up to the next range."""

    first: int
    verdict: _Step


def program(rules: Rules, machine: Machine) -> bytes:
    """Pure: the filter as the kernel takes it."""
    steps = [_Step(_LOAD_WORD, _AT_ARCHITECTURE), *_or_kill(_Step(_IF_EQUAL, machine.audit, 1, 0)), _Step(_LOAD_WORD, _AT_NUMBER)]
    if machine.foreign_from is not None:
        steps += _or_kill(_Step(_IF_AT_LEAST, machine.foreign_from, 0, 1))
    steps += _tree(_ranges(rules, machine.numbers))
    places = {}
    for name in sorted(rules.by_argument.keys() & machine.numbers.keys()):
        places[name] = len(steps)
        steps += _tests(rules.by_argument[name])
    return b"".join(
        _INSTRUCTION.pack(step.code, step.if_true, step.if_false, places[step.to] - here - 1 if step.to else step.k)
        for here, step in enumerate(steps)
    )


def _or_kill(test: _Step) -> list[_Step]:
    return [test, _return(KILL_PROCESS)]


def _return(verdict: int) -> _Step:
    return _Step(_RETURN, verdict)


def _ranges(rules: Rules, numbers: dict[str, int]) -> list[_Range]:
    verdicts = {numbers[name]: _return(ALLOW) for name in rules.allowed & numbers.keys()}
    verdicts |= {numbers[name]: _return(ERRNO | value) for name, value in rules.answered.items() if name in numbers}
    verdicts |= {numbers[name]: _Step(_JUMP, to=name) for name in rules.by_argument if name in numbers}
    unknown = _return(ERRNO | NO_SYSTEM_CALL)
    found: list[_Range] = []
    for number in range(max(verdicts) + 2):
        verdict = verdicts.get(number, unknown)
        if not found or found[-1].verdict != verdict:
            found.append(_Range(number, verdict))
    return found


def _tree(ranges: list[_Range]) -> list[_Step]:
    if len(ranges) == 1:
        return [ranges[0].verdict]
    middle = len(ranges) // 2
    below, above = _tree(ranges[:middle]), _tree(ranges[middle:])
    return [_Step(_IF_AT_LEAST, ranges[middle].first, if_true=len(below)), *below, *above]


def _tests(answers: tuple[Answer, ...]) -> list[_Step]:
    return [step for answer in answers for step in _answer(answer)] + [_return(ALLOW)]


def _answer(answer: Answer) -> list[_Step]:
    """Ends in the answer, or goes on behind it."""
    steps = [_return(NOTIFY if answer.answer == TELL else ERRNO | answer.answer)]
    for test in reversed(answer.tests):
        past = len(steps)
        steps = _test(test, *((0, past) if answer.outcome else (past, 0))) + steps
    return steps


def _test(test: Test, if_among: int, if_not: int) -> list[_Step]:
    """Jumps as many steps past its own end."""
    load = [_Step(_LOAD_WORD, _AT_ARGUMENTS + 8 * test.argument)]  # little-endian: the lower half comes first
    if test.mask != _WHOLE_WORD:
        load.append(_Step(_AND, test.mask))
    left = len(test.values) - 1
    comparisons = [_Step(_IF_EQUAL, value, if_among + left - index, 0) for index, value in enumerate(test.values)]
    comparisons[-1] = comparisons[-1]._replace(if_false=if_not)
    return load + comparisons


class Filter:
    """A program in the memory of this process, ready to be put on by it and by those forked from it."""

    def __init__(self, rules: Rules) -> None:
        content = program(rules, MACHINES[os.uname().machine])
        self.tells = any(answer.answer == TELL for answers in rules.by_argument.values() for answer in answers)
        self._head = syscalls.FilterHead.of(content, len(content) // _INSTRUCTION.size)

    def putting_on(self) -> syscalls.Call:
        """For good, for this thread and all that it starts. The result is the listener's descriptor, for rules that TELL; 0 for
        others. It fails where the kernel has no filters.
        """
        return (syscalls.putting_on_listened_filter if self.tells else syscalls.putting_on_filter)(self._head)


class Filters(NamedTuple):
    worker: Filter
    guard: Filter


def build(own_uids: bool, leaves: bool) -> Filters:
    return Filters(Filter(seccomp_rules.for_worker(own_uids, leaves)), Filter(seccomp_rules.for_guard()))
