"""From captured images to virtual machines: convert in overlays, describe, write, prove.

One guest is made for all platforms of a plan; each of them gets its own description, images and proof. A step
that is in the journal gives back what it made then.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import conversions
import drivers
from drivers.inf.index import DriverIndex
from p2v import importing
from p2v.atomic import write_atomically
from p2v.driver_shelf import DriverShelf
from p2v.errors import GuestError, PlanRefused, ProofFailed
from p2v.guest import Access, GuestDisk, open_guest
from p2v.guest_systems import InstalledSystem, open_system
from p2v.guest_unlock import Keys
from p2v.guest_wishes import script_content
from p2v.house import House
from p2v.journal import CONVERSIONS, IMAGES, PROOF, read_note, step_name, to_json
from p2v.model import (
    Conversion,
    Image,
    ImageFormat,
    Machine,
    OperatingSystem,
    Output,
    Plan,
    Proof,
    Severity,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.proof import prove as boot_and_watch
from p2v.run import Run
from p2v.targets import target_of
from p2v.targets.images import make_overlay
from p2v.targets.packages import write_packages
from p2v.vsphere.settings import Destination
from p2v.windows_offers import NO_PROOF

IMAGES_NAME = "images.json"

PROOF_SECONDS = {"kvm": 300.0, "tcg": 900.0}
"""Time limit of a boot; in emulation a Debian system takes about 50 s alone and three times that beside
another.
"""


def make_outputs(
    run: Run,
    plan: Plan,
    images: Sequence[Image],
    house: House,
    keys: Keys,
    *,
    destination: Destination | None = None,
    shelf: DriverShelf | None = None,
) -> tuple[Output, ...]:
    """The virtual machine of a plan, for each of its platforms; `destination` is where one is imported.

    `shelf` holds the drivers that were brought for a Windows.

    Raises GuestError, TargetError, ProofFailed, and what importing.bring raises.
    """
    plans = plan.each()
    converted = convert(run, plan, images, house, Means(keys, shelf or DriverShelf(None)))
    machines = [describe(run, one, conversion) for one, conversion in zip(plans, converted, strict=True)]
    files = write(run, plan, machines, house)
    clear(run, plan)
    proofs = [prove(run, one, vm, house) for one, vm in zip(plans, machines, strict=True)]
    # Last: what does not boot, or did not come to its end, is in nobody's inventory.
    places = [
        importing.bring(run, one, vm, written, destination=destination, house=house)
        for one, vm, written in zip(plans, machines, files, strict=True)
    ]
    return tuple(
        Output(one.platform, conversion, vm, written, proof, place)
        for one, conversion, vm, written, proof, place in zip(
            plans, converted, machines, files, proofs, places, strict=True
        )
    )


def _work(run: Run, plan: Plan) -> Path:
    """Overlays of a guest that is not written for every platform yet; the first one's folder holds them."""
    folder = run.vm_dir(plan.platform.label) / "work"
    folder.mkdir(exist_ok=True)
    return folder


def _overlays(run: Run, plan: Plan) -> list[Path]:
    return [_work(run, plan) / f"{disk.image_name}.overlay.qcow2" for disk in plan.disks]


@dataclass(frozen=True, slots=True)
class Means:
    """What a conversion needs beside the disks: keys of encrypted ones, drivers for a Windows."""

    keys: Keys
    shelf: DriverShelf


def convert(
    run: Run, plan: Plan, images: Sequence[Image], house: House, means: Means
) -> tuple[Conversion, ...]:
    """Change the guest in overlays; the capture is never written, so that a failure needs no recapture."""
    step = step_name("convert", *plan.each())
    note = run.vm_dir(plan.platform.label) / "conversions.json"
    if run.done(step):
        return read_note(CONVERSIONS, note)
    started = time.monotonic()
    overlays = _overlays(run, plan)
    for image, overlay in zip(images, overlays, strict=True):
        make_overlay(run.path / image.path, overlay)
    with house.ui.phase("Converting the guest"):
        converted = _convert_guest(plan, overlays, house, means)
    content = to_json(CONVERSIONS, converted)
    write_atomically(note, content)
    for warning in dict.fromkeys(warning for one in converted for warning in one.warnings):
        house.ui.warn(warning)
    run.finish(step, digest=hashlib.sha256(content).hexdigest(), seconds=time.monotonic() - started)
    return converted


def _convert_guest(
    plan: Plan, overlays: Sequence[Path], house: House, means: Means
) -> tuple[Conversion, ...]:
    disks = [GuestDisk(overlay, ImageFormat.QCOW2) for overlay in overlays]
    accelerator = house.accelerator().accelerator
    with open_guest(disks, access=Access.READ_WRITE, accelerator=accelerator) as guest:
        inside = open_system(guest, machine=plan.machine, keys=means.keys)
        # A rescue system could not say which system is on the disks.
        machine = replace(plan.machine, os=plan.machine.os or _system(inside, plan))
        first, *others = plan.each()
        packs = "+".join(dict.fromkeys(one.platform.driver_pack for one in (first, *others)))
        index = means.shelf.index() if machine.os and machine.os.windows else None
        made = [_convert_for(inside, machine, first, packs, index)]
        # The guest has all drivers by now: these say which bus it uses there, and add what else is missing.
        made += [_convert_for(inside, machine, one, one.platform.driver_pack, index) for one in others]
    changes = tuple({change.path: change for one in made for change in one.changes}.values())
    registry = tuple(
        {(one.hive, one.key.lower(), one.name): one for each in made for one in each.registry}.values()
    )
    warnings = (*inside.warnings, *(inside.hives.warnings if inside.hives else ()))
    return tuple(
        replace(
            one,
            changes=changes,
            registry=registry,
            warnings=(*warnings, *one.warnings),
            os=machine.os,
        )
        for one in made
    )


