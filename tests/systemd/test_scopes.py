"""Runs in scopes of a real systemd: the limits asked for, the kernel's counters, and nothing left."""

import os
import signal
import subprocess
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.appliance import HANG_GUARD, PATIENCE, Response, alive, at_once, cmdline, eventually, status_of, stopped
from tests.golang import has_go
from tests.systemd.box import SLICE, Box, BoxedAppliance, service, service_with_every_language

MIB = 1 << 20
WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"
EATS = "def Run(engine):\n    engine.result.set('begun')\n    kept = [bytearray(b'x') * (1 << 20) for _ in range(900)]\n"
OUT_OF_32_MIB = "out of memory: the limit is 32 MiB; raise memory or use less"
OUT_OF_MEMORY = {"message": "out of memory: the limit is 64 MiB; raise memory or use less"}


def during(appliance: BoxedAppliance, source: str = WAITS, **query: str | int) -> tuple[str, Any]:
    """The scope of a run that is executing and waits, and its limits, by their names in this file."""
    code_id = appliance.create(source, **query)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    scope = appliance.scope_of(run["id"])
    limits = {
        "memory": appliance.limit(scope, "memory", "memory.limit_in_bytes", "memory.max"),
        "reservation": appliance.limit(scope, "memory", "memory.soft_limit_in_bytes", "memory.low"),
        "tasks": appliance.limit(scope, "pids", "pids.max", "pids.max"),
        "cpu": appliance.limit(scope, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0],
        "weight": appliance.limit(scope, "cpu", "cpu.shares", "cpu.weight"),
    }
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    call.result()
    return scope, limits


def processes_of(appliance: BoxedAppliance, scope: str) -> list[int]:
    try:
        text = (appliance.box.cgroup("systemd", f"{SLICE}/{scope}") / "cgroup.procs").read_text()
    except FileNotFoundError:  # an earlier run's, that has gone meanwhile
        return []
    return [int(pid) for pid in text.split()]


def usage_of(appliance: BoxedAppliance, answer: Response) -> Any:
    return appliance.run_of(answer)["extra"]["usage"]


def test_a_run_is_in_a_scope_with_the_default_limits(appliance: BoxedAppliance) -> None:
    _, limits = during(appliance)
    assert (limits["memory"], limits["tasks"], limits["cpu"]) == (str(256 * MIB), "65", "100000")


def test_a_code_has_limits_of_its_own(appliance: BoxedAppliance) -> None:
    _, limits = during(appliance, memory="64M", cpu="50%", tasks=20)
    assert (limits["memory"], limits["tasks"], limits["cpu"]) == (str(64 * MIB), "21", "50000")


def test_a_code_may_have_more_than_the_default(appliance: BoxedAppliance) -> None:
    _, limits = during(appliance, memory="512M", cpu="200%", tasks=100)
    assert (limits["memory"], limits["tasks"], limits["cpu"]) == (str(512 * MIB), "101", "200000")


def test_swap_is_limited_with_memory(appliance: BoxedAppliance) -> None:
    code_id = appliance.create(WAITS, memory="512M")
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    scope = appliance.scope_of(run["id"])
    in_force = appliance.limit(scope, "memory", "memory.memsw.limit_in_bytes", "memory.swap.max")
    assert in_force in (str(512 * MIB), "0")
    assert "swap_unlimited" not in run["extra"]["isolation_missing"]
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    call.result()


def test_the_defaults_are_the_operators(box: Box) -> None:
    settings = {"memory_limit": 100 * MIB, "memory_reservation": 40 * MIB, "cpu_quota": 70_000, "cpu_shares": 2048}
    with service(box, "codeactions-limited", tasks_limit=33, **settings) as appliance:
        _, limits = during(appliance)
        assert limits.pop("weight") in ("2048", "200")  # shares of cgroup v1, a weight of v2
        assert limits == {"memory": str(100 * MIB), "reservation": str(40 * MIB), "tasks": "34", "cpu": "70000"}


RAN = {
    "python": "def Run(engine):\n    engine.result.set('ran')\n",
    "javascript": "exports.Run = (engine) => engine.result.set('ran')\n",
    "go": 'package actions\n\nfunc Run(engine *Engine) { engine.Result.Set("ran") }\n',
}


