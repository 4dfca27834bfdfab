"""What root does with the state directory before it stops being root."""

import errno
import os
from pathlib import Path

import pytest

from appliance.errors import CannotStart
from appliance.privileges import make_state_dir


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives the directory to somebody")
def test_a_state_directory_on_a_read_only_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chown(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "chown", chown)
    with pytest.raises(CannotStart, match=r"STATE_DIR .* can't be given to the user \d+: Read-only file system$"):
        make_state_dir(tmp_path)
