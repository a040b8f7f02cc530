"""The answers of the commands: as text for a person, as one JSON document for a program. Pure functions."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter

from p2v.doctor import Check, State
from p2v.journal import RECEIPT, Journal
from p2v.model import Change, Disk, LicenseUse, Output, Partition, Placed, Plan, Proof, Receipt
from p2v.plan import describe
from p2v.probe import Estimate, Scan
from p2v.run_folder import RunState, RunSummary
from p2v.targets import TARGETS, Option, target_of
from p2v.ui import human_size, human_time

LINE_LIMIT = 1000

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TargetRow:
    """One line of `p2v targets`."""

    name: str
    title: str
    image: str
    configuration: str
    disks: str
    network: str
    firmware: tuple[str, ...]
    options: tuple[Option, ...] = ()


def _json(adapter: TypeAdapter[T], value: T) -> str:
    return adapter.dump_json(value, indent=2).decode()


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def shown(text: str) -> str:
    """What a source says of itself, for one line on a terminal: nothing that moves the cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)[:LINE_LIMIT]


def scan_json(scan: Scan) -> str:
    return _json(TypeAdapter(Scan), scan)


def scan_text(scan: Scan) -> str:
    return "\n".join(shown(line) for line in _scan_lines(scan))


def _scan_lines(scan: Scan) -> Iterator[str]:
    machine = scan.machine
    hardware = " ".join(filter(None, (machine.vendor, machine.product)))
    yield f"{machine.hostname}  {machine.os.name if machine.os else 'no operating system found'}"
    if hardware:
        yield f"  hardware   {hardware}"
    yield f"  firmware   {machine.firmware.upper()}"
    yield f"  processor  {machine.cpus} CPU, {human_size(machine.memory)} memory"
    if machine.kernel:
        yield f"  kernel     {machine.kernel}"
    for disk in machine.disks:
        yield from _disk_lines(disk)
    for nic in machine.nics:
        addresses = ", ".join(nic.addresses) or "no address"
        yield f"  network    {nic.name}  {nic.mac}  {nic.driver}  {addresses}"
    for finding in scan.findings:
        yield f"  {finding.severity:<9}  {finding.message}"
        if finding.hint:
            yield f"             {finding.hint}"
    if scan.estimate is not None:
        yield _estimate_line(scan.estimate)


def _disk_lines(disk: Disk) -> Iterator[str]:
    serial = f"serial {disk.serial}" if disk.serial else ""
    facts = [human_size(disk.size), disk.table.upper(), disk.model, serial]
    yield f"  disk       {disk.path}  " + "  ".join(filter(None, facts))
    yield f"             to copy: {human_size(disk.data_size)}"
    for partition in disk.partitions:
        yield _partition_line(partition)


def _partition_line(partition: Partition) -> str:
    filesystem = partition.filesystem
    kind = filesystem.kind if filesystem else "unknown"
    used = f"{human_size(filesystem.used)} used" if filesystem and filesystem.used is not None else ""
    words = [
        f"{partition.number:>3}",
        f"{human_size(partition.length):>10}",
        kind,
        used,
        partition.mountpoint,
    ]
    return "           " + "  ".join(filter(None, words))


def _estimate_line(estimate: Estimate) -> str:
    return (
        f"  estimate   {human_time(estimate.seconds)}: {human_size(estimate.data_size)} to copy at "
        f"{human_size(estimate.rate)}/s"
    )


def plan_json(plan: Plan) -> str:
    return _json(TypeAdapter(Plan), plan)


def plan_text(plan: Plan) -> str:
    return describe(plan, size=human_size(plan.data_size))


def receipt_json(receipt: Receipt) -> str:
    return _json(RECEIPT, receipt)


def receipt_text(receipt: Receipt, directory: Path) -> str:
    """What was made and where, in the order in which a person asks."""
    return "\n".join(_receipt_lines(receipt, directory))