def _system(inside: InstalledSystem, plan: Plan) -> OperatingSystem | None:
    """What the plan could not know. Raises GuestError for what blocks its conversion."""
    seen = inside.look()
    unprovable = (NO_PROOF,) if plan.prove and seen.os and seen.os.windows else ()
    for finding in (*seen.findings, *unprovable):
        if finding.severity is Severity.BLOCKER:
            raise GuestError(finding.message, hint=finding.hint)
    return seen.os


def _convert_for(
    inside: InstalledSystem, machine: Machine, plan: Plan, packs: str, index: DriverIndex | None
) -> Conversion:
    return conversions.convert(
        inside.files,
        machine,
        nics=plan.nics,
        firmware=plan.firmware,
        platform=plan.platform,
        pack=drivers.pack(packs),
        clean_up=plan.clean_up,
        first_boot=script_content(plan.clean_up),
        hives=inside.hives,
        index=index,
    )


def describe(run: Run, plan: Plan, conversion: Conversion) -> VirtualMachine:
    """The virtual machine, on the hardware that the guest can use now."""
    platform = plan.platform
    disks = tuple(
        VirtualDisk(
            file=f"{disk.image_name}.{platform.image_format.suffix}",
            format=platform.image_format,
            size=disk.disk.size,
            bus=conversion.disk_bus,
            serial=disk.disk.serial,
            subformat=platform.subformat,
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
        nics=tuple(VirtualNic(nic.mac, conversion.nic_model, nic.source_name) for nic in plan.nics),
        title=f"{plan.machine.hostname}, converted by p2v",
        serial_console=conversion.serial_console,
        os=plan.machine.os or conversion.os,
        clock=conversion.clock,
        settings=platform.settings,
    )


def write(
    run: Run, plan: Plan, machines: Sequence[VirtualMachine], house: House
) -> tuple[tuple[Image, ...], ...]:
    """The images of each platform in its own format, and its configuration: side by side, see p2v.targets."""
    plans = plan.each()
    todo = [
        (one, vm)
        for one, vm in zip(plans, machines, strict=True)
        if run.done(step_name("write", one)) is None
    ]
    if todo:
        _write_side_by_side(run, _overlays(run, plan), todo, house)
    return tuple(read_note(IMAGES, run.vm_dir(one.platform.label) / IMAGES_NAME) for one in plans)


def _write_side_by_side(
    run: Run, overlays: Sequence[Path], todo: Sequence[tuple[Plan, VirtualMachine]], house: House
) -> None:
    started = time.monotonic()
    words = "; ".join(
        f"{', '.join(disk.file for disk in vm.disks)} for {one.platform.name}" for one, vm in todo
    )
    with house.ui.phase(f"Writing {words}"), ExitStack() as stack:
        packages = [
            stack.enter_context(target_of(one.platform).begin(vm, run.vm_dir(one.platform.label)))
            for one, vm in todo
        ]
        written = write_packages(packages, overlays)
    for (one, vm), files in zip(todo, written, strict=True):
        folder = run.vm_dir(one.platform.label)
        for config in target_of(one.platform).render(vm, folder.absolute()):
            write_atomically(folder / config.name, config.content, mode=0o644)
        content = to_json(IMAGES, files)
        write_atomically(folder / IMAGES_NAME, content)
        digest, seconds = hashlib.sha256(content).hexdigest(), time.monotonic() - started
        run.finish(step_name("write", one), digest=digest, seconds=seconds)


def clear(run: Run, plan: Plan) -> None:
    """The overlays go once every platform has its images."""
    folder = _work(run, plan)
    for overlay in folder.iterdir():
        overlay.unlink()
    folder.rmdir()


def prove(run: Run, plan: Plan, vm: VirtualMachine, house: House) -> Proof | None:
    """Boot the result where a proof was asked for. Raises ProofFailed."""
    if not plan.prove:
        return None
    step, label = step_name("prove", plan), plan.platform.label
    note = run.proof_dir(label) / "verdict.json"
    if run.done(step):
        return read_note(PROOF, note)
    started = time.monotonic()
    proof = boot_proof(run, vm, label, house)
    digest = hashlib.sha256(note.read_bytes()).hexdigest()
    run.finish(step, digest=digest, seconds=time.monotonic() - started)
    return proof


def boot_proof(
    run: Run, vm: VirtualMachine, label: str, house: House, *, timeout: float | None = None
) -> Proof:
    """Boot a virtual machine of a run in isolation.

    Raises ProofFailed with what it showed, PlanRefused for a Windows.
    """
    if vm.os and vm.os.windows:
        raise PlanRefused(NO_PROOF.message, hint="Start it on the target, and look at its screen")
    answer = house.accelerator()
    output = run.proof_dir(label)
    limit = timeout or PROOF_SECONDS[answer.accelerator]
    proof = boot_and_watch(
        vm, run.vm_dir(label), output, accelerator=answer.accelerator, timeout=limit, ui=house.ui
    )
    run.log.info("proof: %s: %s", proof.verdict, proof.evidence)
    if not proof.verdict.passed:
        raise ProofFailed(
            f"{vm.name} did not boot: {proof.verdict} ({proof.evidence})",
            hint=f"Look at {output / 'screen.png'} and {output / 'serial.log'}",
        )
    return proof
