"""Every interface's tests run over every backend, through `open_storage`."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.storage import open_storage
from appliance.storage.interface import Storage


@pytest.fixture(params=["memory", "sqlite"])
def db_type(request: Any) -> str:
    return str(request.param)


@pytest.fixture
async def storage(db_type: str, tmp_path: Path) -> AsyncIterator[Storage]:
    async with open_storage(db_type, tmp_path) as opened:
        yield opened
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sqlite")]
