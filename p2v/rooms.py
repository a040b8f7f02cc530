"""The rooms of the pipeline, in the order in which a run walks through them.

A room whose step is in the journal gives back what it made then. Everything is written under another name
first.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import conversions
import drivers
from p2v.atomic import write_atomically
from p2v.errors import LicenseError, ProofFailed
from p2v.guest import Access, GuestDisk, open_guest
from p2v.guest_inspect import mount_root, operating_system
from p2v.guest_unlock import Keys
from p2v.guest_wishes import script_content
from p2v.house import House, Source
from p2v.job import Job, chosen_clean_up
from p2v.journal import CONVERSION, IMAGES, PROOF, read_note, to_json
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.model import (
    CaptureStats,
    Conversion,
    Image,
    ImageFormat,
    LicenseUse,
    Machine,
    Plan,
    Proof,
    Receipt,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.plan import Wishes, make_plan
from p2v.probe import look_into_image, probe
from p2v.proof import prove as boot_and_watch
from p2v.run import Run
from p2v.run import require_space as need_space
from p2v.targets import find_target
from p2v.targets.images import make_overlay, space_needed, write_image
from p2v.transports.image import image_files, image_format

PROOF_SECONDS = {"kvm": 300.0, "tcg": 900.0}
"""Time limit of a boot; in emulation a Debian system takes about 50 s alone and three times that beside
another.
"""


def plan(job: Job, source: Source, house: House, *, run: str = "") -> Plan:
    """Probe and decide; refuses what cannot work. `run` is the id of a run that is resumed."""
    clean_up = chosen_clean_up(job)
    target = find_target(job.target)
    machine = look(job, source, house)
    with open_ledger(house.home) as ledger:
        quote = ledger.quote(machine.identity, run)
    if quote.units > quote.left:
        raise LicenseError(
            f"No conversion is left: {quote.left} of this license are free, {quote.units} needed",
            hint="See: p2v license show",
        )
    wishes = Wishes(
        job.source, job.name, job.disks, job.cpus, job.memory, job.prove, job.consistency, job.freeze_limit,
        clean_up, job.mac,
    )  # fmt: skip
    return make_plan(machine, wishes, target.platform, units=quote.units, check=target.check)


def look(job: Job, source: Source, house: House) -> Machine:
    """The machine; of an image, what the system on it says of itself."""
    transport = source.transport()
    machine = probe(transport, house.ui)
    if machine.live:
        return machine
    images = [GuestDisk(file.path, image_format(file.path)) for file in image_files(job.source)]
    with house.ui.phase("Looking into the image"):
        accelerator = house.accelerator().accelerator
        return look_into_image(machine, images, accelerator, source.keys)


def order(plan: Plan) -> tuple[str, ...]:
    """The names of the steps of a run, for `p2v runs`."""
    return ("capture", "convert", "write", "prove") if plan.prove else ("capture", "convert", "write")


def require_space(output: Path, plan: Plan) -> None:
    """Raises TargetError where the run would not fit. What an earlier try wrote already counts as free."""
    there = output / plan.name / "capture"
    written = sum(file.stat().st_blocks * 512 for file in there.glob("*.raw*")) if there.is_dir() else 0
    need_space(output, max(0, space_needed(plan.data_size) - written))


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
    machine = plan.machine
    with open_ledger(house.home) as ledger:
        ledger.reserve(run=run.id, machine=machine.identity, title=machine.hostname)
        try:
            yield Unit(run.id, ledger)
        except BaseException as error:
            ledger.release(run.id, f"ended by {type(error).__name__}")
            raise


def _work(run: Run, plan: Plan) -> Path:
    """Overlays and notes of a conversion that is not written yet."""
    folder = run.vm_dir(plan.platform.name) / "work"
    folder.mkdir(exist_ok=True)
    return folder


def _overlay(run: Run, plan: Plan, index: int) -> Path:
    return _work(run, plan) / f"disk{index}.overlay.qcow2"


def convert(
    run: Run, plan: Plan, images: Sequence[Image], house: House, keys: Keys | None = None
) -> Conversion:
    """Change the guest in overlays; the capture is never written, so that a failure needs no recapture."""
    note = run.vm_dir(plan.platform.name) / "conversion.json"
    if run.done("convert"):
        return read_note(CONVERSION, note)
    started = time.monotonic()
    overlays = [_overlay(run, plan, index) for index in range(len(images))]
    for image, overlay in zip(images, overlays, strict=True):
        make_overlay(run.path / image.path, overlay)
    with house.ui.phase("Converting the guest"):
        conversion = _convert_guest(plan, overlays, house, keys)
    content = to_json(CONVERSION, conversion)
    write_atomically(note, content)
    for warning in conversion.warnings:
        house.ui.warn(warning)
    run.finish("convert", digest=hashlib.sha256(content).hexdigest(), seconds=time.monotonic() - started)
    return conversion


def _convert_guest(plan: Plan, overlays: Sequence[Path], house: House, keys: Keys | None) -> Conversion:
    disks = [GuestDisk(overlay, ImageFormat.QCOW2) for overlay in overlays]
    accelerator = house.accelerator().accelerator
    with open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest:
        root = mount_root(guest, machine=plan.machine, keys=keys)
        # A rescue system could not say which system is on the disks.
        machine = replace(plan.machine, os=plan.machine.os or operating_system(guest))
        conversion = conversions.convert(
            guest,
            machine,
            nics=plan.nics,
            firmware=plan.firmware,
            platform=plan.platform,
            pack=drivers.pack(plan.platform.driver_pack),
            clean_up=plan.clean_up,
            first_boot=script_content(plan.clean_up),
        )
    return replace(conversion, warnings=(*root.warnings, *conversion.warnings))


def describe(run: Run, plan: Plan, conversion: Conversion) -> VirtualMachine:
    """The virtual machine, on the hardware that the guest can use now."""
    disks = tuple(
        VirtualDisk(
            file=f"{disk.image_name}.{plan.platform.image_format}",
            format=plan.platform.image_format,
            size=disk.disk.size,
            bus=conversion.disk_bus,
            serial=disk.disk.serial,
        )
        for disk in plan.disks
    )
    return VirtualMachine(
        name=plan.name,
        uuid=str(uuid.UUID(run.id)),
        cpus=plan.cpus,
        memory=plan.memory,
        firmware=plan.firmware,
        disks=disks,
        nics=tuple(VirtualNic(nic.mac, conversion.nic_model) for nic in plan.nics),
        title=f"{plan.machine.hostname}, converted by p2v",
        serial_console=conversion.serial_console,
    )


def write(run: Run, plan: Plan, vm: VirtualMachine, house: House) -> tuple[Image, ...]:
    """The images in the target's format, and its configuration."""
    folder = run.vm_dir(plan.platform.name)
    note = folder / "images.json"
    if run.done("write"):
        return read_note(IMAGES, note)
    started = time.monotonic()
    written = []
    for index, disk in enumerate(vm.disks):
        with house.ui.phase(f"Writing {disk.file}"):
            written.append(write_image(_overlay(run, plan, index), folder / disk.file, disk.format))
    files = tuple(written)
    for config in find_target(plan.platform.name).render(vm, folder.absolute()):
        write_atomically(folder / config.name, config.text.encode(), mode=0o644)
    content = to_json(IMAGES, files)
    write_atomically(note, content)
    run.finish("write", digest=hashlib.sha256(content).hexdigest(), seconds=time.monotonic() - started)
    for overlay in _work(run, plan).iterdir():
        overlay.unlink()
    _work(run, plan).rmdir()
    return files


