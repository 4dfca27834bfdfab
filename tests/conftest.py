"""For the whole suite: the network of this machine isn't touched, unless the machine is there for that."""

import pytest

from tests.appliance import leave_the_network


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--this-machine",
        action="store_true",
        help="tests/systemd use the systemd of this machine, which must be one to throw away: tests/vm does so",
    )


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--this-machine"):
        leave_the_network()
