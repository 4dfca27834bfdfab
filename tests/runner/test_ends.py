"""How runs end: each way has one outcome, one status, and leaves no process."""

import json
import os
import signal
import uuid
from functools import partial
from pathlib import Path

import pytest

from tests.appliance import HANG_GUARD, ROOT, Appliance, alive, at_once, eventually, marked, running, status_of

WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"
TIMEOUT = {"message": "timeout: request context timeout limit exceeded"}


def escaping(mark: str, then: str) -> str:
    """An action that leaves a child in a session of its own, whose parent is gone, and goes on when that child runs."""
    return f"""
import os, subprocess, sys, time
def Run(engine):
    engine.result.set("set before")
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            script = "import os, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); os.write(3, b'x'); time.sleep(60)"
            os.dup2(writer, 3)
            os.execv(sys.executable, [sys.executable, "-c", script, {mark!r}])
        os._exit(0)
    os.read(reader, 1)
    engine.log.info("up")
    {then}
"""


def test_an_endless_loop_is_ended_at_its_timeout_with_all_its_children(appliance: Appliance) -> None:
    mark = f"mark-{uuid.uuid4()}"
    code_id = appliance.create(escaping(mark, "while True: pass"), timeout=5)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    assert marked(mark)
    answer = call.result()
    assert (answer.status, answer.json()) == (408, TIMEOUT)
    eventually(lambda: not marked(mark), 1)
    run = appliance.run_of(answer)
    assert (run["status"], run["extra"]["outcome"], run["extra"]["status_code"]) == ("failed", "timeout", 408)
    assert 5000 <= run["extra"]["usage"]["wall_ms"] < 6500


def cpu_ms_of(appliance: Appliance, statement: str) -> list[float]:
    """Of 60 runs, four at once."""
    if appliance.has_scopes:
        pytest.skip("scopes have a figure of their own: tests/systemd")
    code_id = appliance.create(f"import time\ndef Run(engine):\n    {statement}\n")

    def call_some() -> list[float]:
        return [appliance.run_of(appliance.call(code_id))["extra"]["usage"]["cpu_ms"] for _ in range(15)]

    return [figure for figures in at_once([call_some] * 4) for figure in figures]


def test_a_run_that_does_nothing_costs_something(appliance: Appliance) -> None:
    assert min(cpu_ms_of(appliance, "pass")) > 0.05


def test_a_run_costs_no_less_than_what_it_has_burnt(appliance: Appliance) -> None:
    burn = "ends_at = time.process_time() + 0.02\n    while time.process_time() < ends_at: pass"
    assert min(cpu_ms_of(appliance, burn)) >= 20


REFUSED_THREADS = {
    "that wait": "wait = threading.Event()\n    for _ in range(80): threading.Thread(target=wait.wait, daemon=True).start()",
    "that have ended since": "with ThreadPoolExecutor(80) as pool: list(pool.map(time.sleep, [0.1] * 80))",
}
OUT_OF_MEMORY = "out of memory: the limit is 32 MiB; raise memory or use less"
TOO_MANY = "too many processes or threads: the limit is"


@pytest.mark.parametrize(
    ("memory", "tasks", "outcome", "message"),
    [
        ("32M", 64, "out_of_memory", OUT_OF_MEMORY),
        ("32M", 8, "too_many_processes", f"{TOO_MANY} 8"),
        ("128M", 64, "too_many_processes", f"{TOO_MANY} 64"),
        ("256M", 32, "too_many_processes", f"{TOO_MANY} 32"),
    ],
)
@pytest.mark.parametrize("threads", REFUSED_THREADS)
def test_threads_are_refused_by_the_limit_that_they_reach(
    appliance: Appliance, threads: str, memory: str, tasks: int, outcome: str, message: str
) -> None:
    if appliance.has_scopes:
        pytest.skip("in a scope memory refuses no thread")
    head = "import threading, time\nfrom concurrent.futures import ThreadPoolExecutor\ndef Run(engine):\n    "
    answer = appliance.run(head + REFUSED_THREADS[threads] + "\n", memory=memory, tasks=tasks)
    assert appliance.run_of(answer)["extra"]["outcome"] == outcome
    assert answer.json()["message"].partition(" (line ")[0] == message


