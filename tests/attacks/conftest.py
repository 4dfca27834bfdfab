from collections.abc import Iterator

import pytest

from tests.appliance import Appliance, running


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One for all attacks: none must be felt by the next."""
    with running(tmp_path_factory.mktemp("attacked"), worker_pool_size=4) as appliance:
        yield appliance
        assert appliance.stop() == 0
