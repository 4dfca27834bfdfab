import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_UNPACK_SECONDS = 600  # about one on a quiet machine


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    """A folder that every user can enter, on a disk: pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="codeactions-test-", dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture(scope="session")
def program(binary: Path, shelf: Path) -> Path:
    """What it has unpacked, by the user who runs the tests."""
    unpacked = shelf / "unpacked"
    environment = {"PATH": os.environ["PATH"], "CODEACTIONS_UNPACK": str(unpacked)}
    subprocess.run([binary, "version"], env=environment, capture_output=True, timeout=_UNPACK_SECONDS, check=True)
    [tree] = [path for path in unpacked.iterdir() if path.is_dir()]
    return tree / "codeactions"
