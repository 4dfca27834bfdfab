import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.appliance import ROOT

BUILD_SECONDS = 600  # half a minute on a quiet machine, once for each change
LACKS_PARTS = 3  # binary.sh's exit status


@pytest.fixture(scope="session")
def binary() -> Path:
    """The one file, built from this checkout if it isn't there yet."""
    done = subprocess.run([ROOT / "packaging/binary.sh"], capture_output=True, text=True, timeout=BUILD_SECONDS, check=False)
    if done.returncode == LACKS_PARTS:
        pytest.skip(f"NOT TESTED: the binary can't be built here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "dist" / "codeactions"


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
    subprocess.run([binary, "version"], env=environment, capture_output=True, timeout=BUILD_SECONDS, check=True)
    [tree] = [path for path in unpacked.iterdir() if path.is_dir()]
    return tree / "codeactions"
