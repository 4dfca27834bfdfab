"""What belongs to no living sandbox is found and ended. Nothing here can come about by itself: the tests make it.

Every launcher of this machine sweeps, so which of them has found a zygote is not for a test to say.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from appliance.runner.launch.sweep import SWEEP_SECONDS
from tests.appliance import HANG_GUARD, Appliance, alive, descendants, eventually, running, status_of, swept

WAITS = "import time\ndef Run(engine):\n    engine.log.info('up')\n    time.sleep(60)\n"


@contextmanager
def orphaned(folder: Path) -> Iterator[list[int]]:
    """The processes of a zygote that could not end with its launcher, since it was stopped, and of a run below it."""
    with running(folder) as appliance:
        code_id = appliance.create(WAITS)
        appliance.calling(code_id)
        appliance.until_logged(code_id)
        zygote = appliance.zygote
        left = [zygote, *descendants(zygote)]
        for pid in left:
            os.kill(pid, signal.SIGSTOP)
        os.kill(appliance.launcher, signal.SIGKILL)
        try:
            yield left
        finally:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_what_a_dead_launcher_left_is_ended_by_the_next(tmp_path: Path) -> None:
    with orphaned(tmp_path / "first") as left:
        assert alive(left)
        with running(tmp_path / "second") as appliance:
            eventually(lambda: not alive(left))
            assert appliance.run("print('works')").body == b"works\n"


def test_it_is_ended_by_one_that_runs_already(tmp_path: Path) -> None:
    with running(tmp_path / "second"), orphaned(tmp_path / "first") as left:
        eventually(lambda: not alive(left))


def test_two_launchers_leave_each_others_sandboxes_alone(tmp_path: Path) -> None:
    with running(tmp_path / "first") as first, running(tmp_path / "second") as second:
        before = first.zygote, second.zygote
        code_id = first.create("import time\ndef Run(engine):\n    time.sleep(2.5 * float(engine.body))\n")
        assert first.call(code_id, str(SWEEP_SECONDS).encode()).status == 200  # longer than two sweeps
        assert (first.zygote, second.zygote) == before
        assert set(swept(first).values()) == set(swept(second).values()) == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT TESTED: only root's sandboxes have uids of their own")
def test_a_process_with_a_uid_that_no_sandbox_has_is_ended(tmp_path: Path) -> None:
    with running(tmp_path) as appliance:
        code_id = appliance.create(WAITS)
        call = appliance.calling(code_id)
        appliance.until_logged(code_id)
        uids = {int(status_of(pid)["Uid"].split()[0]) for pid in appliance.sandboxes}
        unused = max(uids) + 1000
        contained = ["unshare", "--pid", "--fork", "--kill-child", "setpriv", f"--reuid={unused}", "sleep", "600"]
        with subprocess.Popen(contained) as container:
            stranger = subprocess.Popen(["sleep", "600"], user=unused, group=65534, extra_groups=[])
            assert stranger.wait(HANG_GUARD) == -signal.SIGKILL
            assert container.poll() is None
            container.kill()
        assert swept(appliance) == {"zygote": 0, "process": 1, "scope": 0}
        [run] = appliance.runs_of(code_id)  # a sandbox that lives is not touched
        assert run["status"] == "started"
        appliance.manage("POST", f"/coderun/{run['id']}/cancel")
        assert call.result().status == 500


def test_nothing_is_swept_where_nothing_is_left(appliance: Appliance) -> None:
    before = swept(appliance)  # it may have found what other tests have left
    for source in ("print('x')", "import os\nos.fork()\nos.setsid()\n", "import os\nos.kill(os.getpid(), 9)\n"):
        appliance.run(source)
    ends_at = time.monotonic() + 2 * SWEEP_SECONDS
    eventually(lambda: time.monotonic() > ends_at)
    assert swept(appliance) == before
