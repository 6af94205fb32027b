"""Drawings of a host: a text tree for terminals, a Mermaid flowchart for pages. Pure text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from svcframework._types import Lifetime, ServiceState
from svcframework.errors import type_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from svcframework.wiring import Graph, Node

MARKS = {
    ServiceState.REGISTERED: "·",
    ServiceState.STARTING: "◔",
    ServiceState.RUNNING: "●",
    ServiceState.DEGRADED: "◐",
    ServiceState.STOPPING: "◕",
    ServiceState.STOPPED: "○",
    ServiceState.FAILED: "✗",
}


def tree(graph: Graph, states: Mapping[str, ServiceState], seconds: Mapping[str, float]) -> str:
    """Every service below those that need it; one that was shown before is only named again.

    Args:
        graph: The wired services.
        states: The state of each singleton.
        seconds: How long each took to start.
    """
    edges = graph.edges()
    needed = {target for name, targets in edges.items() for target in targets if target != name}
    roots = [name for name in graph.nodes if name not in needed] or list(graph.nodes)[-1:]
    lines: list[str] = []
    shown: set[str] = set()

    def walk(name: str, indent: str, branch: str, below: str) -> None:
        again = name in shown
        shown.add(name)
        lines.append(
            f"{indent}{branch}{_line(graph.nodes[name], states, seconds)}{' ↑' if again and edges[name] else ''}"
        )
        if again:
            return
        targets = edges[name]
        for number, target in enumerate(targets):
            last = number == len(targets) - 1
            walk(target, indent + below, "└─ " if last else "├─ ", "   " if last else "│  ")

    for root in reversed(roots):
        walk(root, "", "", "")
    return "\n".join(lines)


def _line(node: Node, states: Mapping[str, ServiceState], seconds: Mapping[str, float]) -> str:
    descriptor = node.descriptor
    kind = type_name(descriptor.provides)
    if descriptor.lifetime is not Lifetime.SINGLETON:
        life = descriptor.scope or descriptor.lifetime.value
        return f"◇ {node.name} ({kind}, {life})"
    state = states.get(node.name, ServiceState.REGISTERED)
    took = f" {seconds[node.name] * 1000:.0f} ms" if seconds.get(node.name) else ""
    return f"{MARKS[state]} {node.name} ({kind}) {state.value}{took}"


def mermaid(graph: Graph, states: Mapping[str, ServiceState] | None = None) -> str:
    """A flowchart: an arrow from each service to what it needs; dashed for what it asks for per call.

    Args:
        graph: The wired services.
        states: When given, failed and degraded services are coloured.
    """
    lines = ["flowchart TD"]
    for name, node in graph.nodes.items():
        left, right = ("[", "]") if node.is_singleton else ("([", "])")
        lines.append(f'  {_identifier(name)}{left}"{name}<br/>{type_name(node.descriptor.provides)}"{right}')
    for name, node in graph.nodes.items():
        firm: Sequence[str] = list({**node.uses, **node.requires})
        lines += [f"  {_identifier(name)} --> {_identifier(target)}" for target in firm]
        soft = [target for target in {**node.wants, **node.late} if target not in firm]
        lines += [f"  {_identifier(name)} -.-> {_identifier(target)}" for target in soft]
    for name, state in (states or {}).items():
        if state in {ServiceState.FAILED, ServiceState.DEGRADED}:
            lines.append(f"  style {_identifier(name)} stroke:{'red' if state is ServiceState.FAILED else 'orange'}")
    return "\n".join([*lines, ""])


def _identifier(name: str) -> str:
    return name.replace(".", "__")