def test_a_thread_that_memory_leaves_no_first_step_keeps_nobody_waiting(appliance: Appliance) -> None:
    """Wherever memory comes to its end: what is left beside the last stack is another size each time."""
    if appliance.has_scopes:
        pytest.skip("in a scope memory refuses no thread")
    head = "import threading\ndef Run(engine):\n    kept = b'x' * {}\n    "
    sources = [head.format(size) + REFUSED_THREADS["that wait"] + "\n" for size in range(0, 4_800_000, 30_011)]
    answers = [appliance.run(source, memory="32M", timeout=60) for source in sources]
    assert {appliance.run_of(answer)["extra"]["outcome"] for answer in answers} == {"out_of_memory"}


def test_a_child_that_outlives_run_does_not_outlive_the_run(appliance: Appliance) -> None:
    mark = f"mark-{uuid.uuid4()}"
    answer = appliance.run(escaping(mark, "pass"))
    assert (answer.status, answer.body) == (200, b"set before")
    assert appliance.run_of(answer)["extra"]["usage"]["wall_ms"] < 5000
    eventually(lambda: not marked(mark), 1)


def test_what_was_logged_before_a_kill_is_there(appliance: Appliance) -> None:
    lines = [("info", f"line {number}") for number in range(15)]
    loop = "for n in range(15): engine.log.info(f'line {n}')"
    answer = appliance.run(f"import os\ndef Run(engine):\n    {loop}\n    os.kill(os.getpid(), 9)\n")
    assert appliance.logs_of(answer) == lines


def test_what_was_printed_before_a_kill_is_there(appliance: Appliance) -> None:
    source = "import os\ndef Run(engine):\n    print('one')\n    os.write(1, b'two')\n    os.kill(os.getpid(), 9)\n"
    assert sorted(appliance.logs_of(appliance.run(source))) == [("debug", "one"), ("debug", "two")]


@pytest.mark.parametrize(
    ("statement", "status", "body"),
    [
        ("os._exit(3)", 500, {"message": "the action ended with exit status 3"}),
        ("sys.exit(3)", 500, {"message": "the action exited with status 3"}),
        ("sys.exit('no luck')", 500, {"message": "no luck"}),
        ("os.kill(os.getpid(), 9)", 500, {"message": "the run was killed: SIGKILL"}),
        ("os.kill(os.getpid(), 11)", 500, {"message": "the run was killed: SIGSEGV"}),
        ("os.kill(os.getpid(), 15)", 500, {"message": "the run was killed: SIGTERM"}),
        ("os.kill(os.getpid(), 40)", 500, {"message": "the run was killed: SIGRTMIN+6"}),
        ("os.abort()", 500, {"message": "the run was killed: SIGABRT"}),
        ("os._exit(0)", 200, {"set": "before"}),
        ("sys.exit()", 200, {"set": "before"}),
        ("sys.exit(0)", 200, {"set": "before"}),
        ("os.closerange(0, 1024)", 200, {"set": "before"}),
    ],
)
def test_an_end_by_itself(appliance: Appliance, statement: str, status: int, body: object) -> None:
    answer = appliance.run(f"import os, sys\ndef Run(engine):\n    engine.result.set({{'set': 'before'}})\n    {statement}\n")
    assert (answer.status, answer.json()) == (status, body)
    kind = "completed" if status == 200 else "killed" if "killed" in str(body) else "error"
    assert appliance.run_of(answer)["extra"]["outcome"] == kind


CHANNEL = """
import json, os, stat, struct
def channel():
    return next(fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}") and stat.S_ISFIFO(os.fstat(fd).st_mode))
def write(data):
    view = memoryview(data)
    while view:
        view = view[os.write(channel(), view):]
def send(header, blob=b""):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    write(struct.pack("!II", len(head), len(blob)) + head + blob)
def result(value=b"forged", **fields):
    send({"type": "result", "status_code": 200, "content_type": "text", "headers": []} | fields, value)
"""
NO_FRAME = {"message": "the action wrote to its engine's channel what is no frame"}


def forge(appliance: Appliance, statement: str) -> tuple[int, str, str]:
    """Status, body and outcome of an action that writes to its engine's channel itself."""
    answer = appliance.run(f"{CHANNEL}\ndef Run(engine):\n    {statement}\n", timeout=5)
    assert answer.status == appliance.run_of(answer)["extra"]["status_code"]
    return answer.status, answer.body.decode(), appliance.run_of(answer)["extra"]["outcome"]


