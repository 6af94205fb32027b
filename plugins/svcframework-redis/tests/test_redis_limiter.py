"""The rate limiter: counts that all share, errors that say when, and what happens without Redis."""

import asyncio

import pytest

from svcframework.errors import ConnectionFailedError, RateLimitedError
from svcframework_redis import RateWindow, RedisService

STRATEGIES = ["fixed-window", "moving-window", "sliding-window-counter"]


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_limit_holds_for_all_callers(redis, strategy):
    """Of thirty calls at once ten pass, the others are told when to come again; other keys are free."""
    limiters = [redis.rate_limiter("10/hour", namespace="api", strategy=strategy) for _ in range(3)]
    calls = [limiters[n % 3].hit("tenant", "acme") for n in range(30)]
    ended = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error for error in ended if error is not None]
    assert (20, {RateLimitedError}) == (len(refused), {type(error) for error in refused})
    assert all(0 < error.retry_after <= 3600 for error in refused)
    window = await limiters[0].window("tenant", "acme")
    assert 0 == window.remaining
    assert 0 < window.reset_after <= 3600
    assert not await limiters[0].test("tenant", "acme")
    assert await limiters[0].test("tenant", "other")
    await limiters[0].clear("tenant", "acme")
    await limiters[0].hit("tenant", "acme", cost=10)


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_time_gives_calls_back(redis, strategy):
    """Whoever waits as long as he was told gets through."""
    limiter = redis.rate_limiter("2 per 1 second", strategy=strategy)
    for _ in range(2):
        await limiter.hit("k")
    async with asyncio.timeout(20):
        while True:
            try:
                await limiter.hit("k")
            except RateLimitedError as error:
                await asyncio.sleep(error.retry_after)
            else:
                break


async def test_keys_are_injective(redis):
    """Parts, namespaces and strategies with any characters in them never share a count."""
    keys = [("a", "b"), ("a/b",), ("a:b",), ("a%2Fb",), ("a}", "b"), ("{a", "b")]
    limiters = [redis.rate_limiter("1/hour", namespace=name, strategy=s) for name in ("n", "n:a") for s in STRATEGIES]
    for limiter in limiters:
        for key in keys:
            await limiter.hit(*key)
    assert RateWindow(0, pytest.approx(3600, abs=60)) == await limiters[0].window("a", "b")


async def test_without_redis_it_is_as_was_chosen(mortal_valkey):
    """The error, a yes, or a refusal that says to try again soon."""
    service = RedisService(server=mortal_valkey)
    await service.on_startup()
    await mortal_valkey.kill()
    with pytest.raises(ConnectionFailedError):
        await service.rate_limiter("1/hour").hit("k")
    allowing = service.rate_limiter("1/hour", when_down="allow")
    for _ in range(3):
        await allowing.hit("k")
    with pytest.raises(RateLimitedError) as caught:
        await service.rate_limiter("1/hour", when_down="refuse").hit("k")
    assert 1.0 == caught.value.retry_after
    await service.on_shutdown()


async def test_mistakes_are_told(redis):
    """A limit that is none, an unknown strategy, or a cost beyond the limit are refused by name."""
    with pytest.raises(ValueError, match="'often' is no limit"):
        redis.rate_limiter("often")
    with pytest.raises(ValueError, match="no strategy"):
        redis.rate_limiter("1/hour", strategy="leaky")
    for cost in (0, 3):
        with pytest.raises(ValueError, match="from 1 to the limit of 2"):
            await redis.rate_limiter("2/hour").hit("k", cost=cost)
