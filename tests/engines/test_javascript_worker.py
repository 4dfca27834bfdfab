"""The JavaScript worker's side of the job channel: what isn't visible in an answer."""

import pytest

from tests.cases import ROOT, CaseLimits
from tests.engines.conftest import Worker

MIB = 1 << 20


def test_a_worker_that_gets_no_job_ends_without_a_word(javascript: Worker) -> None:
    ran = javascript.send(b"")
    assert (ran.frames, ran.stdout, ran.stderr, ran.exit_status) == ([], b"", b"", 0)


def test_a_worker_whose_job_is_cut_short_fails_without_a_word(javascript: Worker) -> None:
    ran = javascript.send(b"\0\0\0\x10\0\0\0\0{")
    assert (ran.frames, ran.stdout, ran.stderr, ran.exit_status) == ([], b"", b"", 1)


def test_logs_past_the_limit_are_dropped_and_counted(javascript: Worker) -> None:
    source = "function Run(engine) {\n  for (const n of [40, 50, 20, 1]) engine.log.info('x'.repeat(n));\n}\n"
    ran = javascript.run(source, max_log_bytes=100)
    assert [len(content) for _level, content in ran.logs] == [40, 50]
    assert ran.last == {"type": "done", "dropped": 2}


def test_a_failed_run_tells_of_dropped_logs_too(javascript: Worker) -> None:
    source = "function Run(engine) {\n  engine.log.info('x'.repeat(101));\n  throw new Error('no');\n}\n"
    ran = javascript.run(source, max_log_bytes=100)
    assert ran.logs == []
    assert ran.last == {"type": "failed", "kind": "error", "message": "Error: no (line 3)", "dropped": 2}


def test_a_plain_program_is_announced_before_it_runs(javascript: Worker) -> None:
    ran = javascript.run("process.kill(process.pid, 'SIGKILL');\n")
    assert [header["type"] for header, _blob in ran.frames] == ["plain"]


def test_a_child_program_inherits_only_its_streams(javascript: Worker) -> None:
    source = "const { execFileSync } = require('child_process');\nfunction Run(engine) {\n"
    source += "  engine.result.set(execFileSync('/bin/sh', ['-c', 'echo /proc/self/fd/*'], { encoding: 'utf8' }));\n}\n"
    found = {path.rpartition("/")[2] for path in javascript.run(source).result[1].decode().split()}
    assert found <= {"0", "1", "2", "3"}  # the shell's own for the listing is 3


def test_what_a_child_program_writes_goes_to_the_pipes(javascript: Worker) -> None:
    source = "const { spawnSync } = require('child_process');\nfunction Run(engine) {\n"
    source += "  spawnSync('/bin/sh', ['-c', 'echo out; echo error >&2'], { stdio: 'inherit' });\n}\n"
    ran = javascript.run(source)
    assert (ran.stdout, ran.stderr, ran.logs) == (b"out\n", b"error\n", [])


@pytest.mark.parametrize("mib", [96, 128, 256, 512])
def test_a_full_heap_is_said_to_be_out_of_memory_in_each_class(javascript: Worker, mib: int) -> None:
    source = "function Run(engine) {\n  const kept = [];\n  for (;;) kept.push(new Array(1000).fill(kept.length));\n}\n"
    assert javascript.run(source, limits=CaseLimits(memory_bytes=mib * MIB)).outcome == "out_of_memory"


def test_two_runs_draw_different_random_numbers(javascript: Worker) -> None:
    source = "function Run(engine) {\n  engine.result.set([Math.random(), require('node:crypto').randomUUID()]);\n}\n"
    assert javascript.run(source).result[1] != javascript.run(source).result[1]


def test_the_engine_needs_nothing_but_node_and_itself() -> None:
    for path in (ROOT / "engines" / "javascript").glob("*.js"):
        for line in path.read_text().splitlines():
            if "= require(" in line and "(specifier)" not in line:  # that one is the action's own
                assert "require('node:" in line or "require('./" in line, f"{path}: {line}"