@pytest.mark.parametrize(
    "statement",
    [
        'write(b"\\xff" * 100)',
        'write(b"\\0" * 8)',
        'write(struct.pack("!II", 2**32 - 1, 0))',
        'write(struct.pack("!II", 2, 2**32 - 1) + b"{}")',
        'send(b"not JSON")',
        'send(b"\\xff\\xfe")',
        'send(b"[" * 200_000)',
        'send(b\'{"type":"done","more":\' + b"[" * 200_000)',
        'send({"type": "unknown"})',
        'send({"no": "type"})',
        'send({"type": "log", "level": "fatal"}, b"x")',
        'send({"type": "failed", "kind": "nonsense", "message": "x"})',
        "result(status_code=99)",
        "result(status_code=1000)",
        'result(status_code="200")',
        "result(status_code=200.5)",
        'result(content_type="text\\r\\nX-Evil: 1")',
        'result(headers=[["X\\r\\nX-Evil", "1"]])',
        'result(headers=[["X-Fine", "1\\r\\nX-Evil: 1"]])',
        'result(headers=[["X-Run-Id", "forged"]])',
        'result(headers=[["Content-Length", "1"]])',
        'result(headers=[["only a name"]])',
        'result(headers=[["X-Long", "x" * 20_000]])',
    ],
)
def test_a_frame_that_is_none_fails_the_run(appliance: Appliance, statement: str) -> None:
    status, body, outcome = forge(appliance, statement)
    assert (status, json.loads(body), outcome) == (500, NO_FRAME, "error")


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("result()", (200, "forged", "completed")),
        ('result(); engine.result.set("later")', (200, "later", "completed")),
        ('send({"type": "done", "dropped": 0}); engine.result.set("late")', (200, "", "completed")),
        ('result(); send({"type": "done", "dropped": -5}); os._exit(0)', (200, "forged", "completed")),
        ('result(); send({"type": "done", "dropped": 10**30}); os._exit(0)', (200, "forged", "completed")),
        ('result(); send({"type": "plain"})', (200, "forged", "completed")),
        ('send({"type": "plain"}); os.write(1, b"output")', (200, "output", "completed")),
        ('engine.log.info(1); send({"type": "plain"}); os.write(1, b"output")', (200, "", "completed")),
        ('send({"type": "failed", "kind": "error", "message": "mine"})', (500, '{"message":"mine"}', "error")),
        ('send({"type": "failed", "kind": "timeout", "message": "x"}); os._exit(0)', (200, "", "completed")),
        ('send({"type": "failed", "kind": "cancelled", "message": "x"}); os._exit(0)', (200, "", "completed")),
        ('send({"type": "failed", "kind": "could_not_start", "message": "x"}); os._exit(0)', (200, "", "completed")),
        ('send({"type": "done"}); os._exit(1)', (500, '{"message":"the action ended with exit status 1"}', "error")),
        ('write(b"\\0\\0\\0"); os._exit(0)', (500, json.dumps(NO_FRAME, separators=(",", ":")), "error")),
    ],
)
def test_a_forged_frame_is_worth_what_the_action_may_say(
    appliance: Appliance, statement: str, expected: tuple[int, str, str]
) -> None:
    assert forge(appliance, statement) == expected


def test_a_forged_message_is_cut(appliance: Appliance) -> None:
    status, body, _ = forge(appliance, 'send({"type": "failed", "kind": "error", "message": "m" * 100_000})')
    assert (status, len(json.loads(body)["message"])) == (500, 1000)


def test_a_forged_log_entry_is_cut_like_any_other(appliance: Appliance) -> None:
    answer = appliance.run(f'{CHANNEL}\ndef Run(engine):\n    send({{"type": "log", "level": "info"}}, b"\\xff" * 900_000)\n')
    [(kind, content)] = appliance.logs_of(answer)
    assert (kind, len(content), content[-13:]) == ("info", 8000, " …[truncated]")


def test_a_flood_of_what_is_no_frame_ends_at_once(appliance: Appliance) -> None:
    answer = appliance.run(f"{CHANNEL}\ndef Run(engine):\n    while True:\n        write(b'\\xff' * 65536)\n")
    assert (answer.status, answer.json()) == (500, NO_FRAME)
    assert appliance.run_of(answer)["extra"]["usage"]["wall_ms"] < 5000


