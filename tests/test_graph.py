"""Graphs of names: order, rings and paths, checked against plain definitions."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from svcframework._graph import closure, components, draw_path, inverse, ring_in

NAMES = "abcdefgh"
GRAPHS = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), max_size=4, unique=True), min_size=1, max_size=8
)


def test_order_puts_dependencies_first() -> None:
    """As declared, where the edges leave a choice."""
    assert [["c"], ["a"], ["b"], ["d"]] == components({"a": ["c"], "b": ["c"], "c": [], "d": ["a", "b"]})


def test_names_without_an_entry_are_ignored() -> None:
    """An edge may point to what is unknown."""
    assert [["a"]] == components({"a": ["nowhere"]})


@given(GRAPHS)
def test_components_are_what_reaches_each_other(edges: dict[str, list[str]]) -> None:
    """Two names share one exactly if each leads to the other; every name is in one, dependencies first."""
    known = {name: [target for target in targets if target in edges] for name, targets in edges.items()}
    found = components(edges)
    assert sorted(edges) == sorted(name for component in found for name in component)
    place = {name: number for number, component in enumerate(found) for name in component}
    for name in edges:
        reached = closure([name], known)
        assert all(place[target] <= place[name] for target in reached)
        for other in edges:
            together = other in reached and name in closure([other], known)
            assert together == (place[name] == place[other])


@given(GRAPHS)
def test_ring_is_a_way_back_to_its_first_name(edges: dict[str, list[str]]) -> None:
    """Each step of it is an edge, and no name but the first comes twice."""
    for component in components(edges):
        if len(component) == 1 and component[0] not in edges[component[0]]:
            continue
        ring = ring_in(component, edges)
        assert (component[0], component[0]) == (ring[0], ring[-1])
        assert len(ring) - 1 == len(set(ring))
        assert all(second in edges[first] for first, second in pairwise(ring))


@given(GRAPHS)
def test_inverse_turns_every_edge_round(edges: dict[str, list[str]]) -> None:
    """And keeps every name."""
    turned = inverse(edges)
    there = {(name, target) for name, targets in edges.items() for target in targets if target in edges}
    assert there == {(name, target) for target, names in turned.items() for name in names}
    assert list(edges) == list(turned)


def test_long_chains_need_no_stack() -> None:
    """Ten thousand services in a row are no recursion."""
    edges = {str(n): [str(n + 1)] for n in range(10_000)}
    assert [["9999"], ["9998"]] == components(edges)[:2]


def test_path_is_drawn_with_arrows() -> None:
    """As in the reports."""
    assert "a ──▶ b" == draw_path(["a", "b"])
