"""The rooms of a restore and of a rollback, in the order in which they are walked through."""

from __future__ import annotations

import hashlib
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from drivers.inf.index import DriverIndex
from p2v.atomic import write_atomically
from p2v.disk.used import disk_map
from p2v.disk.view import LinearView
from p2v.errors import ConnectionLost, LicenseError, TargetError, TransportError, UsageError
from p2v.guest_unlock import Keys
from p2v.house import House, Source
from p2v.journal import read_note, to_json
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.licensing.tiers import Feature
from p2v.model import LicenseUse
from p2v.passes import counted_once
from p2v.restore.firmware import write_entries
from p2v.restore.job import Kind, RestoreJob, parse_disks, parse_grow, parse_nics
from p2v.restore.metal import probe_metal, rescue_transport
from p2v.restore.model import DiskMove, Metal, Prepared, PreparedDisk, RestorePlan
from p2v.restore.planning import (
    RestoreWishes,
    make_restore_plan,
    make_rollback_plan,
    require_idle,
    with_targets,
)
from p2v.restore.prepare import is_prepared, prepare
from p2v.restore.runs import (
    WRITTEN,
    RestoreReceipt,
    RestoreRun,
    is_restore_run,
    read_restore_receipt,
)
from p2v.restore.sources import Images, find_images, index_of, is_run, measured_images, open_source
from p2v.restore.writing import DiskJob, DiskWriter, DiskWritten
from p2v.run import read_journal, read_receipt
from p2v.run_folder import now
from p2v.transports.writer_frames import DiskBusy

BUSY_SECONDS = 3.0
"""How long a writer whose line was closed may take to let its disk go."""

SAMPLE_BLOCKS = 8
"""Blocks that are sent, and not written, to know how fast the line is."""


def plan_of(job: RestoreJob, source: Source, house: House) -> RestorePlan:
    """Look at both sides and decide; nothing is written. Raises P2VError for every refusal."""
    match job.kind:
        case Kind.RESTORE:
            return _plan_restore(job, source, house)
        case Kind.ROLLBACK:
            return _plan_rollback(job, source, house)


def _plan_restore(job: RestoreJob, source: Source, house: House) -> RestorePlan:
    wishes = _wishes(job)
    metal = probe_metal(source, house)
    images = find_images(job.source, house, source.keys, look_inside=job.convert)
    if job.shrink:
        images = measured_images(images)
    return make_restore_plan(images.guest, images.disks, metal, wishes, units=_units(metal, house))


def _plan_rollback(job: RestoreJob, source: Source, house: House) -> RestorePlan:
    images = _rollback_images(job, house, source.keys)
    assert images.run is not None
    metal = probe_metal(source, house)
    return make_rollback_plan(images.run.plan, images.disks, metal, _wishes(job), guest=images.guest)


def _wishes(job: RestoreJob) -> RestoreWishes:
    return RestoreWishes(
        source=job.content or job.source,
        destination=job.to,
        name=job.name,
        disks=parse_disks(job.disks),
        nics=parse_nics(job.nics),
        grow=parse_grow(job.grow),
        shrink=job.shrink,
        convert=job.convert,
    )


def _rollback_images(job: RestoreJob, house: House, keys: Keys) -> Images:
    """What the machine was at its capture, or what its virtual machine has now."""
    run = Path(job.source)
    if not is_run(job.source):
        raise UsageError(f"{run} is no p2v run", hint="Try: p2v runs")
    receipt = read_receipt(run)
    if receipt is None or receipt.license is None:
        raise UsageError(
            f"{run} has no finished conversion that could be undone",
            hint=f"Try: p2v resume {run}, or p2v restore {run} --to ssh://RESCUE --disk 0=SERIAL",
        )
    if not job.content:
        return find_images(job.source, house, keys, look_inside=False)
    # What was captured then is not needed for it: it may be large, or gone by now.
    found = find_images(job.content, house, keys, look_inside=True)
    return replace(measured_images(found), run=read_journal(run))


def _units(metal: Metal, house: House) -> int:
    """What a restore onto the machine costs. Raises LicenseError where there is not so much left."""
    with open_ledger(house.home) as ledger:
        ledger.require_feature(Feature.V2P)
        quote = ledger.quote(_account(metal), "")
    if quote.units > quote.left:
        raise LicenseError(
            f"No unit is left: {quote.left} of this license are free, {quote.units} needed",
            hint="See: p2v license show",
        )
    return quote.units


def _account(metal: Metal) -> str:
    """A machine that was converted and one that is restored onto are counted each for itself."""
    return f"restore:{metal.machine.identity}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a restore has reserved; nothing for a rollback."""

    run: str
    ledger: Ledger | None

    def commit(self) -> LicenseUse:
        if self.ledger is None:
            return LicenseUse("free", "", 0, None, "rollback of a conversion onto its own machine")
        return self.ledger.commit(self.run)


