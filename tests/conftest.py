import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--this-machine",
        action="store_true",
        help="tests/systemd use the systemd of this machine, which must be one to throw away: tests/vm does so",
    )
