"""What a person and a program are told of a restore."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from p2v.log import shown
from p2v.model import Disk
from p2v.restore.model import DiskMove, RestorePlan
from p2v.restore.planning import disk_names
from p2v.restore.rooms import Forecast
from p2v.restore.runs import RECEIPT, RestoreJournal, RestoreReceipt
from p2v.ui import human_size, human_time


def plan_json(plan: RestorePlan) -> str:
    return TypeAdapter(RestorePlan).dump_json(plan, indent=2).decode()


def receipt_json(receipt: RestoreReceipt) -> str:
    return RECEIPT.dump_json(receipt, indent=2).decode()


def forecast_json(forecast: Forecast) -> str:
    return TypeAdapter(Forecast).dump_json(forecast, indent=2).decode()


def journal_json(journal: RestoreJournal) -> str:
    return TypeAdapter(RestoreJournal).dump_json(journal, indent=2).decode()


def plan_text(plan: RestorePlan) -> str:
    """What goes where, and what is lost by it."""
    machine = plan.metal.machine
    system = plan.guest.os.name if plan.guest.os else "unknown"
    lines = [
        f"restore    {shown(plan.source)} ({shown(system)}, {plan.guest.firmware.upper()})",
        f"onto       {shown(machine.vendor)} {shown(machine.product)} at {shown(plan.destination)}, "
        f"{machine.firmware.upper()}",
    ]
    for move in plan.moves:
        lines += _move_lines(move)
    lines += [f"network    {nic.old} becomes {nic.new}" for nic in plan.nics]
    lines.append(f"system     {'converted for this machine' if plan.convert else 'nothing in it is changed'}")
    lines.append(f"license    {plan.units} unit{'' if plan.units == 1 else 's'}")
    lines += [f"warning    {shown(warning)}" for warning in plan.warnings]
    return "\n".join(lines)


def _move_lines(move: DiskMove) -> Iterator[str]:
    target, size = move.target, human_size(move.source.disk.size)
    yield f"disk {move.index}     {shown(move.source.path.name)}, {size}"
    yield (
        f"  onto     {target.path}: {shown(target.model) or 'unknown model'}, {human_size(target.size)}, "
        + shown(disk_names(target))
    )
    for line in content_lines(target):
        yield f"  erases   {line}"
    if move.resize != "keep":
        which = f"partition {move.partition}" if move.partition else "the last partition that can"
        yield f"  {move.resize}s   {which}"


def content_lines(disk: Disk) -> Iterator[str]:
    """What is on a disk now."""
    if not disk.partitions:
        kind = disk.filesystem.kind if disk.filesystem else ""
        yield f"{shown(kind)} without partitions" if kind else "nothing that is known"
    for partition in disk.partitions:
        filesystem = partition.filesystem
        kind = filesystem.kind if filesystem else "unknown"
        label = f" {filesystem.label!r}" if filesystem and filesystem.label else ""
        yield shown(f"partition {partition.number}: {human_size(partition.length)}, {kind}{label}")


def receipt_text(receipt: RestoreReceipt, directory: Path) -> str:
    machine = receipt.plan.metal.machine
    lines = [
        f"{receipt.kind}   {shown(receipt.plan.source)} onto {shown(machine.product or machine.hostname)}"
    ]
    for done in receipt.disks:
        lines.append(
            f"disk       {shown(done.disk)}: {human_size(done.sent_size)} of {human_size(done.data_size)} "
            f"used written, {human_size(done.wire_size)} sent, {human_size(done.kept_size)} was there, "
            f"{human_size(done.verified_size)} read back, {human_time(done.seconds)}"
        )
    if receipt.conversion is not None:
        lines.append(f"changed    {len(receipt.conversion.changes)} files of the system")
    lines += [f"boot entry {shown(entry.title)}: {shown(entry.loader)}" for entry in receipt.entries]
    if receipt.license is not None:
        why = f" ({receipt.license.reason})" if receipt.license.reason else ""
        lines.append(f"license    {receipt.license.units} units {receipt.license.state}{why}")
    lines += [f"warning    {shown(warning)}" for warning in receipt.warnings]
    return "\n".join([*lines, f"receipt    {directory / 'receipt.json'}"])


def forecast_text(forecast: Forecast) -> str:
    rate = f" at {human_size(forecast.rate)}/s" if forecast.rate else ""
    return "\n".join(
        [
            plan_text(forecast.plan),
            f"differs    {human_size(forecast.differing_size)} of {human_size(forecast.data_size)} used",
            f"takes      about {human_time(forecast.seconds)}{rate}",
        ]
    )


def journal_text(journal: RestoreJournal, directory: Path) -> str:
    """An unfinished restore: what is done and how to go on."""
    done = [
        f"  done     {step.name} in {human_time(step.seconds)}, {step.finished}" for step in journal.steps
    ]
    return "\n".join([plan_text(journal.plan), *done, f"Continue with: p2v resume {directory}"])
