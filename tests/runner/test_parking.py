"""The park of waiting sandboxes, at its end."""

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from appliance.entities import Language, Network
from appliance.runner.launch import sandboxes, zygotes
from appliance.runner.launch.parking import Kind, Parking


class _Zygote:
    """One that is never there to fork: it has been killed with the launcher that ends."""

    version = "3.11"
    users = 0
    retired = False

    async def wait(self) -> None:
        await trio.sleep_forever()

    async def end(self) -> None:
        pass


async def test_a_launcher_that_ends_does_not_complain_of_the_zygote_it_killed(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    async def start() -> _Zygote:
        return _Zygote()

    async def make(*_: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        raise zygotes.ZygoteFailed("the zygote has ended")

    monkeypatch.setattr(zygotes, "start", start)
    monkeypatch.setattr(sandboxes, "make", make)
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nursery.start, Parking(nursery, None, 1, Kind(Language.PYTHON, Network.NONE)).run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    assert lines == []