@contextmanager
def metered(run: RestoreRun, house: House) -> Iterator[Cost]:
    """Reserve what a restore costs; given back when the block fails, never once committed.

    A rollback does not even ask: no state of the license may keep a machine from its own disks.
    """
    if run.kind is Kind.ROLLBACK:
        yield Cost(run.id, None)
        return
    with open_ledger(house.home) as ledger:
        ledger.reserve(run=run.id, machine=_account(run.plan.metal), title=run.plan.guest.hostname)
        try:
            yield Cost(run.id, ledger)
        except BaseException as error:
            ledger.release(run.id, f"ended by {type(error).__name__}")
            raise


def named(job: RestoreJob, plan: RestorePlan) -> RestorePlan:
    """The plan under a name that is free, where none was given: a rollback may be done again."""
    if job.name:
        return plan
    for name in (plan.name, *(f"{plan.name}-{number}" for number in range(2, 1000))):
        path = job.output / name
        if not path.exists() or (is_restore_run(path) and read_restore_receipt(path) is None):
            return replace(plan, name=name)
    raise UsageError(f"There are too many restores of that name in {job.output}", hint="Give another --name")


def plan_now(run: RestoreRun, source: Source, house: House) -> RestorePlan:
    """The plan of a run with its disks where they are now. Raises TransportError: another machine answers,
    PlanRefused: a disk is gone or in use.
    """
    with house.ui.phase("Looking at the machine"):
        now_there = rescue_transport(source).survey().machine
    planned = run.plan.metal.machine
    if planned.uuid != now_there.uuid:
        raise TransportError(
            f"Another machine answers now: {now_there.uuid}, not {planned.uuid}",
            hint=f"Is the address still right? Then: p2v resume {run.path}",
        )
    plan = with_targets(run.plan, now_there.disks)
    require_idle(plan.moves)
    return plan


def prepared(run: RestoreRun, source: Source, house: House) -> Prepared:
    """The images as they are written; made once. Raises GuestError, TargetError, TransportError."""
    started = time.monotonic()
    folder = run.folder("prepare")
    if not is_prepared(run.plan, folder):
        _forget_written(run)
    made = prepare(run.plan, folder, house, source.keys, _index(run.plan, source))
    run.finish("prepare", digest="", seconds=time.monotonic() - started)
    for warning in made.warnings:
        house.ui.warn(warning)
    return made


def _forget_written(run: RestoreRun) -> None:
    """Disks that were finished with images as they are no longer are compared and written again."""
    for note in run.folder("write").glob("disk*.json"):
        note.unlink()


def _index(plan: RestorePlan, source: Source) -> DriverIndex | None:
    """The drivers that were brought along, where a Windows may need them."""
    return source.drivers.index() if plan.guest.os and plan.guest.os.windows else None


def write(
    run: RestoreRun, plan: RestorePlan, made: Prepared, source: Source, house: House
) -> tuple[DiskWritten, ...]:
    """Every image onto its disk, read back. Raises TransportError, VerifyError, PlanRefused (in use)."""
    return tuple(
        _write_disk(run, move, disk, source, house) for move, disk in zip(plan.moves, made.disks, strict=True)
    )


def _write_disk(
    run: RestoreRun, move: DiskMove, disk: PreparedDisk, source: Source, house: House
) -> DiskWritten:
    note = run.folder("write") / f"disk{move.index}.json"
    if note.exists():
        return read_note(WRITTEN, note)[0]
    journal = note.with_suffix(".written")

    tries = count(1)

    def once() -> DiskWritten:
        with opened_disk(run, move, disk, source) as (job, writer):
            return _write_and_read_back(job, writer, house)

    def attempt() -> DiskWritten:
        first = next(tries) == 1
        try:
            return once()
        except DiskBusy as error:
            # By the writer of a line that broke, or of a p2v that was killed, until it has noticed that.
            if not first:
                raise ConnectionLost(error.message, hint=error.hint) from error
        time.sleep(BUSY_SECONDS)
        return once()

    started = time.monotonic()
    done = source.retrying(
        run.plan.metal.machine, attempt, progress=lambda: journal.stat().st_size if journal.exists() else 0
    )
    write_atomically(note, to_json(WRITTEN, (done,)))
    digest = hashlib.sha256(note.read_bytes()).hexdigest()
    run.finish(f"write:disk{move.index}", digest=digest, seconds=time.monotonic() - started)
    return done


@contextmanager
def opened_disk(
    run: RestoreRun, move: DiskMove, disk: PreparedDisk, source: Source
) -> Iterator[tuple[DiskJob, DiskWriter]]:
    """An image and its disk, both open, for as long as the block lasts."""
    with (
        _open_job(run.folder("write"), run.kind, move, disk, _run_folder(run)) as job,
        _open_writer(job, source) as writer,
    ):
        yield job, writer


def _run_folder(run: RestoreRun) -> Path:
    return Path(str(run.job["source"]))


