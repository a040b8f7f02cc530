"""The line from a machine to a virtual one. Start reading here.

    Job ─► probe ─► plan ─► capture + verify ─► convert ─► describe ─► write ─► prove ─► Receipt
                            └──── capture ────┘  └─────────────── emit ──────────────┘

Each room takes finished values and returns one new frozen value; what a killed run has done stays done. One
capture feeds many targets: `emit` begins where `capture` ends.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from p2v import licenses, rooms
from p2v import run as runs
from p2v.capture import capture, is_captured
from p2v.driver_shelf import DriverShelf
from p2v.errors import UsageError
from p2v.guest_unlock import read_keys
from p2v.house import House, Source
from p2v.job import Job, job_from_json
from p2v.journal import Journal
from p2v.model import Goal, Plan, Proof, Receipt
from p2v.outputs import boot_proof, make_outputs
from p2v.plan import findings
from p2v.probe import Scan, estimate
from p2v.restore import rooms as back
from p2v.restore.job import Kind, RestoreJob, restore_job_from_json
from p2v.restore.model import RestorePlan
from p2v.restore.planning import require_erase
from p2v.restore.runs import RestoreReceipt, RestoreRun, create_restore_run, list_restores, open_restore_run
from p2v.run import Run, create_run, open_run, read_journal, read_receipt
from p2v.run_folder import RunState, RunSummary
from p2v.vsphere.settings import Destination

__all__ = [
    "Elsewhere",
    "EmitWishes",
    "convert",
    "convert_elsewhere",
    "emit",
    "list_runs",
    "plan_job",
    "plan_restore",
    "prove",
    "restore",
    "resume",
    "resume_restore",
    "rollback_forecast",
    "scan",
    "show",
    "work",
]

Elsewhere = Callable[[Path, int], Receipt]
"""Has another machine work on a run directory, for which so many units are reserved: what it made."""


@dataclass(frozen=True, slots=True)
class EmitWishes:
    """What `emit` may change of the plan; None means: as it was. `memory` is bytes."""

    cpus: int | None = None
    memory: int | None = None
    prove: bool = False
    vsphere: Destination | None = None
    drivers: Path | None = None


def plan_job(job: Job, house: House) -> Plan:
    """What `convert` would do, decided and refused as it would be; nothing is written. Raises P2VError."""
    with Source(job, house) as source:
        plan = rooms.plan(job, source, house)
    licenses.warn(house)
    return plan


def convert(job: Job, house: House) -> Receipt:
    """A machine becomes a virtual machine, or its images alone where that is the job's goal.

    The same job again goes on where it stood, or returns its receipt.

    Raises the subclass of P2VError of the person who must act; what was finished by then is kept.
    """
    with Source(job, house) as source:
        plan = rooms.plan(job, source, house)
        rooms.require_space(job.output, plan)
        with create_run(
            job.output, plan.name, plan,
            job=job.to_json(), order=rooms.order(plan), redactor=house.keyring.redactor,
        ) as run:  # fmt: skip
            return _carry_out(run, plan, source, house)


def resume(
    directory: Path,
    house: House,
    *,
    allow_bad_sectors: bool = False,
    retry_for: str = "",
    drivers: Path | None = None,
) -> Receipt:
    """Go on with a run. The source is asked again only while its disks are not captured whole.

    What its job says of faults, and where its drivers are, may be changed: empty or false means as it was.
    """
    with open_run(directory, redactor=house.keyring.redactor) as run:
        job = job_from_json(run.job, where=directory)
        job = replace(
            job,
            allow_bad_sectors=allow_bad_sectors or job.allow_bad_sectors,
            retry_for=retry_for or job.retry_for,
            drivers=drivers or job.drivers,
        )
        with Source(job, house) as source:
            return _carry_out(run, _plan_of_today(run, job, source, house), source, house)


def _carry_out(run: Run, plan: Plan, source: Source, house: House) -> Receipt:
    """The contents page."""
    receipt = run.receipt()
    if run.state is RunState.FINISHED and receipt is not None:
        house.ui.say(f"{run.path} is finished already: nothing to do, no unit spent")
        return receipt
    with _resumable(run, f"p2v resume {run.path}"):
        if plan.goal is Goal.CAPTURE:
            receipt = _make(run, plan, source, house)
        else:
            with rooms.metered(run, plan, house) as unit:
                receipt = replace(_make(run, plan, source, house), license=unit.commit())
        _finish(run, receipt)
    licenses.warn(house)
    return receipt


def _make(run: Run, plan: Plan, source: Source, house: House) -> Receipt:
    """All that is made of a plan; the receipt says nothing of the license yet."""
    images, stats = capture(run, plan, source, house)
    source.close()
    if plan.goal is Goal.CAPTURE:
        return rooms.receipt(run, plan, images, stats)
    outputs = make_outputs(
        run, plan, images, house, source.keys, destination=source.job.vsphere, shelf=source.drivers
    )
    return rooms.receipt(run, plan, images, stats, outputs=outputs)


def _finish(run: Run, receipt: Receipt) -> None:
    run.write_receipt(receipt)
    run.log.info("finished; peak memory of p2v: %s", _peak_memory())


def convert_elsewhere(job: Job, house: House, elsewhere: Elsewhere) -> Receipt:
    """Like `convert`, but only looking, planning and paying is done here, and the work by another machine.

    It finds the run directory under the same path. A run that is there already is gone on with, without
    asking the source. Raises the subclass of P2VError of the person who must act.
    """
    directory = job.output / job.name
    found = show(directory) if job.name and (directory / "run.json").exists() else None
    if found is None or found[0].job != job.to_json():
        with Source(job, house) as source:
            plan = rooms.plan(job, source, house)
            rooms.require_space(job.output, plan)
            directory = job.output / plan.name
            with create_run(job.output, plan.name, plan, job=job.to_json(), order=rooms.order(plan)):
                found = show(directory)
    journal, receipt = found
    if receipt is not None:
        return receipt
    return _have_made(directory, journal, house, elsewhere)


def _have_made(directory: Path, journal: Journal, house: House, elsewhere: Elsewhere) -> Receipt:
    """Reserve, let it be made, and commit once the receipt is there."""
    plan = journal.plan
    if plan.goal is Goal.CAPTURE:
        receipt = elsewhere(directory, 0)
    else:
        with rooms.metered_id(journal.id, plan, house) as unit:
            receipt = replace(elsewhere(directory, plan.units), license=unit.commit())
    with open_run(directory, redactor=house.keyring.redactor) as run:
        _finish(run, receipt)
    licenses.warn(house)
    return receipt


def work(directory: Path, house: House, job: Job) -> Receipt:
    """The other side of `convert_elsewhere`: make all of a run that somebody has planned and pays for.

    `job` is that of today, which may reach its source in another way than when the run was made;
    `house.prepaid` is what it costs; nothing is spent, and the run is not finished before it is paid.
    """
    with open_run(directory, redactor=house.keyring.redactor) as run, Source(job, house) as source:
        plan = _plan_of_today(run, job, source, house)
        with _resumable(run, f"p2v resume {run.path}"):
            return _make(run, plan, source, house)


def _plan_of_today(run: Run, job: Job, source: Source, house: House) -> Plan:
    """The plan of a run. The source is looked at again while its disks are not captured whole."""
    plan = run.plan
    if is_captured(run):
        return plan
    now = rooms.plan(job, source, house, run=run.id)
    run.require_plan(now)
    # The same disks, under the names that they have today: another boot may have swapped two.
    return replace(plan, machine=now.machine, disks=now.disks)


def emit(directory: Path, targets: tuple[str, ...], house: House, wishes: EmitWishes) -> Receipt:
    """Make virtual machines for other targets out of the capture of a run: its receipt, with them in it.

    Costs nothing where the run has cost its unit. Raises the subclass of P2VError of the person who must act.
    """
    with ExitStack() as stack:
        run = stack.enter_context(open_run(directory, redactor=house.keyring.redactor))
        job = job_from_json(run.job, where=directory)
        job = replace(
            job,
            targets=targets,
            cpus=wishes.cpus,
            memory=wishes.memory,
            prove=wishes.prove,
            vsphere=wishes.vsphere,
            drivers=wishes.drivers or job.drivers,
        )
        images, stats = rooms.require_captured(run)
        shelf = stack.enter_context(DriverShelf(job.drivers))
        plan = rooms.plan_outputs(run, job, house, shelf)
        if wishes.drivers:
            rooms.require_unmade(run, plan)
        rooms.require_space(directory.parent, plan)
        words = " ".join(f"--to {target}" for target in targets)
        words += f" {job.vsphere.words()}" if job.vsphere else ""
        words += f" --drivers {shlex.quote(str(job.drivers))}" if wishes.drivers else ""
        with _resumable(run, f"p2v emit {run.path} {words}"), rooms.metered(run, plan, house) as unit:
            keys = read_keys(job.luks_key_files, house.ask_password)
            outputs = make_outputs(run, plan, images, house, keys, destination=job.vsphere, shelf=shelf)
            use = unit.commit()
            old = run.receipt() or rooms.receipt(run, run.plan, images, stats)
            receipt = rooms.with_outputs(run, old, outputs, use)
            run.write_receipt(receipt)
    licenses.warn(house)
    return receipt


Confirm = Callable[[RestorePlan], tuple[str, ...]]
"""Shows a person what will be erased; the serials that were typed."""


def plan_restore(job: RestoreJob, house: House) -> RestorePlan:
    """What `restore` would do, decided and refused as it would be; nothing is written. Raises P2VError."""
    with Source(job.login, house) as machine:
        return back.plan_of(job, machine, house)


def restore(job: RestoreJob, house: House, confirm: Confirm) -> RestoreReceipt:
    """Images become the disks of a physical machine, which runs a rescue system; so does a rollback.

    Before anything is written, each disk was named by its serial twice; a rollback finds its own disks.

    Raises the subclass of P2VError of the person who must act; what was written by then is not sent again.
    """
    with Source(job.login, house) as machine:
        plan = back.plan_of(job, machine, house)
        confirmed = confirm(plan)
        if job.kind is Kind.RESTORE:
            require_erase(plan, (*job.erase, *confirmed))
        plan = back.named(job, plan)
        with create_restore_run(
            job.output, plan, kind=job.kind, job=job.to_json(), redactor=house.keyring.redactor
        ) as run:
            return _put_back(run, machine, house)


def resume_restore(directory: Path, house: House, *, retry_for: str = "") -> RestoreReceipt:
    """Go on with a restore or a rollback: the same images onto the same disks, wherever they are by now."""
    with open_restore_run(directory, redactor=house.keyring.redactor) as run:
        job = restore_job_from_json(run.job, where=directory)
        job = replace(job, retry_for=retry_for or job.retry_for)
        with Source(job.login, house) as machine:
            return _put_back(run, machine, house)


def _put_back(run: RestoreRun, machine: Source, house: House) -> RestoreReceipt:
    """The other contents page."""
    receipt = run.receipt()
    if receipt is not None:
        house.ui.say(f"{run.path} is finished already: nothing to do, no unit spent")
        return receipt
    with _noted(run.log, f"p2v resume {run.path}"), back.metered(run, house) as cost:
        plan = back.plan_now(run, machine, house)
        made = back.prepared(run, machine, house)
        disks = back.write(run, plan, made, machine, house)
        warnings = back.enter_firmware(plan, made, machine, house)
        receipt = back.receipt(run, plan, made, disks, warnings=warnings, use=cost.commit())
        run.write_receipt(receipt)
    return receipt


def rollback_forecast(job: RestoreJob, house: House) -> back.Forecast:
    """What a rollback would send and how long it would take; nothing is written. Raises P2VError."""
    with Source(job.login, house) as machine:
        return back.forecast(job, back.plan_of(job, machine, house), machine, house)


def list_runs(parent: Path) -> tuple[RunSummary, ...]:
    """Conversions, captures and restores in a folder, by name. Raises UsageError where there is none."""
    found = (*runs.list_runs(parent), *list_restores(parent))
    return tuple(sorted(found, key=lambda run: run.name))


def _peak_memory() -> str:
    """`108400 kB`, resident. Not getrusage's: that one remembers the process from which this one was
    started.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return line.removeprefix("VmHWM:").strip()
    return "unknown"


