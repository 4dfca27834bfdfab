"""For the whole suite: the network of this machine isn't touched, unless the machine is there for that."""

import subprocess
from pathlib import Path

import pytest

from tests.appliance import ROOT, leave_the_network, with_the_network

_BUILD_SECONDS = 600  # half a minute on a quiet machine, once for each change
_LACKS_PARTS = 3  # binary.sh's exit status


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--this-machine",
        action="store_true",
        help="tests/systemd use the systemd of this machine, which must be one to throw away: tests/vm does so",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--this-machine"):
        leave_the_network()


@pytest.fixture(scope="session")
def binary() -> Path:
    """The one file, built from this checkout if it isn't there yet."""
    command, fds = with_the_network(str(ROOT / "packaging/binary.sh"))
    done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode == _LACKS_PARTS:
        pytest.skip(f"NOT TESTED: the binary can't be built here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "dist" / "codeactions"