def prove(run: Run, plan: Plan, vm: VirtualMachine, house: House) -> Proof | None:
    """Boot the result where a proof was asked for. Raises ProofFailed."""
    if not plan.prove:
        return None
    note = run.proof_dir(plan.platform.name) / "verdict.json"
    if run.done("prove"):
        return read_note(PROOF, note)
    started = time.monotonic()
    proof = boot_proof(run, vm, plan.platform.name, house)
    run.finish(
        "prove", digest=hashlib.sha256(note.read_bytes()).hexdigest(), seconds=time.monotonic() - started
    )
    return proof


def boot_proof(
    run: Run, vm: VirtualMachine, target: str, house: House, *, timeout: float | None = None
) -> Proof:
    """Boot a virtual machine of a run in isolation. Raises ProofFailed with what it showed."""
    answer = house.accelerator()
    output = run.proof_dir(target)
    limit = timeout or PROOF_SECONDS[answer.accelerator]
    proof = boot_and_watch(
        vm, run.vm_dir(target), output, accelerator=answer.accelerator, timeout=limit, ui=house.ui
    )
    run.log.info("proof: %s: %s", proof.verdict, proof.evidence)
    if not proof.verdict.passed:
        raise ProofFailed(
            f"{vm.name} did not boot: {proof.verdict} ({proof.evidence})",
            hint=f"Look at {output / 'screen.png'} and {output / 'serial.log'}",
        )
    return proof


@dataclass(frozen=True, slots=True)
class Made:
    """What the rooms of one run made, for its receipt."""

    images: tuple[Image, ...]
    stats: CaptureStats
    conversion: Conversion
    vm: VirtualMachine
    files: tuple[Image, ...]
    proof: Proof | None
    use: LicenseUse


def receipt(run: Run, plan: Plan, made: Made) -> Receipt:
    return Receipt(
        run=run.id,
        plan=plan,
        images=made.images,
        capture=made.stats,
        conversion=made.conversion,
        vm=made.vm,
        files=made.files,
        license=made.use,
        started=run.created,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        steps=run.steps,
        proof=made.proof,
        warnings=(*plan.warnings, *made.stats.warnings, *made.conversion.warnings),
    )
