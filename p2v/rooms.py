"""The rooms of the pipeline, in the order in which a run walks through them.

A room whose step is in the journal gives back what it made then. Everything is written under another name
first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from p2v import importing
from p2v.driver_shelf import DriverShelf
from p2v.errors import LicenseError, UsageError
from p2v.guest import GuestDisk
from p2v.guest_unlock import read_keys
from p2v.house import House, Source
from p2v.job import Job, chosen_clean_up
from p2v.journal import IMAGES, STATS, read_note, step_name
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.model import (
    CaptureStats,
    Goal,
    Image,
    LicenseUse,
    Machine,
    Output,
    Plan,
    Receipt,
)
from p2v.plan import Offer, Wishes, make_plan, plan_for_others
from p2v.probe import look_at_images, look_into_image, probe
from p2v.run import Run
from p2v.run import require_space as need_space
from p2v.targets import Target, find_target
from p2v.targets.images import space_needed
from p2v.transports.image import image_files, image_format
from p2v.windows_offers import offer

NO_TARGET = "raw"
"""Stands in the plan of a capture alone, of which nothing is made yet."""


def plan(job: Job, source: Source, house: House, *, run: str = "") -> Plan:
    """Probe and decide; refuses what cannot work. `run` is the id of a run that is resumed."""
    clean_up = chosen_clean_up(job)
    targets = find_targets(job)
    machine = look(job, source, house)
    units = 0 if job.goal is Goal.CAPTURE else units_for(machine, house, run)
    wishes = Wishes(
        job.source, job.name, job.disks, job.cpus, job.memory, job.prove, job.consistency, job.freeze_limit,
        clean_up, job.mac,
    )  # fmt: skip
    offers, said = offers_for(machine, targets, source.drivers)
    made = make_plan(machine, wishes, offers, units=units, goal=job.goal)
    made = replace(made, warnings=(*made.warnings, *said))
    return importing.placed(made, job.vsphere, job.output / made.name, house)


def offers_for(
    machine: Machine, targets: Sequence[Target], shelf: DriverShelf
) -> tuple[list[Offer], tuple[str, ...]]:
    """The platform of each target as this machine would get it, and what is to be known of that.

    Raises UsageError, TargetError where the drivers that a user brought for a Windows cannot be read.
    """
    platforms = [target.fit(target.platform, machine.firmware) for target in targets]
    system = machine.os
    if system is None or system.windows is None:
        found = [Offer(platform, each.check) for platform, each in zip(platforms, targets, strict=True)]
        return found, ()
    index = shelf.index()
    made = [offer(target, one, system, index) for target, one in zip(targets, platforms, strict=True)]
    offers = [
        Offer(one.platform, one.checked(target.check)) for one, target in zip(made, targets, strict=True)
    ]
    return offers, tuple(dict.fromkeys(warning for one in made for warning in one.warnings))


def find_targets(job: Job) -> tuple[Target, ...]:
    """Raises UsageError for one that there is not, or that is named twice."""
    targets = tuple(find_target(name) for name in job.targets or (NO_TARGET,))
    labels = [target.platform.label for target in targets]
    twice = next((label for label in labels if labels.count(label) > 1), "")
    if twice:
        raise UsageError(f"The target {twice} is named twice")
    importing.require_destination(targets, job.vsphere)
    return targets


def units_for(machine: Machine, house: House, run: str) -> int:
    """What a conversion of the machine costs. Raises LicenseError where there is not so much left."""
    if house.prepaid is not None:
        return house.prepaid
    with open_ledger(house.home) as ledger:
        quote = ledger.quote(machine.identity, run)
    if quote.units > quote.left:
        raise LicenseError(
            f"No conversion is left: {quote.left} of this license are free, {quote.units} needed",
            hint="See: p2v license show",
        )
    return quote.units


def plan_outputs(run: Run, job: Job, house: House, shelf: DriverShelf) -> Plan:
    """What is made out of a capture that is there. Raises UsageError, PlanRefused, LicenseError."""
    targets = find_targets(job)
    captured = run.plan
    if captured.machine.os is None:
        captured = replace(captured, machine=_look_into_capture(run, house, job))
    offers, said = offers_for(replace(captured.machine, firmware=captured.firmware), targets, shelf)
    wishes = Wishes(job.source, cpus=job.cpus, memory=job.memory, prove=job.prove)
    units = units_for(captured.machine, house, run.id)
    plan = plan_for_others(captured, wishes, offers, units=units)
    plan = replace(plan, warnings=tuple(dict.fromkeys((*plan.warnings, *said))))
    return importing.placed(plan, job.vsphere, run.path, house)


def require_unmade(run: Run, plan: Plan) -> None:
    """Raises UsageError for a machine that is made already: other drivers would not change it any more."""
    done = run.receipt()
    made = {output.platform.label for output in done.outputs} if done else set()
    for label in (one.platform.label for one in plan.each()):
        if label in made:
            raise UsageError(
                f"{run.path} has a machine for {label} already, made without these drivers",
                hint="Name the device that they are for, such as --to libvirt:bus=virtio-blk, or convert "
                "again with another --name",
            )


def _look_into_capture(run: Run, house: House, job: Job) -> Machine:
    images, _ = require_captured(run)
    disks = [GuestDisk(run.path / image.path, image.format) for image in images]
    with house.ui.phase("Looking into the images"):
        keys = read_keys(job.luks_key_files, house.ask_password)
        machine = look_at_images(run.plan.machine, disks)
        return look_into_image(machine, disks, house.accelerator().accelerator, keys)


def look(job: Job, source: Source, house: House) -> Machine:
    """The machine; of an image, what the system on it says of itself."""
    transport = source.transport()
    machine = probe(transport, house.ui, job.goal)
    if machine.live or job.goal is Goal.CAPTURE:
        return machine
    images = [GuestDisk(file.path, image_format(file.path)) for file in image_files(job.source)]
    with house.ui.phase("Looking into the image"):
        accelerator = house.accelerator().accelerator
        return look_into_image(machine, images, accelerator, source.keys)


def order(plan: Plan) -> tuple[str, ...]:
    """The names of the steps of a run, for `p2v runs`."""
    plans = plan.each()
    steps = ["capture", step_name("convert", *plans)] if plans else ["capture"]
    for one in plans:
        steps += [step_name("write", one), *([step_name("prove", one)] if one.prove else ())]
    steps += [step for one in plans if (step := importing.step_of(one))]
    return tuple(steps)


def require_space(output: Path, plan: Plan) -> None:
    """Raises TargetError where the run would not fit. What an earlier try wrote already counts as free."""
    there = output / plan.name / "capture"
    written = sum(file.stat().st_blocks * 512 for file in there.glob("*.raw*")) if there.is_dir() else 0
    need_space(output, max(0, space_needed(plan.data_size, len(plan.each())) - written))


@dataclass(frozen=True, slots=True)
class Unit:
    """The license unit of a run, reserved."""

    run: str
    ledger: Ledger

    def commit(self) -> LicenseUse:
        return self.ledger.commit(self.run)


@contextmanager
def metered(run: Run, plan: Plan, house: House) -> Iterator[Unit]:
    """Reserve a unit for the block; given back when the block fails or is cancelled, never once committed."""
    with metered_id(run.id, plan, house) as unit:
        yield unit


@contextmanager
def metered_id(run: str, plan: Plan, house: House) -> Iterator[Unit]:
    """The same for a run that another process works on: `run` is its id."""
    machine = plan.machine
    with open_ledger(house.home) as ledger:
        ledger.reserve(run=run, machine=machine.identity, title=machine.hostname)
        try:
            yield Unit(run, ledger)
        except BaseException as error:
            ledger.release(run, f"ended by {type(error).__name__}")
            raise


def require_captured(run: Run) -> tuple[tuple[Image, ...], CaptureStats]:
    """What an earlier capture of this run made. Raises UsageError where it is not whole yet."""
    if run.done("capture") is None:
        raise UsageError(f"{run.path} is not captured whole yet", hint=f"Try: p2v resume {run.path}")
    folder = run.path / "capture"
    return read_note(IMAGES, folder / "images.json"), read_note(STATS, folder / "stats.json")


def receipt(
    run: Run,
    plan: Plan,
    images: tuple[Image, ...],
    stats: CaptureStats,
    *,
    outputs: tuple[Output, ...] = (),
    use: LicenseUse | None = None,
) -> Receipt:
    said = (
        warning
        for output in outputs
        for warning in (*output.conversion.warnings, *(output.placed.warnings if output.placed else ()))
    )
    return Receipt(
        run=run.id,
        plan=plan,
        images=images,
        capture=stats,
        outputs=outputs,
        license=use,
        started=run.created,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        steps=run.steps,
        warnings=tuple(dict.fromkeys((*plan.warnings, *stats.warnings, *said))),
    )


def with_outputs(run: Run, old: Receipt, outputs: tuple[Output, ...], use: LicenseUse) -> Receipt:
    """The receipt of a run that has made more out of its capture."""
    new = {output.platform.label for output in outputs}
    kept = tuple(output for output in old.outputs if output.platform.label not in new)
    spent = old.license if old.license is not None and old.license.units else use
    more = receipt(run, old.plan, old.images, old.capture, outputs=(*kept, *outputs), use=spent)
    return replace(more, warnings=tuple(dict.fromkeys((*old.warnings, *more.warnings))))
