"""For the whole suite: the network of this machine isn't touched, unless the machine is there for that."""

import subprocess
from pathlib import Path

import pytest

from tests.appliance import ROOT, leave_the_network, with_the_network

_BUILD_SECONDS = 600  # half a minute on a quiet machine, once for each change
_LACKS_PARTS = 3  # binary.sh's exit status
# Files that take longest, longest first: begun first, so that no worker is left alone with one of them at the end.
_LONG = (
    "systemd/test_install.py",
    "systemd/test_installed.py",
    "systemd/test_cases.py",
    "test_serve.py",
    "doctor/test_verb.py",
    "systemd/test_proofs.py",
    "runner/test_sweep.py",
    "attacks/test_attacks.py",
    "runner/test_ends.py",
    "test_examples.py",
    "test_cases.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--this-machine",
        action="store_true",
        help="tests/systemd use the systemd of this machine, which must be one to throw away: tests/vm does so",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--this-machine"):
        leave_the_network()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(_LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.fixture(scope="session")
def binary() -> Path:
    """The one file, built from this checkout if it isn't there yet."""
    command, fds = with_the_network(str(ROOT / "packaging/binary.sh"))
    done = subprocess.run(command, pass_fds=fds, capture_output=True, text=True, timeout=_BUILD_SECONDS, check=False)
    if done.returncode == _LACKS_PARTS:
        pytest.skip(f"NOT TESTED: the binary can't be built here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "dist" / "codeactions"