def _receipt_lines(receipt: Receipt, directory: Path) -> Iterator[str]:
    for output in receipt.outputs:
        yield from _output_lines(receipt, output, directory)
    if not receipt.outputs:
        yield from _capture_lines(receipt, directory)
    stats = receipt.capture
    copied = f"{human_size(stats.data_size)} of {human_size(stats.size)}"
    wire = f"{human_size(stats.wire_size)} on the wire, in {human_time(stats.seconds)}"
    yield f"  copied     {copied}, {wire}; consistency {_grade_words(receipt)}"
    for change in {change: None for output in receipt.outputs for change in output.conversion.changes}:
        yield _change_line(change)
    yield from _registry_lines(receipt, directory)
    for warning in receipt.warnings:
        yield f"  warning    {shown(warning)}"
    for output in receipt.outputs:
        if output.proof is not None:
            folder = directory / "proof" / output.platform.label
            yield from (f"  {line}" for line in proof_text(output.proof, folder).splitlines())
    if receipt.license is not None:
        yield f"  license    {_license_words(receipt.license)}"


def _registry_lines(receipt: Receipt, directory: Path) -> Iterator[str]:
    """How much of a registry was changed; a conversion touches some hundred values."""
    changes = {change: None for output in receipt.outputs for change in output.conversion.registry}
    for hive in dict.fromkeys(change.hive for change in changes):
        count = sum(change.hive == hive for change in changes)
        things = "key or value" if count == 1 else "keys and values"
        yield f"  registry   {shown(hive)}: {count} {things} changed; each one: p2v show {directory} --json"


def _output_lines(receipt: Receipt, output: Output, directory: Path) -> Iterator[str]:
    platform, vm = output.platform, output.vm
    folder = directory / "vm" / platform.label
    yield f"{receipt.plan.machine.hostname} is now the virtual machine {vm.name} for {platform.name}"
    for file in output.files:
        yield f"  image      {folder / file.path}  {human_size(file.size)}"
    target = target_of(platform)
    for config in target.render(vm, folder.absolute()):
        yield f"  config     {folder / config.name}"
    if output.placed is None:
        yield f"  next       {shown(target.start(vm, folder))}"
        return
    yield f"  imported   {shown(_place_words(output.placed))}"
    if not output.placed.powered_on:
        yield f"  next       govc vm.power -on {shown(shlex.quote(output.placed.path))}"


def _place_words(place: Placed) -> str:
    power = ", powered on" if place.powered_on else ""
    return (
        f"{place.path} ({place.reference}) on {place.server}, host {place.host}, "
        f"datastore {place.datastore}{power}"
    )


def _capture_lines(receipt: Receipt, directory: Path) -> Iterator[str]:
    yield f"{receipt.plan.machine.hostname} is captured"
    for image in receipt.images:
        yield f"  image      {directory / image.path}  {human_size(image.size)}"
    yield f"  next       p2v emit {directory} --to TARGET"


def _grade_words(receipt: Receipt) -> str:
    """The grade that was reached, not the one that was planned."""
    reached = receipt.capture.reached
    if reached is None:
        return str(receipt.plan.consistency)
    count = len(reached.passes)
    details = [f"{count} pass{'' if count == 1 else 'es'}"]
    if reached.frozen_seconds:
        details.append(f"filesystems frozen for {human_time(reached.frozen_seconds)}")
    if reached.span_seconds:
        details.append(f"{human_time(reached.span_seconds)} between the first and the last snapshot")
    return f"{reached.grade} ({', '.join(details)})"


def _change_line(change: Change) -> str:
    return f"  {change.kind:<9}  {shown(change.path)}: {shown(change.reason)}"


def _license_words(use: LicenseUse) -> str:
    cost = f"{use.units} unit{'' if use.units == 1 else 's'} {use.state}"
    left = "" if use.left is None else f", {use.left} left of {use.license}"
    return cost + (f" ({use.reason})" if use.reason else "") + left


