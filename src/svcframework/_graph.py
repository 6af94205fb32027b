"""Graphs of names: an order, the rings that prevent one, and how a path is drawn. Pure; knows no services."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def components(edges: Mapping[str, Iterable[str]]) -> list[list[str]]:
    """The strongly connected components, dependencies first, deterministic (Tarjan's algorithm, iterative).

    Args:
        edges: Each name with the names it points to; names without an entry are ignored.

    Returns:
        Lists of names; one with several names, or whose name points to itself, is a ring.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    on_stack: set[str] = set()
    stack: list[str] = []
    found: list[list[str]] = []
    for root in edges:
        if root in index:
            continue
        index[root] = low[root] = len(index)
        stack.append(root)
        on_stack.add(root)
        work = [(root, iter(edges[root]))]
        while work:
            name, targets = work[-1]
            for target in targets:
                if target not in edges:
                    continue
                if target not in index:
                    index[target] = low[target] = len(index)
                    stack.append(target)
                    on_stack.add(target)
                    work.append((target, iter(edges[target])))
                    break
                if target in on_stack:
                    low[name] = min(low[name], index[target])
            else:
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[name])
                if low[name] == index[name]:
                    found.append(_pop_component(name, stack, on_stack))
    return found


def _pop_component(root: str, stack: list[str], on_stack: set[str]) -> list[str]:
    at = stack.index(root)
    component = stack[at:]
    del stack[at:]
    on_stack.difference_update(component)
    return component


def ring_in(component: Sequence[str], edges: Mapping[str, Iterable[str]]) -> list[str]:
    """A shortest ring through the first name of a component, that name first and last."""
    start, inside = component[0], set(component)
    came_from: dict[str, str] = {}
    queue = [start]
    for name in queue:
        for target in edges[name]:
            if target == start:
                return [*reversed(list(_walk_back(name, came_from, start))), start]
            if target in inside and target not in came_from:
                came_from[target] = name
                queue.append(target)
    return [start]


def _walk_back(name: str, came_from: Mapping[str, str], start: str) -> Iterable[str]:
    while name != start:
        yield name
        name = came_from[name]
    yield start


def closure(names: Iterable[str], edges: Mapping[str, Iterable[str]]) -> set[str]:
    """The names and all they lead to."""
    seen: set[str] = set()
    queue = list(names)
    for name in queue:
        if name not in seen:
            seen.add(name)
            queue.extend(edges.get(name, ()))
    return seen


def inverse(edges: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """The same graph with every edge turned round, in the order of the names."""
    turned: dict[str, list[str]] = {name: [] for name in edges}
    for name, targets in edges.items():
        for target in targets:
            if target in turned:
                turned[target].append(name)
    return turned


def draw_path(names: Sequence[str]) -> str:
    """`a ──▶ b ──▶ c`."""
    return " ──▶ ".join(names)