@contextmanager
def _open_job(
    folder: Path, kind: Kind, move: DiskMove, disk: PreparedDisk, origin: Path
) -> Iterator[DiskJob]:
    with open_source(disk.path, disk.format, move.target.sector_size) as file:
        if file.size < disk.size:
            raise TargetError(f"{disk.path} has {file.size} bytes instead of {disk.size}")
        # Of an image that was shrunk, what lies behind the new end is still there.
        device = LinearView(file, ((0, disk.size),), name=str(disk.path)) if file.size > disk.size else file
        used = disk_map(device, move.target)
        as_captured = (
            kind is Kind.ROLLBACK
            and disk.path == move.source.path
            and disk.path.is_relative_to(origin.resolve())
        )
        yield DiskJob(
            device, used.extents, move.target, folder / f"disk{move.index}.written",
            compare=kind is Kind.ROLLBACK,
            index=index_of(move.source, origin) if as_captured else None,
        )  # fmt: skip


@contextmanager
def _open_writer(job: DiskJob, source: Source) -> Iterator[DiskWriter]:
    with rescue_transport(source).open_writer() as client:
        target = source.find(job.target)
        yield DiskWriter(job, client, client.open(target))


def _write_and_read_back(job: DiskJob, writer: DiskWriter, house: House) -> DiskWritten:
    name = job.target.path
    with house.ui.phase(f"Writing {name}", job.data_size) as phase, counted_once(phase) as progress:
        writer.progress = progress
        writer.write()
    with house.ui.phase(f"Reading back {name}", writer.unverified_size) as phase:
        writer.reading = phase.advance
        return writer.verify()


def enter_firmware(plan: RestorePlan, made: Prepared, source: Source, house: House) -> tuple[str, ...]:
    """Write the entries of the firmware's boot menu; warnings where that cannot be. Raises TransportError."""
    if not made.entries:
        return ()
    if not plan.metal.efi_variables:
        return ("The rescue system was not started by UEFI: the machine starts by the fallback loader",)
    with house.ui.phase("Entering the system in the firmware"):
        return source.retrying(
            plan.metal.machine, lambda: _write_entries(plan, made, source), progress=lambda: 0
        )


def _write_entries(plan: RestorePlan, made: Prepared, source: Source) -> tuple[str, ...]:
    paths = {move.index: source.find(move.target).path for move in plan.moves}
    transport = rescue_transport(source)

    def run(argv: Sequence[str], seconds: float) -> str:
        said = transport.run(shlex.join(argv), timeout=seconds)
        if said.code != 0:
            raise TransportError(f"{argv[0]}: {said.stderr.strip()[-200:]}")
        return said.stdout.decode("utf-8", "replace")

    return write_entries(made.entries, paths, run)


def receipt(
    run: RestoreRun,
    plan: RestorePlan,
    made: Prepared,
    disks: tuple[DiskWritten, ...],
    *,
    warnings: tuple[str, ...],
    use: LicenseUse,
) -> RestoreReceipt:
    return RestoreReceipt(
        run=run.id,
        kind=run.kind,
        plan=plan,
        disks=disks,
        conversion=made.conversion,
        entries=made.entries,
        license=use,
        started=run.created,
        finished=now(),
        steps=run.steps,
        warnings=tuple(dict.fromkeys((*plan.warnings, *made.warnings, *warnings))),
    )


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a rollback would do: bytes of the disks, of what is compared, of what differs, and seconds for
    all of it at the `rate` (bytes a second) that the line had just now.
    """

    plan: RestorePlan
    size: int
    data_size: int
    differing_size: int
    rate: float
    seconds: float


def forecast(job: RestoreJob, plan: RestorePlan, source: Source, house: House) -> Forecast:
    """Compare every disk and rehearse a few blocks; nothing is written over there."""
    started = time.monotonic()
    data = differing = 0
    rate = 0.0
    # Where the rollback itself would have its overlays, if it can be: /tmp is memory on many systems.
    place = job.output if os.access(job.output, os.W_OK) else None
    with TemporaryDirectory(prefix=".p2v-check-", dir=place) as name:
        folder = Path(name)
        made = prepare(plan, folder, house, source.keys, _index(plan, source))
        for move, disk in zip(plan.moves, made.disks, strict=True):
            with (
                _open_job(folder, job.kind, move, disk, Path(job.source)) as one,
                _open_writer(one, source) as writer,
                house.ui.phase(f"Comparing {move.target.path}", one.data_size) as phase,
            ):
                writer.progress = phase.advance
                requests = list(writer.compare())
                data += one.data_size
                differing += sum(request.data_size for request in requests)
                rate = writer.rehearse(requests[:SAMPLE_BLOCKS]) if requests else rate
    seconds = time.monotonic() - started + (differing / rate if rate else 0.0)
    return Forecast(plan, sum(move.target.size for move in plan.moves), data, differing, rate, seconds)
