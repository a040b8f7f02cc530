"""The copy of a machine that runs: how it becomes that of one moment, and an honest name for what it became.

    snapshots of all volumes ─► the pass over them ─► removed
    full pass ─► passes over what changed, until they shrink no more ─► freeze ─► the last pass ─► thaw

What cannot be had is an error where the user asked for it, and a warning where he asked for the best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2v.errors import TransportError
from p2v.from_shadows import copy_shadows
from p2v.from_snapshots import copy_snapshots
from p2v.grades import against_freezing, has_shadows
from p2v.model import Consistency, ConsistencyWish, PassKind, Plan, Reached
from p2v.passes import Passes
from p2v.window import NotReached, check_frozen, check_time, last_pass


def copy_live(plan: Plan, passes: Passes) -> Reached:
    """All disks of a running machine, of one moment where the plan wants it. Raises TransportError."""
    tried: list[NotReached] = []
    if plan.consistency is Consistency.SNAPSHOT:
        copy = copy_shadows if has_shadows(plan.machine) else copy_snapshots
        try:
            return passes.retrying(plan.machine, lambda: copy(plan, passes))
        except NotReached as error:
            tried.append(_or_raise(plan, error))
    passes.retrying(plan.machine, lambda: passes.run(PassKind.FULL))
    passes.retrying(plan.machine, passes.settle)
    never_freezes = bool(tried) and has_shadows(plan.machine)
    if plan.consistency is not Consistency.FUZZY and not never_freezes:
        try:
            return _with_reasons(passes.retrying(plan.machine, lambda: freeze(plan, passes)), tried)
        except NotReached as error:
            tried.append(_or_raise(plan, error))
    return _with_reasons(Reached(Consistency.FUZZY, tuple(passes.done)), tried)


def _or_raise(plan: Plan, error: NotReached) -> NotReached:
    """An error where the user wants this grade and no other. Raises TransportError."""
    if plan.consistency_wish is not ConsistencyWish.AUTO:
        hint = error.hint or "To take it as it is: --consistency fuzzy"
        raise TransportError(error.reason[:1].upper() + error.reason[1:], hint=hint) from error
    return error


def _with_reasons(reached: Reached, tried: Sequence[NotReached]) -> Reached:
    """Less than was planned, and why."""
    warnings = tuple(
        f"The copy is {reached.grade}: {error.reason}" + (f" ({error.hint})" if error.hint else "")
        for error in tried
    )
    seconds = reached.frozen_seconds + sum(error.seconds for error in tried)
    return replace(reached, warnings=(*warnings, *reached.warnings), frozen_seconds=seconds)


def freeze(plan: Plan, passes: Passes) -> Reached:
    """The last pass, with everything frozen that is mounted on the disks.

    Raises NotReached, TransportError.
    """
    check_time(plan, passes.last.seconds)
    # The guard last, so that it is the first to go: what it holds must not wait for the end of the readers.
    with passes.opened() as lanes, passes.guard() as guard:
        against = against_freezing(passes.seen_by(guard, plan.machine))
        if against:
            raise NotReached("; ".join(against))
        frozen = guard.freeze(passes.paths, plan.freeze_limit)
        check_frozen(frozen, guard)
        seconds = last_pass(plan, passes, guard, lanes, frozen)
    return Reached(Consistency.FROZEN, tuple(passes.done), frozen_seconds=seconds)
