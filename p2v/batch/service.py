"""What `p2v batch` does: plan all of a manifest, or run it. Nothing starts before everything is checked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2v import licenses
from p2v.atomic import LockHeld, locked
from p2v.batch import credentials, page, standing
from p2v.batch.board import Board
from p2v.batch.conduct import Conductor, Make, Planner, make_here
from p2v.batch.manifest import Entry, Manifest
from p2v.batch.runner import Course, Runner
from p2v.batch.runner import Wishes as RunnerWishes
from p2v.batch.summary import Estimate, Summary, estimate
from p2v.errors import LicenseError, PlanRefused, TargetError, UsageError
from p2v.house import House
from p2v.licensing.ledger import open_ledger
from p2v.licensing.tiers import Feature
from p2v.model import Goal
from p2v.run import free_space
from p2v.transports.rate import RateLimit, parse_rate, parse_windows


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says; it is stronger than the manifest. `limit` as typed, `only` names and
    groups.
    """

    parallel: int | None = None
    limit: str = ""
    only: tuple[str, ...] = ()
    stop_on_failure: bool = False


def select(manifest: Manifest, only: Sequence[str]) -> tuple[Entry, ...]:
    """The machines of these names and groups; all where none is given. Raises UsageError."""
    if not only:
        return manifest.entries
    known = {entry.name for entry in manifest.entries} | {group.name for group in manifest.groups()}
    unknown = [word for word in only if word not in known]
    if unknown:
        raise UsageError(
            f"{manifest.path} has no machine and no group {', '.join(unknown)}",
            hint="Look at its names and groups",
        )
    return tuple(
        entry for entry in manifest.entries if entry.name in only or not set(only).isdisjoint(entry.groups)
    )


def require_license(manifest: Manifest, house: House, *, cluster: bool = False) -> None:
    """Raises LicenseError unless a license covers so many machines, and a cluster where one is asked for."""
    with open_ledger(house.home) as ledger:
        ledger.require_feature(Feature.BATCH, amount=len(manifest.entries))
        if cluster:
            ledger.require_feature(Feature.CLUSTER)


def dry_run(manifest: Manifest, house: House, wishes: Wishes) -> Estimate:
    """What it would cost, with the machines looked at and planned as a run would. Nothing is written."""
    require_license(manifest, house)
    entries = tuple(replace(entry, windows=(), after=(), needs=()) for entry in select(manifest, wishes.only))
    course, interruption = _course(manifest, entries, house, wishes, planner=True)
    if interruption is not None:
        raise interruption
    return estimate(course.outcomes, licenses.status(house).left, free_space(manifest.output))


def require_units(found: Estimate) -> None:
    """Raises LicenseError where a batch would stop for want of units."""
    if found.left is not None and found.units > found.left:
        raise LicenseError(
            f"{found.units} conversions are needed, {found.left} are left", hint="See: p2v license show"
        )


def run(
    manifest: Manifest, house: House, wishes: Wishes, *, make: Make = make_here
) -> tuple[Summary, BaseException | None]:
    """Convert the machines. The summary, and what interrupted it, to be raised again once it was shown.

    Raises UsageError, LicenseError, PlanRefused, TargetError before anything has begun.
    """
    entries = select(manifest, wishes.only)
    with _held(manifest):
        course, interruption = _course(manifest, entries, house, wishes, make=make)
        if interruption is not None:
            interruption.add_note(f"p2v batch {manifest.path} --output {manifest.output}")
        target = manifest.output / f"batch-{manifest.path.stem}.html"
        summary = Summary(manifest.path, manifest.output, course, target)
        page.write_page(summary, target)
    licenses.warn(house)
    return summary, interruption


def _course(
    manifest: Manifest,
    entries: Sequence[Entry],
    house: House,
    wishes: Wishes,
    *,
    make: Make = make_here,
    planner: bool = False,
) -> tuple[Course, BaseException | None]:
    limit = _shared_limit(manifest, wishes)
    open_entries = [entry for entry in entries if not standing.is_finished(entry)]
    answers = credentials.collect(open_entries, house)
    if make is make_here and any(entry.job.goal is Goal.CONVERT for entry in open_entries):
        house.accelerator()  # found out once, and not by all jobs at the same time
    parallel = min(wishes.parallel or manifest.parallel or 1, max(1, len(entries)))
    board = Board(house.ui, len(entries), parallel)
    kind = Planner if planner else Conductor
    conductor = kind(manifest, house, board, make=make, limit=limit, answers=answers)
    runner = Runner(manifest, entries, conductor, board, RunnerWishes(parallel, wishes.stop_on_failure))
    return runner.run()


def _shared_limit(manifest: Manifest, wishes: Wishes) -> RateLimit | None:
    """One bucket for all jobs. Raises UsageError."""
    limit = wishes.limit or manifest.limit
    if not limit and not manifest.limit_windows:
        return None
    return RateLimit(parse_rate(limit) if limit else None, parse_windows(manifest.limit_windows))


@contextlib.contextmanager
def _held(manifest: Manifest) -> Iterator[None]:
    """One batch of a manifest at a time. Raises PlanRefused, TargetError."""
    name = manifest.output / f".batch-{manifest.path.stem}.lock"
    with contextlib.ExitStack() as stack:
        try:
            manifest.output.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(name))
        except LockHeld as error:
            raise PlanRefused(
                f"Another batch of {manifest.path.name} works in {manifest.output}",
                hint=f"Wait for process {error.pid}",
            ) from error
        except OSError as error:
            raise TargetError(
                f"Cannot write in {manifest.output}: {error.strerror}", hint="Give another --output"
            ) from error
        yield


__all__ = ["Wishes", "dry_run", "require_license", "require_units", "run", "select"]