def test_an_operators_least_is_what_a_language_needs(box: Box) -> None:
    """Also of the sandboxes that wait for their runs."""
    with service_with_every_language(box, "codeactions-tiny", memory_limit="1M", tasks_limit=4) as appliance:
        for language in RAN if has_go() else set(RAN) - {"go"}:
            code_id = appliance.create(RAN[language], language=language)
            answers = [appliance.call(code_id) for _ in range(6)]  # four of the parked, then of those made since
            assert [answer.body for answer in answers] == [b"ran"] * len(answers)


def test_the_unit_says_whose_it_is_and_nothing_of_the_tenants(appliance: BoxedAppliance) -> None:
    code_id = appliance.create(WAITS, name="a secret name")
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    shown = appliance.box.run("systemctl", "show", appliance.scope_of(run["id"]))
    properties = dict(line.partition("=")[::2] for line in shown.splitlines())
    assert properties["Description"] == f"run {run['id']}"
    assert properties["Slice"] == "codeactions-runs.slice"
    assert (properties["KillSignal"], properties["TimeoutStopUSec"]) == ("9", "500ms")
    assert "secret" not in shown
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    call.result()


def test_every_run_says_that_it_had_a_scope(appliance: BoxedAppliance) -> None:
    extra = appliance.run_of(appliance.run("print()"))["extra"]
    assert "scope" not in extra["isolation_missing"]
    assert "scope" not in appliance.request("GET", "/health").json()["system"]["isolation"]["missing"]


def test_health_says_what_systemd_is_used_for(appliance: BoxedAppliance) -> None:
    service = appliance.request("GET", "/health").json()["services"]["systemd"]
    assert (service["status"], service["message"]) == ("healthy", "puts each run into a scope")


def test_a_run_has_a_receipt_from_the_kernel(appliance: BoxedAppliance) -> None:
    source = "def Run(engine):\n    kept = b'x' * (50 << 20)\n    for n in range(2_000_000): pass\n"
    usage = usage_of(appliance, appliance.run(source))
    assert 50 * MIB < usage["memory_peak_bytes"] < 90 * MIB
    assert usage["tasks_peak"] == 1
    assert 10 < usage["cpu_ms"] < 5000 * PATIENCE
    assert "oom_kills" not in usage


def test_cpu_spent_while_parked_is_not_the_runs(appliance: BoxedAppliance) -> None:
    code_id = appliance.create("def Run(engine):\n    pass\n")
    figures = [usage_of(appliance, appliance.call(code_id))["cpu_ms"] for _ in range(20)]
    assert 0 < sorted(figures)[10] < 20 * PATIENCE


def test_children_are_counted(appliance: BoxedAppliance) -> None:
    source = (
        "import subprocess\ndef Run(engine):\n    children = [subprocess.Popen(['sleep', '9']) for _ in range(7)]\n"
        "    [child.kill() for child in children]\n    [child.wait() for child in children]\n"
    )
    assert usage_of(appliance, appliance.run(source))["tasks_peak"] == 8


def test_a_memory_bomb_is_out_of_memory_and_its_neighbours_are_not(appliance: BoxedAppliance) -> None:
    bomb, neighbour = appliance.create(EATS, memory="64M"), appliance.create("import time\ntime.sleep(0.2)\nprint('unhurt')")
    calls = [partial(appliance.call, bomb), partial(appliance.call, neighbour)] * 15
    answers = at_once(calls)
    assert [(answer.status, answer.json()) for answer in answers[::2]] == [(500, OUT_OF_MEMORY)] * 15
    assert [answer.body for answer in answers[1::2]] == [b"unhurt\n"] * 15
    extra = appliance.run_of(answers[0])["extra"]
    assert extra["outcome"] == "out_of_memory"
    assert extra["usage"]["oom_kills"] >= 1
    assert 60 * MIB < extra["usage"]["memory_peak_bytes"] <= 64 * MIB


def test_files_in_memory_count_too(appliance: BoxedAppliance) -> None:
    source = "def Run(engine):\n    for place in ('/tmp', '/dev/shm'):\n        open(f'{place}/x', 'wb').write(bytes(60 << 20))\n"
    assert appliance.run(source, memory="64M").json() == OUT_OF_MEMORY


