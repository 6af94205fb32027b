"""service_context says who calls and until when; require_service refuses calls whose services don't run."""

from __future__ import annotations

import anyio
import pytest

from svcframework import BaseService, HealthResult, Restart, ServiceHost, remaining, require_service, service_context
from svcframework.errors import (
    DeadlineExceededError,
    HostNotRunningError,
    RegistrationError,
    ServiceNotFoundError,
    ServiceUnavailableError,
)
from svcframework.log import context_fields


def test_block_binds_and_unbinds() -> None:
    """Fields hold inside the block, an inner block adds to them, and nothing is left afterwards."""
    with service_context(user_id="42", tenant="acme", order=7):
        outer = dict(context_fields())
        with service_context(user_id="43"):
            inner = dict(context_fields())
    assert ("42", "acme", 7) == (outer["user_id"], outer["tenant"], outer["order"])
    assert ("43", "acme") == (inner["user_id"], inner["tenant"])
    assert outer["correlation_id"] == inner["correlation_id"]
    assert {} == dict(context_fields())


def test_correlation_id_is_new_for_each_outermost_context() -> None:
    """Unless it is given."""
    seen = []
    for given in (None, None, "mine"):
        with service_context(correlation_id=given):
            seen.append(context_fields()["correlation_id"])
    assert 3 == len(set(seen))
    assert "mine" == seen[2]


async def test_decorator_gives_each_call_a_context_of_its_own() -> None:
    """Bare and with arguments, on sync and async functions."""

    @service_context
    async def bare() -> object:
        return context_fields()["correlation_id"]

    @service_context(tenant="acme")
    def with_arguments() -> object:
        return context_fields()["tenant"]

    assert await bare() != await bare()
    assert "acme" == with_arguments()
    assert "bare" == bare.__name__


async def test_deadline_holds_for_all_below() -> None:
    """A surrounding deadline is never extended."""
    async with service_context(deadline=60.0):
        with service_context(deadline=3600.0):
            left = remaining()
    assert left is not None
    assert left <= 60.0
    with pytest.raises(DeadlineExceededError):
        async with service_context(deadline=0.0):
            await anyio.sleep_forever()


async def test_tasks_do_not_share_contexts() -> None:
    """Two calls at once each have their own user."""
    seen = {}

    async def call(user: str) -> None:
        with service_context(user_id=user):
            await anyio.lowlevel.checkpoint()
            seen[user] = context_fields()["user_id"]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, "a")
        tasks.start_soon(call, "b")
    assert {"a": "a", "b": "b"} == seen


def test_wrong_use_of_a_context() -> None:
    """A block is entered once; async generators are refused with the reason."""
    context = service_context(user_id="42")
    with context, pytest.raises(RegistrationError, match="entered already"), context:
        pass

    with pytest.raises(RegistrationError, match="async generator"):

        @service_context
        async def rows():
            yield 1


# --- require_service ------------------------------------------------------------------------------------


class Database(BaseService, restart=Restart.temporary()):
    result = HealthResult.healthy()

    async def _service_health_check(self) -> HealthResult:
        return self.result


@require_service("database")
async def read() -> str:
    return "row"


@require_service("database", healthy=True)
def read_safely() -> str:
    return "row"


@require_service("databse")
def misspelt() -> None: ...


def a_host() -> ServiceHost:
    host = ServiceHost(log_events=False)
    host.register(Database)
    return host


async def test_call_needs_its_services_to_run() -> None:
    """Within the host it goes through; before, the error names function, service and state."""
    host = a_host()
    with pytest.raises(HostNotRunningError, match=r"read\(\) requires 'database'"):
        await read()
    async with host:
        assert "row" == await read()
    host.register_group("data", ["database"])
    host.register(Database, name="other")
    async with host:
        await host.stop(group="data")
        with pytest.raises(
            ServiceUnavailableError, match=r"'database' is unavailable, needed by read\(\): it is stopped"
        ):
            await read()


async def test_call_may_need_them_healthy() -> None:
    """By the last result: nothing is checked for a call."""
    host = a_host()
    async with host:
        await host.health.check_all(fresh=True)
        assert "row" == read_safely()
        host["database"].result = HealthResult.unhealthy("disk full")
        for _ in range(2):  # a change is believed when it is seen twice
            await host.health.check_all(fresh=True)
        with pytest.raises(ServiceUnavailableError, match="it is unhealthy: disk full"):
            read_safely()
        assert "row" == await read()


async def test_unknown_service_is_an_error_of_its_own() -> None:
    """With the nearest name, and who asked."""
    async with a_host():
        with pytest.raises(ServiceNotFoundError, match=r"'databse', needed by misspelt\(\)\. Did you mean 'database'"):
            misspelt()


@pytest.mark.parametrize("names", [(), (Database,)])
def test_require_service_takes_names(names: tuple[object, ...]) -> None:
    """The error shows the right form."""
    with pytest.raises(RegistrationError, match=r'@require_service\("database_service"\)'):
        require_service(*names)  # type: ignore[arg-type]