def proof_json(proof: Proof) -> str:
    return _json(TypeAdapter(Proof), proof)


def proof_text(proof: Proof, folder: Path) -> str:
    how = f"after {human_time(proof.seconds)} ({proof.accelerator})"
    lines = [f"proof      {proof.verdict} {how}: {proof.evidence}"]
    lines += [f"failed     {unit}" for unit in proof.failed_units]
    if proof.screenshot:
        lines.append(f"screen     {folder / proof.screenshot}")
    if proof.serial_log:
        lines.append(f"serial     {folder / proof.serial_log}")
    return "\n".join(shown(line) for line in lines)


def runs_json(runs: tuple[RunSummary, ...]) -> str:
    return _json(TypeAdapter(tuple[RunSummary, ...]), runs)


def runs_text(runs: tuple[RunSummary, ...]) -> str:
    if not runs:
        return "no runs"
    rows = [("RUN", "STATE", "MACHINE", "CREATED", "SIZE")]
    rows += [(run.name, _state_words(run), run.hostname, run.created, human_size(run.size)) for run in runs]
    return table(rows)


def _state_words(run: RunSummary) -> str:
    match run.state:
        case RunState.UNFINISHED | RunState.NEW:
            return f"{run.state}, next: {run.next_step}" if run.next_step else run.state
        case RunState.DAMAGED:
            return f"damaged: {run.problem}"
        case _:
            return run.state


def journal_json(journal: Journal) -> str:
    return _json(TypeAdapter(Journal), journal)


def journal_text(journal: Journal, directory: Path) -> str:
    """An unfinished run: what is done and how to go on."""
    done = [
        f"  done       {step.name} in {human_time(step.seconds)}, {step.finished}" for step in journal.steps
    ]
    rest = [f"  to do      {name}" for name in journal.order if journal.done(name) is None]
    return "\n".join([plan_text(journal.plan), *done, *rest, f"Continue with: p2v resume {directory}"])


def targets_json() -> str:
    return _json(TypeAdapter(tuple[TargetRow, ...]), tuple(_target_rows()))


def targets_text() -> str:
    rows = [("TARGET", "HYPERVISOR", "IMAGE", "CONFIGURATION", "DISKS", "NETWORK", "FIRMWARE", "OPTIONS")]
    for row in _target_rows():
        firmware, options = ", ".join(row.firmware), " ".join(option.key for option in row.options)
        words = (row.name, row.title, row.image, row.configuration, row.disks, row.network, firmware, options)
        rows.append(words)
    return "\n".join([table(rows), "", *_option_lines()])


def _option_lines() -> Iterator[str]:
    """What each option can be; the usual value first."""
    yield "Options, as --to TARGET:VALUE or --to TARGET:KEY=VALUE,KEY=VALUE (the first is the usual one):"
    width = max(len(name) for name in TARGETS)
    for row in _target_rows():
        for option in row.options:
            yield f"  {row.name.ljust(width)}  {option.key}={'|'.join(option.values)}"


def _target_rows() -> Iterator[TargetRow]:
    for name, target in TARGETS.items():
        platform = target.platform
        yield TargetRow(
            name=name,
            title=platform.title,
            image=platform.image_format.suffix,
            configuration=target.configuration,
            disks=platform.disk_bus,
            network=platform.nic_model,
            firmware=tuple(firmware.upper() for firmware in platform.firmwares),
            options=target.options,
        )


def checks_json(checks: tuple[Check, ...]) -> str:
    return _json(TypeAdapter(tuple[Check, ...]), checks)


def checks_text(checks: tuple[Check, ...]) -> str:
    lines = []
    width = max(len(check.name) for check in checks)
    for check in checks:
        lines.append(f"{check.state:<8} {check.name.ljust(width)}  {check.found}")
        if check.state is not State.OK and check.mend:
            lines.append(f"{'':8} {'':{width}}  → {check.mend}")
    return "\n".join(lines)