def test_the_memory_of_all_processes_counts_together(appliance: BoxedAppliance) -> None:
    child = "import sys; kept = b'x' * (25 << 20); print(flush=True); sys.stdin.read()"
    source = (
        "import subprocess, sys\ndef Run(engine):\n    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
        f"    children = [subprocess.Popen([sys.executable, '-c', {child!r}], **pipes) for _ in range(4)]\n"
        "    engine.result.set([len(child.stdout.readline()) for child in children])\n"
    )
    assert appliance.run(source, memory="256M").json() == [1, 1, 1, 1]
    answer = appliance.run(source, memory="64M")
    assert usage_of(appliance, answer)["oom_kills"] >= 1


def test_a_run_of_which_only_a_child_was_killed_has_completed(appliance: BoxedAppliance) -> None:
    child = "kept = b'x' * (200 << 20)"
    source = (
        "import subprocess, sys\ndef Run(engine):\n"
        f"    engine.result.set(str(subprocess.run([sys.executable, '-c', {child!r}]).returncode))\n"
    )
    answer = appliance.run(source, memory="64M")
    assert (answer.status, answer.body) == (200, b"-9")
    assert appliance.run_of(answer)["status"] == "completed"
    assert usage_of(appliance, answer)["oom_kills"] == 1


def test_more_tasks_than_allowed_fail_the_run_by_name(appliance: BoxedAppliance) -> None:
    source = "import os, time\ndef Run(engine):\n    while True:\n        if os.fork() == 0:\n            time.sleep(60)\n"
    answer = appliance.run(source, tasks=20)
    assert (answer.status, answer.json()) == (500, {"message": "too many processes or threads: the limit is 20 (line 4)"})
    assert usage_of(appliance, answer)["tasks_peak"] == 20


def test_a_process_has_no_limit_of_its_own_below_that_of_its_scope(appliance: BoxedAppliance) -> None:
    source = (
        "import resource\ndef Run(engine):\n    kinds = (resource.RLIMIT_DATA, resource.RLIMIT_NPROC)\n"
        "    engine.result.set([resource.getrlimit(kind)[0] for kind in kinds])\n"
    )
    data, processes = appliance.run(source).json()
    assert data == -1
    assert processes == -1 or processes > 1000


def test_it_sees_its_own_cgroup_as_the_root(appliance: BoxedAppliance) -> None:
    lines = appliance.run("print(open('/proc/self/cgroup').read(), end='')").body.decode().splitlines()
    assert {line.split(":")[2] for line in lines} == {"/"}


def test_a_fork_as_the_first_statement_is_in_the_scope(appliance: BoxedAppliance) -> None:
    """The kernel's own count of the scope: a process that was outside would be missing from it."""
    forks = "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        time.sleep(60)\n"
    code_id = appliance.create(f"{forks}def Run(engine):\n    pass\n")
    answers = at_once([partial(appliance.call, code_id)] * 100)
    assert {usage_of(appliance, answer)["tasks_peak"] for answer in answers} == {4}


def test_the_service_itself_holds_no_sandbox(appliance: BoxedAppliance) -> None:
    """Server, launcher, zygotes, and of the network the name server and those that own the host's table."""
    kinds = (b"\0serve\0", b"\0launch\0", b"zygote", b"\0dns\0", b"cat", b"nft")

    def commands() -> list[bytes]:
        """None while a guard waits for its scope: it is in a pid namespace below its zygote's."""
        depths = [len(status_of(pid)["NSpid"].split()) for pid in appliance.processes]
        return [cmdline(pid) for pid in appliance.processes] if max(depths) == min(depths) + 1 else []

    found = eventually(commands)
    assert all(any(kind in command for kind in kinds) for command in found), found
    assert [sum(kind in command for command in found) for kind in (b"\0serve\0", b"\0launch\0", b"\0dns\0")] == [1, 1, 1], found


def test_a_time_out_leaves_nothing(appliance: BoxedAppliance) -> None:
    source = (
        "import os, signal, time\ndef Run(engine):\n    for number in range(10):\n        if os.fork() == 0:\n"
        "            os.setsid()\n            if os.fork():\n                os._exit(0)\n"
        "            signal.signal(signal.SIGTERM, signal.SIG_IGN)\n            time.sleep(60)\n"
        "    engine.log.info('up')\n    time.sleep(60)\n"
    )
    code_id = appliance.create(source, timeout=5)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    scope = appliance.scope_of(appliance.runs_of(code_id)[0]["id"])
    processes = processes_of(appliance, scope)
    assert len(processes) >= 12
    answer = call.result()
    assert answer.status == 408
    eventually(lambda: not alive(processes), 1)
    eventually(lambda: scope not in appliance.box.scopes(), 1)
    assert usage_of(appliance, answer)["tasks_peak"] >= 11


