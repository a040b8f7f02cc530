"""The last pass of a copy, in the window in which the filesystems of the source stand still.

Whatever keeps it from being one moment is `NotReached`, with the seconds for which the source was held up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from p2v.grades import can_be_read_twice
from p2v.model import MountedFilesystem, PassKind, Plan
from p2v.passes import Lanes, Passes, Within
from p2v.transports import Frozen, Guard, Thawed
from p2v.ui import human_time

STABLE_TRIES = 4
"""How often a filesystem that cannot be frozen is read again until nothing has changed meanwhile."""


class NotReached(Exception):
    """The moment could not be had: why, what to type, and the seconds that filesystems were frozen for it."""

    def __init__(self, reason: str, hint: str = "", *, seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
        self.seconds = seconds


def check_time(plan: Plan, expected: float) -> None:
    """Raises NotReached where the last pass would take longer than filesystems may be frozen."""
    if expected > plan.freeze_limit:
        raise NotReached(
            f"the last pass would take about {human_time(expected)}, and the filesystems may be frozen for "
            f"{human_time(plan.freeze_limit)} only",
            _longer(expected),
        )


def _longer(seconds: float) -> str:
    return f"To have the time: --freeze-limit {math.ceil(seconds * 1.5)}"


def check_frozen(frozen: Frozen, guard: Guard) -> None:
    """Raises NotReached, thawed again, unless what could not be frozen can be read until it is stable."""
    bad = [f"{_name(one)}: {reason}" for one, reason in frozen.failed if not can_be_read_twice(one)]
    if frozen.fired:
        seconds = guard.thaw().seconds
        raise NotReached("freezing took longer than it may", _longer(seconds), seconds=seconds)
    if bad:
        raise NotReached(f"cannot freeze {'; '.join(bad)}", seconds=guard.thaw().seconds)


def last_pass(
    plan: Plan, passes: Passes, guard: Guard, lanes: Lanes, frozen: Frozen, *, within: Within | None = None
) -> float:
    """The pass that counts, then the thaw; returns the seconds frozen. Raises NotReached, TransportError."""
    started = time.monotonic()
    guard.flush()
    if within is None or within:
        passes.run_on(PassKind.FROZEN, lanes, within=within)
    unstable = [one for one, _ in frozen.failed if not _is_stable(one, guard, passes, lanes)]
    took = time.monotonic() - started
    thawed = guard.thaw()
    _check_thawed(thawed, plan, took)
    if unstable:
        names = ", ".join(_name(one) for one in unstable)
        raise NotReached(f"{names} cannot be frozen and changed all the time", seconds=thawed.seconds)
    return thawed.seconds


def _is_stable(one: MountedFilesystem, guard: Guard, passes: Passes, lanes: Lanes) -> bool:
    """Whether a filesystem that is not frozen was read twice in a row with nothing changed."""
    within = passes.blocks_of([one])
    for _ in range(STABLE_TRIES):
        guard.flush()
        if not passes.run_on(PassKind.FROZEN, lanes, within=within).moved_size:
            return True
    return False


def _check_thawed(thawed: Thawed, plan: Plan, took: float) -> None:
    if thawed.fired:
        raise NotReached(
            f"the last pass took {human_time(took)}, and the filesystems were thawed after "
            f"{human_time(plan.freeze_limit)}",
            _longer(took),
            seconds=thawed.seconds,
        )
    if thawed.lost:
        places = ", ".join(thawed.lost)
        raise NotReached(
            f"somebody thawed {places} while the last pass was under way", seconds=thawed.seconds
        )


def _name(one: MountedFilesystem) -> str:
    return f"{one.place} ({one.kind})"


def places_of(filesystems: Iterable[MountedFilesystem]) -> tuple[str, ...]:
    return tuple(one.place for one in filesystems)
