"""The bases: contracts of databases, background work that ends with its service. Time is virtual on both backends."""

from __future__ import annotations

from typing import Any, Self

import anyio
import pytest

from svcframework._types import ServiceState
from svcframework.bases import AsyncService, AsyncServiceConfig, BackgroundTask, DatabaseService, Record
from svcframework.config import ServiceConfig
from svcframework.errors import IllegalStateError
from svcframework.testing.virtualtime import virtual_backend
from svcframework.ticks import stop_signal


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """Both backends, with clocks that jump."""
    return virtual_backend(request.param)


# --- the config model -----------------------------------------------------------------------------------


def test_subclass_may_have_a_config_of_its_own() -> None:
    """The model that a subclass names wins over the one in its base's brackets; without one it is inherited."""

    class Own(ServiceConfig, prefix="own"):
        """Settings of the subclass."""

    class Base(AsyncService[AsyncServiceConfig]):
        pass

    class Same(Base):
        pass

    class Other(Base):
        config_type = Own

    assert [AsyncServiceConfig, Own] == [Same.config_type, Other.config_type]


# --- DatabaseService ------------------------------------------------------------------------------------


def test_database_contract_is_abstract() -> None:
    """A database service that leaves out a method of the contract can't be built."""

    class Half(DatabaseService[ServiceConfig]):
        async def execute_query(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
            return []

    with pytest.raises(TypeError, match="execute_many"):
        Half()  # type: ignore[abstract]


# --- AsyncService ---------------------------------------------------------------------------------------


class Worker(AsyncService[AsyncServiceConfig]):
    """A service that notes what its tasks raised."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(AsyncServiceConfig(**settings))
        self.errors: list[tuple[str, str]] = []
        self.notes: list[str] = []

    def on_task_error(self, name: str, error: Exception) -> None:
        self.errors.append((name, str(error)))

    async def note(self, text: str, after: float = 0.0) -> None:
        await anyio.sleep(after)
        self.notes.append(text)

    async def fail(self) -> None:
        await anyio.sleep(1)
        raise ValueError("broken")


class Running:
    """Runs a service's `on_run` as the host does, and cancels it at the end of the block."""

    def __init__(self, service: AsyncService[Any]) -> None:
        self.service = service
        self.scope = anyio.CancelScope()
        self.error: BaseException | None = None

    async def _run(self) -> None:
        with self.scope:
            try:
                await self.service.on_run()
            except Exception as error:
                self.error = error

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._run)
        await anyio.wait_all_tasks_blocked()
        return self

    async def __aexit__(self, *args: object) -> None:
        self.scope.cancel()
        await self._tasks.__aexit__(None, None, None)


async def test_spawned_task_runs_in_the_background() -> None:
    """The caller goes on at once, and can wait for the end."""
    worker = Worker()
    async with Running(worker):
        task = worker.spawn(worker.note, "done", 5.0)
        assert not task.is_done
        assert (task,) == worker.background_tasks
        await task.wait()
        assert ["done"] == worker.notes
        assert () == worker.background_tasks


async def test_task_begun_before_the_run_waits_for_it() -> None:
    """What on_startup spawns is started with on_run."""
    worker = Worker()
    task = worker.spawn(worker.note, "early")
    await anyio.sleep(1)
    assert [] == worker.notes
    async with Running(worker):
        await task.wait()
    assert ["early"] == worker.notes


async def test_stop_drains_tasks() -> None:
    """A task that needs less than the drain timeout ends by itself after the service was cancelled."""
    worker = Worker(drain_timeout=5.0)
    async with Running(worker):
        worker.spawn(worker.note, "in time", 4.0)
    assert ["in time"] == worker.notes


async def test_drain_has_an_end() -> None:
    """A task that needs longer is cancelled when the drain timeout is over."""
    worker = Worker(drain_timeout=5.0)
    before = anyio.current_time()
    async with Running(worker):
        task = worker.spawn(worker.note, "too late", 1e6)
    assert ([], 5.0, True) == (worker.notes, round(anyio.current_time() - before), task.is_done)


async def test_idle_service_stops_at_once() -> None:
    """Without tasks, and with a job that waits for its beat, nothing is waited for."""
    worker = Worker(drain_timeout=5.0)
    before = anyio.current_time()
    async with Running(worker):
        worker.every(60, lambda: worker.note("beat"))
        await anyio.wait_all_tasks_blocked()
    assert anyio.current_time() - before < 1
    assert ["beat"] == worker.notes


async def test_job_runs_at_its_interval_and_finishes_its_call() -> None:
    """A periodic job is called at once and then per interval; the call under way at a stop is finished."""
    worker = Worker(drain_timeout=5.0)
    worker.every(10, lambda: worker.note("beat", 2.0), name="beat")
    async with Running(worker):
        await anyio.sleep(21)
        assert 2 == len(worker.notes)
    assert 3 == len(worker.notes)


async def test_failing_job_goes_on() -> None:
    """Each failure is reported with the job's name, and the next call is made."""
    worker = Worker()
    async with Running(worker) as running:
        worker.every(10, worker.fail, name="fragile")
        await anyio.sleep(25)
    assert [("fragile", "broken")] * 3 == worker.errors
    assert running.error is None


