from collections.abc import Iterator

import pytest

from tests.systemd.box import THIS_MACHINE, Box, BoxedAppliance, booted, service_with_every_language, why_no_box


@pytest.fixture(scope="session")
def possible_box() -> None:
    if reason := why_no_box():
        pytest.skip(f"NOT TESTED on a real systemd: {reason}")


@pytest.fixture(scope="session")
def box(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[Box]:
    """One boot for all; nothing of it outlives the session."""
    if pytestconfig.getoption("--this-machine"):
        yield THIS_MACHINE
        return
    request.getfixturevalue("possible_box")
    with booted() as box:
        yield box


@pytest.fixture(scope="session")
def appliance(box: Box) -> Iterator[BoxedAppliance]:
    room = {"worker_pool_queue_size": 200, "worker_pool_project_queue_size": 200}
    with service_with_every_language(box, "codeactions-tested", worker_pool_size=4, **room) as appliance:
        yield appliance
        assert appliance.process.poll() is None, "it ended in the middle of the tests"
