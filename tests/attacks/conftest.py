from collections.abc import Iterator

import pytest

from tests.appliance import Appliance
from tests.golang import with_every_language


@pytest.fixture(scope="session")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """One for all attacks: none must be felt by the next."""
    with with_every_language(tmp_path_factory.mktemp("attacked") / "state", worker_pool_size=4) as appliance:
        yield appliance
        assert appliance.stop() == 0
