"""Which machine comes before which: cycles are found when a manifest is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

SHOWN = 12


def find_cycle(before: Mapping[str, Iterable[str]], groups: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names in a circle, each of which waits for the next, the first one again at the end; empty for none.

    `before` has the names of machines and groups that a machine waits for. A group waits for its members.
    """
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, others in before.items():
        sorter.add(name, *others)
    for group, members in groups.items():
        sorter.add(group, *members)
    try:
        sorter.prepare()
    except CycleError as error:
        # Each is "an immediate predecessor of the next": read from the back, each waits for the next.
        return tuple(reversed(error.args[1]))
    return ()


def describe_cycle(cycle: Sequence[str], groups: Iterable[str]) -> str:
    """`web01 → group db → web01`, the middle left out where it is long."""
    known = set(groups)
    words = [f"group {name}" if name in known else name for name in cycle]
    if len(words) > SHOWN:
        half = SHOWN // 2
        words = [*words[:half], "…", *words[-half:]]
    return " → ".join(words)