@contextmanager
def _resumable(run: Run, command: str) -> Iterator[None]:
    """Whatever ends a run before its time, the command that continues it goes with the error."""
    with _noted(run.log, command):
        yield


@contextmanager
def _noted(log: logging.Logger, command: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        log.error("ended by %s: %s", type(error).__name__, error)
        error.add_note(command)
        raise


def scan(job: Job, house: House) -> Scan:
    """What is on the source, what blocks a conversion, how long it would take. Nothing is written."""
    with Source(job, house) as source:
        machine = rooms.look(job, source, house)
        with house.ui.phase("Measuring"):
            return Scan(job.source, machine, findings(machine), estimate(source.transport(), machine))


def prove(directory: Path, house: House, *, target: str, timeout: float | None) -> tuple[Proof, Path]:
    """Boot a virtual machine of a finished run again; the verdict and where it was written.

    `target` is the label of an output, such as `vmware-esx8`; empty for the only one, or the first.
    """
    with open_run(directory, redactor=house.keyring.redactor) as run:
        receipt = run.receipt()
        if receipt is None:
            raise UsageError(f"{directory} is not finished", hint=f"Try: p2v resume {directory}")
        labels = [output.platform.label for output in receipt.outputs]
        output = next((one for one in receipt.outputs if target in ("", one.platform.label)), None)
        if output is None:
            made = f"It has: {', '.join(labels)}" if labels else f"Try: p2v emit {directory} --to TARGET"
            raise UsageError(f"{directory} has no virtual machine for {target or 'any target'}", hint=made)
        label = output.platform.label
        proof = boot_proof(run, output.vm, label, house, timeout=timeout)
        return proof, run.proof_dir(label)


def show(directory: Path) -> tuple[Journal, Receipt | None]:
    """The journal of a run and, once it is finished, its receipt; also while another process works on it."""
    return read_journal(directory), read_receipt(directory)