def test_a_run_that_goes_on_weighs_as_much_as_any_other(appliance: BoxedAppliance) -> None:
    code_id = appliance.create(WAITS)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    scope = appliance.scope_of(run["id"])
    eventually(lambda: appliance.limit(scope, "cpu", "cpu.shares", "cpu.weight") in ("1024", "100"))
    appliance.manage("POST", f"/coderun/{run['id']}/cancel")
    assert call.result().status == 500


def test_a_limit_that_is_not_in_force_starts_nothing(appliance: BoxedAppliance) -> None:
    """Another's hand in the parked sandboxes' cgroups: what is found there isn't what was asked for."""
    code_id = appliance.create("print('it ran')")
    for scope in appliance.scopes("pids"):
        (appliance.box.cgroup("pids", f"{SLICE}/{scope}") / "pids.max").write_text("500")
    answer = appliance.call(code_id)
    message = "the run could not start: its limits are not in force: pids.max is 500 instead of 65"
    assert (answer.status, answer.json()) == (503, {"message": message})
    assert appliance.run_of(answer)["extra"]["outcome"] == "could_not_start"
    eventually(lambda: appliance.call(code_id).status == 200)


def test_a_parked_sandbox_that_was_killed_is_replaced(appliance: BoxedAppliance) -> None:
    code_id = appliance.create("print('it ran')")
    parked = {scope: processes_of(appliance, scope) for scope in appliance.scopes()}
    killed = {scope for scope, processes in parked.items() if processes}  # one that is just being made has none yet
    assert killed
    for process in (process for processes in parked.values() for process in processes):
        with suppress(ProcessLookupError):  # it ends with its guard
            os.kill(process, signal.SIGKILL)
    eventually(lambda: not appliance.box.scopes() & killed)
    assert appliance.call(code_id).body == b"it ran\n"


def test_nothing_is_left_after_300_runs(appliance: BoxedAppliance) -> None:
    code_id = appliance.create("def Run(engine):\n    pass\n")

    def client() -> set[int]:
        return {appliance.call(code_id).status for _ in range(75)}

    assert at_once([client] * 4) == [{200}] * 4
    controllers = ("systemd", "memory", "pids", "cpu", "unified")
    eventually(lambda: all(len(appliance.scopes(controller)) <= 16 for controller in controllers))
    units = appliance.box.run("systemctl", "list-units", "--all", "--plain", "--no-legend", "codeactions-run-*.scope")
    assert "failed" not in units


def test_a_stop_lets_the_runs_end(box: Box) -> None:
    with service(box, "codeactions-stopped") as appliance:
        code_id = appliance.create("import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(1)\n")
        call = appliance.calling(code_id)
        appliance.until_logged(code_id)
        box.run("systemctl", "stop", appliance.unit)
        assert call.result().status == 200
        eventually(lambda: not box.scopes() or appliance.process.poll() is not None)


def test_a_killed_launcher_takes_every_scope_with_it(box: Box) -> None:
    with service(box, "codeactions-killed") as appliance:
        others = box.scopes()
        code_id = appliance.create(WAITS)
        call = appliance.calling(code_id)
        appliance.until_logged(code_id)
        [run] = appliance.runs_of(code_id)
        scope = appliance.scope_of(run["id"])
        prefix = scope.rpartition("-")[0]
        os.kill(appliance.launcher, signal.SIGKILL)
        eventually(lambda: not [name for name in box.scopes() if name.startswith(prefix)], 1)
        assert call.result().status == 503
        assert prefix not in str(box.scopes() - others)


def test_a_killed_server_takes_every_scope_with_it(box: Box) -> None:
    with service(box, "codeactions-serverless") as appliance:
        code_id = appliance.create(WAITS)
        appliance.calling(code_id)
        appliance.until_logged(code_id)
        prefix = appliance.scope_of(appliance.runs_of(code_id)[0]["id"]).rpartition("-")[0]
        server = next(pid for pid in appliance.processes if pid != appliance.launcher)
        os.kill(server, signal.SIGKILL)
        eventually(lambda: not [name for name in box.scopes() if name.startswith(prefix)], 1)


