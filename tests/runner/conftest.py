from collections.abc import Iterator

import pytest

from tests.appliance import Appliance, running


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One for all: what a run does must not be felt by another."""
    with running(tmp_path_factory.mktemp("appliance"), worker_pool_size=4) as appliance:
        yield appliance
        assert appliance.process.poll() is None, "it ended in the middle of the tests"
        assert appliance.stop() == 0