FLOODS = {
    "stdout": (300, "os.write(1, block)"),
    "stderr": (300, "os.write(2, block)"),
    "print": (20_000, "print('x' * 99)"),
    "empty lines": (300, "os.write(1, b'\\n' * 65536)"),
    "log": (5_000, "engine.log.info('x' * 1000)"),
    "empty entries": (40_000, "engine.log.debug('')"),
    "forged entries": (40_000, "send({'type': 'log', 'level': 'info'})"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_logs_is_cut_off_and_no_failure(appliance: Appliance, flood: str) -> None:
    times, statement = FLOODS[flood]
    source = f"""{CHANNEL}
block = (b"x" * 99 + b"\\n") * 655
def Run(engine):
    for n in range({times}):
        {statement}
    engine.result.set("through")
"""
    resident = int(status_of(appliance.process.pid)["VmRSS"].split()[0])
    code_id = appliance.create(source)
    appliance.call(code_id)
    neighbour = appliance.calling(code_id)
    appliance.until_logged(code_id, 2)
    assert appliance.request("GET", "/healthz").status == 200
    answer = neighbour.result()
    assert (answer.status, answer.body) == (200, b"through")
    kind, last = appliance.logs_of(answer)[-1]
    assert kind == "error"
    assert last.endswith(" log entries were dropped: a run's log is at most 1048576 bytes (MAX_LOG_BYTES)")
    assert int(status_of(appliance.process.pid)["VmRSS"].split()[0]) - resident < 40_000


def test_a_line_without_end_is_one_entry(appliance: Appliance) -> None:
    answer = appliance.run("import os\nfor n in range(300):\n    os.write(2, b'x' * 65536)\n")
    [(kind, content)] = appliance.logs_of(answer)
    assert (kind, len(content), content[-13:]) == ("error", 8000, " …[truncated]")


def test_the_dropped_entries_are_counted(appliance: Appliance) -> None:
    answer = appliance.run("import os\nfor n in range(100_000):\n    os.write(2, b'%d\\n' % n)\n")
    total = appliance.manage("GET", f"/codelog?run_id={answer.headers['x-run-id']}").json()["total"]
    dropped = int(appliance.logs_of(answer)[-1][1].split()[0])
    assert total - 1 + dropped == 100_000


@pytest.mark.parametrize(
    "source",
    [
        "def Run(engine):\n    engine.result.set('x' * (11 << 20))\n",
        "def Run(engine):\n    engine.result.set(bytes(11 << 20))\n",
        "print('x' * (11 << 20))",
        "import sys\nwhile True:\n    sys.stdout.write('x' * 65536)\n",
    ],
)
def test_a_result_over_the_limit_fails_the_run_by_name(appliance: Appliance, source: str) -> None:
    answer = appliance.run(source)
    assert answer.status == 500
    assert "10485760 bytes" in answer.json()["message"]
    assert appliance.run_of(answer)["extra"]["outcome"] == "output_limit"


@pytest.mark.parametrize("statement", ["engine.result.set('x' * (10 << 20))", "pass\nprint('x' * (10 << 20), end='')\ndel Run"])
def test_a_result_at_the_limit_is_answered(appliance: Appliance, statement: str) -> None:
    answer = appliance.run(f"def Run(engine):\n    {statement}\n")
    assert (answer.status, len(answer.body)) == (200, 10 << 20)


def test_a_worker_that_never_reads_its_job_is_ended_at_its_timeout(appliance: Appliance) -> None:
    code_id = appliance.create("print()", timeout=5)
    workers = eventually(lambda: [pid for pid in appliance.sandboxes if status_of(pid)["NSpid"].endswith("\t2")])
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    try:
        answer = appliance.call(code_id, b"x" * (10 << 20))
    finally:
        for pid in alive(workers):
            os.kill(pid, signal.SIGCONT)
    assert (answer.status, answer.json()) == (408, TIMEOUT)


def test_a_body_of_ten_mebibytes_arrives_whole(appliance: Appliance) -> None:
    source = "def Run(engine):\n    engine.result.set(len(engine.request.body_bytes))\n"
    assert appliance.run(source, b"x" * (10 << 20)).body == b"10485760"


def test_a_cancelled_run_ends_and_its_caller_hears_of_it(appliance: Appliance) -> None:
    mark = f"mark-{uuid.uuid4()}"
    code_id = appliance.create(escaping(mark, "time.sleep(60)"))
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    assert run["status"] == "started"
    assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202
    answer = call.result()
    assert (answer.status, answer.json()) == (500, {"message": "the run was cancelled"})
    assert appliance.run_of(answer)["extra"]["outcome"] == "cancelled"
    eventually(lambda: not marked(mark), 1)


def test_a_run_that_has_ended_can_not_be_cancelled(appliance: Appliance) -> None:
    answer = appliance.run("print()")
    refusal = appliance.manage("POST", f"/coderun/{answer.headers['x-run-id']}/cancel")
    assert (refusal.status, refusal.json()) == (409, {"message": "the run has ended"})


def test_a_run_that_is_unknown_can_not_be_cancelled(appliance: Appliance) -> None:
    assert appliance.manage("POST", f"/coderun/{uuid.uuid4()}/cancel").status == 404
    assert appliance.manage("POST", "/coderun/nonsense/cancel").status == 400


def test_who_has_no_token_can_not_cancel(appliance: Appliance) -> None:
    code_id = appliance.create(WAITS)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    assert appliance.request("POST", f"/coderun/{run['id']}/cancel").status == 401
    assert not call.done()
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    call.result()


def test_the_deletion_of_a_code_cancels_its_runs(appliance: Appliance) -> None:
    code_id, other = appliance.create(WAITS), appliance.create("import time\ntime.sleep(0.5)\nprint('unhurt')")
    calls, beside = [appliance.calling(code_id) for _ in range(3)], appliance.calling(other)
    appliance.until_logged(code_id, 3)
    assert appliance.manage("DELETE", f"/code/{code_id}").status == 200
    assert [call.result().json() for call in calls] == [{"message": "the run was cancelled"}] * 3
    assert beside.result().body == b"unhurt\n"
    assert appliance.call(code_id).status == 404


def test_a_cancel_by_everybody_at_once_is_one_cancel(appliance: Appliance) -> None:
    code_id = appliance.create(WAITS)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    path = f"/coderun/{appliance.runs_of(code_id)[0]['id']}/cancel"
    statuses = {answer.status for answer in at_once([partial(appliance.manage, "POST", path)] * 8)}
    assert call.result().status == 500
    assert statuses <= {202, 409}


def test_smaller_bounds_are_the_operators_to_set(tmp_path: Path) -> None:
    with running(tmp_path, max_log_bytes=2000, max_result_bytes=1000) as appliance:
        answer = appliance.run("def Run(engine):\n    for n in range(50):\n        engine.log.info('x' * 100)\n")
        assert "at most 2000 bytes (MAX_LOG_BYTES)" in appliance.logs_of(answer)[-1][1]
        assert appliance.run("print('x' * 1000)").json() == {
            "message": "the result is over the limit of 1000 bytes (MAX_RESULT_BYTES)"
        }


def test_no_end_was_a_defect_of_ours(appliance: Appliance) -> None:
    """Last of this module: nothing above has made the server log an error or a traceback. What its launcher has swept may be what
    runner/test_sweep.py has made meanwhile."""
    lines = [line for line in appliance.logged() if line.get("event") != "orphan swept"]
    errors = [line for line in lines if line.get("level") == "error" or "Traceback" in str(line)]
    assert errors == []
    assert str(ROOT) not in str([line for line in lines if line.get("event") != "ready"])


def test_a_launcher_that_is_stopped_holds_no_caller(tmp_path: Path) -> None:
    """A kill that it doesn't confirm, and a claim that it doesn't answer, have an end; when it goes on, so does all else."""
    with running(tmp_path / "state", worker_pool_size=8) as appliance:
        mark = f"mark-{uuid.uuid4()}"
        code_id = appliance.create(escaping(mark, "time.sleep(60)"))
        waiting = appliance.calling(code_id)
        appliance.until_logged(code_id)
        [run] = appliance.runs_of(code_id)
        os.kill(appliance.launcher, signal.SIGSTOP)
        try:
            claiming = appliance.calling(appliance.create("print('late')"))
            assert appliance.manage("POST", f"/coderun/{run['id']}/cancel").status == 202
            cancelled, refused = waiting.result(HANG_GUARD), claiming.result(HANG_GUARD)
        finally:
            os.kill(appliance.launcher, signal.SIGCONT)
        assert (cancelled.status, cancelled.json()) == (500, {"message": "the run was cancelled"})
        assert (refused.status, appliance.run_of(refused)["extra"]["outcome"]) == (503, "could_not_start")
        assert [line["run_id"] for line in appliance.logged("kill not confirmed")] == [run["id"]]
        assert appliance.run("print('next')").body == b"next\n"
        eventually(lambda: not marked(mark), 1)