def test_a_scope_that_a_dead_launcher_left_is_emptied(appliance: BoxedAppliance) -> None:
    name = f"codeactions-run-{'0' * 16}-1.scope"
    command = ["systemd-run", "--quiet", "--scope", f"--unit={name}", "--slice=codeactions-runs.slice", "sleep", "600"]
    with subprocess.Popen(appliance.box.command(*command), stdin=subprocess.DEVNULL) as left:
        eventually(lambda: name in appliance.box.scopes())
        left.wait(HANG_GUARD)
    eventually(lambda: name not in appliance.box.scopes())
    [line] = eventually(lambda: [line for line in appliance.lines if line.get("name") == name])
    assert (line["event"], line["kind"]) == ("orphan swept", "scope")
    assert appliance.run("print('works')").body == b"works\n"


def test_what_was_put_into_a_scope_ends_with_its_run(appliance: BoxedAppliance) -> None:
    """It is not in the sandbox's pid namespace, so the end of that isn't its own."""
    code_id = appliance.create(WAITS)
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    scope = appliance.scope_of(run["id"])
    with subprocess.Popen(["sleep", "600"]) as stranger:
        for controller in ("systemd", "memory", "pids", "cpu", "unified"):
            (appliance.box.cgroup(controller, f"{SLICE}/{scope}") / "cgroup.procs").write_text(str(stranger.pid))
        appliance.manage("POST", f"/coderun/{run['id']}/cancel")
        assert stranger.wait(PATIENCE) == -signal.SIGKILL
        assert call.result().status == 500
    eventually(lambda: scope not in appliance.box.scopes())


FILLS = """
import os, signal
def Run(engine):
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    engine.log.info('up')
    signal.sigwait({signal.SIGUSR1})
    os.execv("/bin/dd", ["dd", "if=/dev/zero", "of=/tmp/x", "bs=64k", "count=1000"])
"""


def test_a_guard_that_is_killed_for_its_runs_memory_is_seen_as_that(appliance: BoxedAppliance) -> None:
    """The kernel chooses the largest of those it may: here a guard, when the worker has become a small program."""
    assert [message_of_killed_guard(appliance) for _ in range(3)] == [OUT_OF_32_MIB] * 3


def test_also_when_its_scope_has_gone_before_the_launcher_has_looked(appliance: BoxedAppliance) -> None:
    """A millisecond later it has, with all its counters."""
    assert message_of_killed_guard(appliance, launcher_is_late=True) == OUT_OF_32_MIB


def test_a_guard_that_somebody_has_killed_was_not_out_of_memory(appliance: BoxedAppliance) -> None:
    call, scope, guard, _ = about_to_fill(appliance)
    with stopped(appliance.launcher):
        os.kill(guard, signal.SIGKILL)
        eventually(lambda: scope not in appliance.scopes())
    assert call.result().json()["message"] == "the run was killed: SIGKILL"


def about_to_fill(appliance: BoxedAppliance) -> "tuple[Future[Response], str, int, int]":
    """A call that waits for SIGUSR1 to its worker; its scope, its guard and its worker."""
    code_id = appliance.create(FILLS, memory="32M")
    call = appliance.calling(code_id)
    appliance.until_logged(code_id)
    [run] = appliance.runs_of(code_id)
    scope = appliance.scope_of(run["id"])
    guard, worker = sorted(processes_of(appliance, scope), key=_pid_inside)
    return call, scope, guard, worker


def message_of_killed_guard(appliance: BoxedAppliance, *, launcher_is_late: bool = False) -> str:
    call, scope, guard, worker = about_to_fill(appliance)
    Path(f"/proc/{guard}/oom_score_adj").write_text("1000")
    with stopped(appliance.launcher) if launcher_is_late else nullcontext():
        os.kill(worker, signal.SIGUSR1)
        eventually(lambda: scope not in appliance.scopes())
    assert usage_of(appliance, call.result())["oom_kills"] >= 1
    return str(call.result().json()["message"])


def _pid_inside(pid: int) -> int:
    return int(status_of(pid)["NSpid"].split()[-1])
