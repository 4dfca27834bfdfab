"""The uids that sandboxes get are nobody else's."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.appliance import running

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has uids to give")
BASE = 1_700_000_000


def test_a_process_that_has_one_of_them_stops_the_start(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], user=BASE + 3) as stranger:
        try:
            with pytest.raises(AssertionError) as failed, running(tmp_path, sandbox_uid_base=BASE):
                pass
            assert f"process {stranger.pid} (sleep) has the uid {BASE + 3}: end it, or set SANDBOX_UID_BASE" in str(failed.value)
        finally:
            stranger.kill()


def test_a_name_server_that_is_about_to_end_does_not(tmp_path: Path) -> None:
    """That of a launcher which was killed."""
    with subprocess.Popen(["sleep", "1"], user=BASE + 4096), running(tmp_path, sandbox_uid_base=BASE + 4096) as appliance:
        assert appliance.run("print('it ran')").body == b"it ran\n"


def test_two_launchers_have_uids_of_their_own(tmp_path: Path) -> None:
    source = "import os\nprint(os.getuid())\n"
    base = BASE + 8192
    with running(tmp_path / "one", sandbox_uid_base=base) as one, running(tmp_path / "other", sandbox_uid_base=base) as other:
        first, second = (int(appliance.run(source).body) for appliance in (one, other))
        assert base <= first < base + 2048 <= second < base + 4096
