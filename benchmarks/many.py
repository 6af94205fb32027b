"""Rows that are about many services at once: building, memory, import and start."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.measure import Timing, in_clean_process, summarise
from benchmarks.workloads import MEMORY_SERVICES, Adapter, check_built, many_services

Report = Callable[[str, str, BaseException], None]
Times = dict[str, list[float]]


def build_times(adapters: Sequence[Adapter], *, count: int, rounds: int, budget: float, failed: Report) -> Times:
    """CPU seconds to declare, validate, compile and resolve `count` services.

    Args:
        adapters: Who takes part.
        count: How many services.
        rounds: Times at most.
        budget: CPU seconds after which an adapter has no further round; it has one in any case.
        failed: Told who can't.
    """
    times: Times = {}
    for turn in range(rounds):
        for adapter in adapters:
            taken = times.setdefault(adapter.name, [])
            if adapter.build is None or len(taken) < turn or sum(taken) > budget:
                continue
            try:
                taken.append(_build_once(adapter, count))
            except Exception as error:  # noqa: BLE001 - a peer that fails is shown as such
                failed(adapter.name, f"build-{count}", error)
    return {name: taken for name, taken in times.items() if taken}


def _build_once(adapter: Adapter, count: int) -> float:
    services = many_services(count)
    build = adapter.build
    if build is None:
        raise TypeError(adapter.name)
    gc.collect()
    started = time.process_time()
    keep, built = build(services)
    took = time.process_time() - started
    check_built(services, built)
    del keep
    return took


def memory_per_service(adapters: Sequence[Adapter], *, failed: Report) -> dict[str, float]:
    """Bytes that a built service takes with all that its library keeps about it, the classes excluded."""
    sizes = {}
    for adapter in adapters:
        if adapter.build is None:
            continue
        try:
            adapter.build(many_services(1))  # what a library allocates once is no service's
            services = many_services(MEMORY_SERVICES)
            gc.collect()
            tracemalloc.start()
            keep = adapter.build(services)
            gc.collect()
            sizes[adapter.name] = tracemalloc.get_traced_memory()[0] / MEMORY_SERVICES
            del keep
        except Exception as error:  # noqa: BLE001 - a peer that fails is shown as such
            failed(adapter.name, "memory", error)
        finally:
            tracemalloc.stop()
    return sizes


def import_times(adapters: Sequence[Adapter], *, purpose: str, rounds: int, failed: Report) -> Times:
    """CPU seconds of the import statement in a fresh interpreter, with everything else installed beside it."""
    statements = {a.name: a.imports.get(purpose, a.imports["import"]) for a in adapters if a.imports}
    times: Times = {}
    for turn in range(rounds + 1):
        for name, statement in statements.items():
            source = f"import time\nstarted = time.process_time()\n{statement}\nprint(time.process_time() - started)"
            try:
                took = in_clean_process(source)
            except Exception as error:  # noqa: BLE001 - a peer that fails is shown as such
                if not turn:
                    failed(name, purpose, error)
                continue
            if turn:  # the first one may have compiled the modules
                times.setdefault(name, []).append(took)
    return times


async def start_times(
    adapters: Sequence[Adapter], *, count: int, seconds: float, rounds: int, failed: Report
) -> tuple[Times, Times]:
    """Seconds by the clock and by the CPU to start `count` services whose own start takes `seconds`."""
    clock: Times = {}
    cpu: Times = {}
    for turn in range(rounds):
        for adapter in adapters:
            if adapter.start is None or len(cpu.get(adapter.name, [])) < turn:
                continue
            gc.collect()
            try:
                started = await adapter.start(count, seconds)
            except Exception as error:  # noqa: BLE001 - ours may be broken too
                failed(adapter.name, f"start-{count}", error)
                continue
            clock.setdefault(adapter.name, []).append(started.clock)
            cpu.setdefault(adapter.name, []).append(started.cpu)
    return clock, cpu


def summary(times: Times) -> dict[str, Timing]:
    """Medians, with the hand-written form as the baseline where there is one."""
    return summarise(times, baseline="hand")


def sizes_as_timings(sizes: dict[str, float]) -> dict[str, Any]:
    """Sizes in the form of the other results: their median is in bytes."""
    return summarise({name: [size] for name, size in sizes.items()}, baseline="hand")
