"""`p2v scan`, `convert` and `capture`, and what is done with a run: `emit`, `resume`, `prove`, `runs`,
`show`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2v.job_options import (
    GUEST_IDENTITY,
    capture_options,
    driver_options,
    fault_options,
    guest_options,
    machine_options,
    source_options,
)
from p2v.model import Goal, Receipt
from p2v.options import common_options, make_house
from p2v.vsphere_cli import take_destination, vsphere_options

if TYPE_CHECKING:
    from p2v.house import House
    from p2v.job import Job

DEFAULT_OUTPUT = Path("p2v-runs")


@click.command()
@click.argument("source")
@source_options
@common_options
def scan(source: str, as_json: bool, **options: Any) -> None:
    """Show what a machine is and what would block its conversion."""
    from p2v import pipeline, report
    from p2v.job import Job

    house = make_house(options)
    job = Job(source=source, targets=(), output=DEFAULT_OUTPUT, **options)
    found = pipeline.scan(job, house)
    house.ui.result(report.scan_json(found) if as_json else report.scan_text(found))


@click.command()
@click.argument("source")
@machine_options
@vsphere_options
@capture_options
@guest_options
@driver_options
@fault_options
@source_options
@common_options
def convert(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Convert a machine into a virtual machine."""
    from p2v.job import Job

    house = make_house(options)
    options["vsphere"] = take_destination(options)
    job = Job(guest_identity=click.get_current_context().meta[GUEST_IDENTITY], **options)
    _carry_out(job, house, as_json=as_json, dry_run=dry_run)


@click.command()
@click.argument("source")
@capture_options
@fault_options
@source_options
@common_options
def capture(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Capture the disks alone, whatever is on them; `p2v emit` makes virtual machines of them."""
    from p2v.job import Job

    house = make_house(options)
    _carry_out(Job(targets=(), goal=Goal.CAPTURE, **options), house, as_json=as_json, dry_run=dry_run)


def _carry_out(job: Job, house: House, *, as_json: bool, dry_run: bool) -> None:
    from p2v import pipeline, report

    if dry_run:
        plan = pipeline.plan_job(job, house)
        house.ui.result(report.plan_json(plan) if as_json else report.plan_text(plan))
        return
    receipt = pipeline.convert(job, house)
    _show_receipt(receipt, job.output / receipt.plan.name, house, as_json=as_json)


def _show_receipt(receipt: Receipt, directory: Path, house: House, *, as_json: bool) -> None:
    from p2v import report

    house.ui.result(report.receipt_json(receipt) if as_json else report.receipt_text(receipt, directory))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@machine_options
@vsphere_options
@driver_options
@common_options
def emit(run: Path, targets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Make virtual machines for other hypervisors out of what a run has captured."""
    from p2v import pipeline

    house = make_house(options)
    options["vsphere"] = take_destination(options)
    receipt = pipeline.emit(run, targets, house, pipeline.EmitWishes(**options))
    _show_receipt(receipt, run, house, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@fault_options
@driver_options
@common_options
def resume(
    run: Path, allow_bad_sectors: bool, retry_for: str, drivers: Path | None, as_json: bool, **options: Any
) -> None:
    """Go on with a run that was interrupted."""
    from p2v import pipeline, restore_cli

    house = make_house(options)
    if restore_cli.resume(run, house, retry_for=retry_for, as_json=as_json):
        return
    receipt = pipeline.resume(
        run, house, allow_bad_sectors=allow_bad_sectors, retry_for=retry_for, drivers=drivers
    )
    _show_receipt(receipt, run, house, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", default="", help="Which one, where the run has several: vmware-esx8.")
@click.option("--timeout", type=click.FloatRange(10, 7200), help="Seconds to wait for the guest.")
@common_options
def prove(run: Path, target: str, timeout: float | None, as_json: bool, **options: Any) -> None:
    """Boot the virtual machine of a run in QEMU, isolated and without writing to it."""
    from p2v import pipeline, report

    house = make_house(options)
    proof, folder = pipeline.prove(run, house, target=target, timeout=timeout)
    house.ui.result(report.proof_json(proof) if as_json else report.proof_text(proof, folder))


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=DEFAULT_OUTPUT, show_default=True)
@common_options
def runs(output: Path, as_json: bool, **options: Any) -> None:
    """List the runs in a folder."""
    from p2v import pipeline, report

    house = make_house(options)
    found = pipeline.list_runs(output)
    house.ui.result(report.runs_json(found) if as_json else report.runs_text(found))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@common_options
def show(run: Path, as_json: bool, **options: Any) -> None:
    """Show what a run did, or where it stands."""
    from p2v import pipeline, report, restore_cli

    house = make_house(options)
    if restore_cli.show(run, house, as_json=as_json):
        return
    journal, receipt = pipeline.show(run)
    if receipt is None:
        house.ui.result(report.journal_json(journal) if as_json else report.journal_text(journal, run))
    else:
        _show_receipt(receipt, run, house, as_json=as_json)