async def test_failing_task_disturbs_no_other() -> None:
    """Its error is reported and kept on its handle, and the others end as they would."""
    worker = Worker()
    async with Running(worker):
        bad, good = worker.spawn(worker.fail), worker.spawn(worker.note, "good", 3.0)
        await good.wait()
    assert [("Worker.fail", "broken")] == worker.errors
    assert "broken" == str(bad.error)
    assert ["good"] == worker.notes


@pytest.mark.parametrize("job", [False, True])
async def test_critical_error_ends_the_run(*, job: bool) -> None:
    """on_run raises the task's own error, after the others were drained."""
    worker = Worker()
    async with Running(worker) as running:
        worker.spawn(worker.note, "drained", 3.0)
        if job:
            worker.every(10, worker.fail, critical=True)
        else:
            worker.spawn(worker.fail, critical=True)
        await anyio.sleep(10)
    assert ValueError is type(running.error)
    assert ["drained"] == worker.notes


async def test_jobs_are_resumed_after_a_crash() -> None:
    """A second run starts the jobs again; registering one again in on_startup does not double it."""
    worker = Worker()
    worker.every(10, lambda: worker.note("beat"), name="beat")
    async with Running(worker):
        await anyio.sleep(5)
    worker.every(10, lambda: worker.note("beat"), name="beat")
    async with Running(worker):
        await anyio.sleep(5)
    assert ["beat", "beat"] == worker.notes
    async with Running(worker):
        await anyio.sleep(5)
    assert 3 == len(worker.notes)


async def test_cancelled_task_ends_alone() -> None:
    """cancel() ends one task or job, begun or not; the service goes on."""
    worker = Worker()
    unborn = worker.spawn(worker.note, "unborn")
    unborn.cancel()
    async with Running(worker):
        task, job = worker.spawn(worker.note, "never", 10.0), worker.every(1, lambda: worker.note("beat"))
        await anyio.sleep(0.5)
        task.cancel()
        job.cancel()
        await task.wait()
        await job.wait()
        await anyio.sleep(20)
        assert () == worker.background_tasks
    assert ["beat"] == worker.notes
    assert unborn.is_done


async def test_nothing_is_begun_while_stopping() -> None:
    """A new task is refused with the state and a way out, during the drain and afterwards."""
    worker = Worker()
    refused: list[str] = []

    async def late() -> None:
        await anyio.sleep(1)
        with pytest.raises(IllegalStateError, match="stopping") as raised:
            worker.spawn(worker.note, "too late", name="too late")
        refused.append(str(raised.value))

    async with Running(worker):
        worker.spawn(late)
    worker.state = ServiceState.STOPPING
    with pytest.raises(IllegalStateError):
        worker.every(1, worker.fail)
    assert 1 == len(refused)
    assert "'too late' of 'worker'" in refused[0]


async def test_broken_error_hook_ends_no_task(caplog: pytest.LogCaptureFixture) -> None:
    """An on_task_error that raises is logged, and the other tasks go on."""

    class Broken(Worker):
        def on_task_error(self, name: str, error: Exception) -> None:
            raise RuntimeError("hook")

    worker = Broken()
    async with Running(worker):
        worker.spawn(worker.fail)
        await worker.spawn(worker.note, "good", 3.0).wait()
    assert ["good"] == worker.notes
    assert "on_task_error of 'broken'" in caplog.text


async def test_task_spawned_from_elsewhere_gets_the_services_signal() -> None:
    """A task follows the stop of its service, whoever spawned it."""
    worker = Worker()
    seen: list[object] = []

    async def look() -> None:
        seen.append(stop_signal())

    async with Running(worker):
        assert stop_signal() is None
        await worker.spawn(look).wait()
    assert seen != [None]


async def test_service_without_super_init_or_drain_timeout_works() -> None:
    """A subclass may forget super().__init__() and may be given a plain ServiceConfig."""

    class Plain(AsyncService):  # type: ignore[type-arg]
        def __init__(self) -> None:
            self.config = ServiceConfig(name="plain")
            self.done = False

        async def work(self) -> None:
            self.done = True

    plain = Plain()
    async with Running(plain):
        task = plain.spawn(plain.work)
        await task.wait()
    assert plain.done
    assert "<BackgroundTask" in repr(task)
    assert isinstance(task, BackgroundTask)


async def test_task_errors_are_logged_by_default() -> None:
    """Without a hook of its own a service logs the task's name and error."""

    class Log:
        def __init__(self) -> None:
            self.lines: list[tuple[str, dict[str, Any]]] = []

        def error(self, event: str, /, **fields: Any) -> None:
            self.lines.append((event, fields))

    service: AsyncService[AsyncServiceConfig] = AsyncService()
    service.config, log = AsyncServiceConfig(), Log()
    service.logger = log
    broken = ValueError("broken")

    async def fail() -> None:
        raise broken

    async with Running(service):
        await service.spawn(fail, name="fetch").wait()
    assert [("background task failed", {"task": "fetch", "exc_info": broken})] == log.lines
