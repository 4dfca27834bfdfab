"""Limits and locks of one process."""

import pytest
from trio.testing import MockClock

from appliance.coordination import open_coordination
from appliance.coordination.local import MAX_KEYS, LocalLimiter
from appliance.errors import TooMany


async def test_requests_up_to_the_maximum_pass_and_the_next_is_told_when(autojump_clock: MockClock) -> None:
    limiter = LocalLimiter(2, 60)
    await limiter.hit("a")
    autojump_clock.jump(20)
    await limiter.hit("a")
    with pytest.raises(TooMany) as refused:
        await limiter.hit("a")
    assert refused.value.retry_after == pytest.approx(40)


async def test_a_new_window_begins_when_the_old_one_is_over(autojump_clock: MockClock) -> None:
    limiter = LocalLimiter(1, 60)
    await limiter.hit("a")
    autojump_clock.jump(60)
    await limiter.hit("a")


async def test_keys_do_not_share_a_window() -> None:
    limiter = LocalLimiter(1, 60)
    await limiter.hit("a")
    await limiter.hit("b")


async def test_the_key_that_has_been_idle_for_longest_is_forgotten_first() -> None:
    limiter = LocalLimiter(2, 60)
    await limiter.hit("busy")
    await limiter.hit("idle")
    await limiter.hit("idle")
    await limiter.hit("busy")
    for number in range(MAX_KEYS - 1):
        await limiter.hit(str(number))
    await limiter.hit("idle")  # would be the third


async def test_a_lock_is_held_by_one_and_given_back() -> None:
    async with open_coordination(1, 1) as coordination:
        locks = coordination.locks
        async with locks.try_hold("cleaner") as first, locks.try_hold("cleaner") as second, locks.try_hold("other") as other:
            assert (first, second, other) == (True, False, True)
        async with locks.try_hold("cleaner") as again:
            assert again


async def test_a_lock_is_given_back_when_its_holder_fails() -> None:
    async with open_coordination(1, 1) as coordination:
        with pytest.raises(RuntimeError):
            async with coordination.locks.try_hold("cleaner"):
                raise RuntimeError
        async with coordination.locks.try_hold("cleaner") as again:
            assert again
