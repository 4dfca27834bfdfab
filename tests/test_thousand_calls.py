"""The proof with fewer calls; `python -m tests.prove` makes it with a thousand."""

from tests.prove.calls import prove

CALLS = 100
FLAT_KIB = 16 * 1024


def test_each_call_gets_its_own_answer_and_nothing_is_left() -> None:
    figures = prove(CALLS)
    assert (figures.wrong, figures.completed, figures.logs) == (0, CALLS, 3 * CALLS)
    assert (figures.processes_left, figures.files_left) == (0, [])
    for before, after in (figures.server_kib, figures.launcher_kib):
        assert after - before < FLAT_KIB
    assert figures.descriptors[1] <= figures.descriptors[0] + 16
    assert figures.processes[1] <= figures.processes[0] + 4
