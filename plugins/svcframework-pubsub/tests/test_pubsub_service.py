"""What PubsubService does, on a clock of the tests' own."""

from collections.abc import AsyncIterator

import pytest

from svcframework.errors import ServiceUnavailableError
from svcframework_pubsub import PubsubConfig, PubsubFullError, PubsubService


class Clock:
    """A clock that stands still until it is set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def service(clock: Clock) -> AsyncIterator[PubsubService]:
    service = PubsubService(PubsubConfig(window=10.0, max_keys=2), clock=clock)
    await service.on_startup()
    yield service
    await service.on_shutdown()


async def test_counts_by_key(service: PubsubService) -> None:
    """Each key has a count of its own."""
    assert 1 == await service.record("login")
    assert 2 == await service.record("login")
    assert 1 == await service.record("logout")
    assert 0 == service.count("other")


async def test_old_events_do_not_count(service: PubsubService, clock: Clock) -> None:
    """An event counts for `window` seconds."""
    await service.record("login")
    clock.now = 9.9
    assert 1 == service.count("login")
    clock.now = 10.0
    assert 0 == service.count("login")


async def test_full_is_an_error_and_degraded(service: PubsubService) -> None:
    """A key too many is refused; those that fit go on."""
    await service.record("a")
    await service.record("b")
    with pytest.raises(PubsubFullError, match="max_keys"):
        await service.record("c")
    assert 2 == await service.record("a")
    assert "degraded" == (await service.health_check())["status"]


async def test_idle_keys_make_room(service: PubsubService, clock: Clock) -> None:
    """Keys without recent events are forgotten when there is no room."""
    await service.record("a")
    await service.record("b")
    clock.now = 20.0
    assert 1 == await service.record("c")
    assert 0 == service.sweep()


async def test_use_before_start_is_an_error() -> None:
    """The error says that the service does not run."""
    with pytest.raises(ServiceUnavailableError, match="not running"):
        await PubsubService(PubsubConfig()).record("a")
