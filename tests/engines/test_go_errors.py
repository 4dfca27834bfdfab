"""What a Go program writes to standard error, as its parent passes it on: lines that only look like the runtime's last words."""

import signal
import time

import pytest

from engines.go.crash import explain, signal_of, start_of
from engines.go.run import _Errors

TRACE = "goroutine 1 [running]:\nmain.main()\n\t/action.go:5 +0x18\n"
CRASHED = 2 << 8  # a wait status


@pytest.fixture
def errors() -> _Errors:
    return _Errors()


def test_a_line_that_is_no_crash_is_passed_on_while_the_program_lives(errors: _Errors, capfd: pytest.CaptureFixture[str]) -> None:
    errors.take(b"before\npanic: recovered\nafter\n")
    assert capfd.readouterr().err == "before\n"
    patience_ms = errors.patience_ms()
    assert patience_ms is not None
    time.sleep(patience_ms / 1000)
    errors.let_go()
    assert capfd.readouterr().err == "panic: recovered\nafter\n"
    assert errors.patience_ms() is None


def test_much_that_follows_a_logged_stack_is_kept(errors: _Errors, capfd: pytest.CaptureFixture[str]) -> None:
    errors.take(f"panic: recovered\n\n{TRACE}".encode())
    for _ in range(40):
        errors.take(b"after\n" * 2000)
    errors.pass_on()
    assert capfd.readouterr().err.count("after\n") == 80_000


def test_of_a_traceback_without_end_the_rest_is_cut(errors: _Errors, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(40):
        errors.take(f"fatal error: deadlock\n\n{TRACE * 200}".encode())
    errors.pass_on()
    assert len(capfd.readouterr().err) == 256 << 10


def test_a_crash_that_was_passed_on_too_early_is_one_all_the_same(errors: _Errors) -> None:
    errors.take(b"panic: real\n")
    errors._release()
    errors.take(f"\n{TRACE}".encode())
    assert start_of(errors.words(), CRASHED) == 0


def test_the_last_that_looks_like_a_crash_is_it() -> None:
    words = f"panic: recovered\nafter\nruntime: sp=0\nfatal error: real\n\n{TRACE}".encode()
    assert start_of(words, CRASHED) == words.index(b"runtime: ")


@pytest.mark.parametrize(("words", "status"), [(f"panic: x\n\n{TRACE}", 1 << 8), ("panic: x\nno stack\n", CRASHED)])
def test_another_exit_status_and_words_without_a_stack_are_no_crash(words: str, status: int) -> None:
    assert start_of(words.encode(), status) is None


SEGFAULT = f"SIGSEGV: segmentation violation\nPC=0x46 m=0 sigcode=1\n\n{TRACE}"
OUT_OF_MEMORY = "fatal error: runtime: out of memory\n\nruntime stack:\nruntime.throw({0x49, 0x16})\n"


def test_a_signal_that_ended_it_is_told() -> None:
    assert signal_of(f"logged\n{SEGFAULT}".encode(), CRASHED) == (len("logged\n"), signal.SIGSEGV)
    assert signal_of(f"fatal error: only logged\n{SEGFAULT}".encode(), CRASHED) is not None


def test_a_deadlock_in_the_moment_of_a_signal_is_the_signals() -> None:
    words = f"fatal error: all goroutines are asleep - deadlock!\n\n{TRACE}{SEGFAULT}".encode()
    assert signal_of(words, CRASHED) is not None


def test_a_signal_while_it_died_for_lack_of_memory_is_no_signals() -> None:
    words = (OUT_OF_MEMORY + SEGFAULT).encode()
    assert signal_of(words, CRASHED) is None
    assert start_of(words, CRASHED) == 0
    crash = explain(words.decode(), "", {"memory_bytes": 64 << 20, "tasks": 64})
    assert crash is not None
    assert crash.kind == "out_of_memory"
