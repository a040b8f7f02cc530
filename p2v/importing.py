"""The live import: where a machine would go, asked before its capture, and the import once it is written.

What is known of an import is noted beside its files, so that a run that was killed finds what it left on the
server, and one that goes on imports nothing twice.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from p2v.atomic import write_atomically
from p2v.errors import TargetError, UsageError
from p2v.house import House
from p2v.journal import read_note, step_name, to_json
from p2v.model import Image, Placed, Plan, VirtualMachine
from p2v.run import Run
from p2v.targets import Target
from p2v.targets.ovf import memory_of
from p2v.targets.vmware_products import PRODUCTS
from p2v.targets.vsphere import NAME, PRODUCT, descriptor_path, hardware, networks_of
from p2v.ui import human_size
from p2v.vsphere.settings import Appliance, Destination, DiskFile, DiskNeed, Imported, Location, Needs

NOTE_NAME = "import.json"


@dataclass(frozen=True, slots=True)
class Note:
    """An import that was begun under an instance UUID of its own; `placed` once it is complete."""

    destination: Destination
    instance_uuid: str
    placed: Placed | None = None


_NOTE = TypeAdapter(Note)


def step_of(plan: Plan) -> str:
    """The name of the step that imports for the platform of a plan; empty where nothing is imported."""
    return step_name("import", plan) if plan.platform.name == NAME else ""


def require_destination(targets: Sequence[Target], destination: Destination | None) -> None:
    """Raises UsageError unless it is said where to import exactly what can be."""
    live = [target for target in targets if target.platform.name == NAME]
    if len(live) > 1:
        raise UsageError("One run imports one machine into vSphere", hint="Try: p2v emit, for another one")
    if live and destination is None:
        raise UsageError(
            f"The target {NAME} needs to know its server",
            hint="Try: --server vc.example --user administrator@vsphere.local",
        )
    if destination is not None and not live:
        raise UsageError("--server belongs to a live import", hint=f"Try: --to {NAME}")


def placed(plan: Plan, destination: Destination | None, directory: Path, house: House) -> Plan:
    """The plan with the place that its machine would get; what speaks against it is a refusal or a warning.

    `directory` is that of the run, which may have imported the machine already. Raises UsageError (password),
    PlanRefused (names, room, hardware), TargetError (certificate, login, server).
    """
    one = next((one for one in plan.each() if step_of(one)), None)
    if one is None or destination is None:
        return plan
    from p2v.vsphere.importer import check_placement

    note = _read(directory / "vm" / one.platform.label)
    if _is_done(note, destination, house):
        return plan
    secret = house.keyring.password(destination.server, house.ask_password)
    own = note.instance_uuid if note is not None and note.placed is None else ""
    with house.ui.phase(f"Asking {destination.server.host}"):
        found = check_placement(destination.server, secret, destination.placement, _needs(one, own))
    return replace(
        plan, place=_words(found, destination, one.name), warnings=(*plan.warnings, *found.warnings)
    )


def _needs(plan: Plan, own: str) -> Needs:
    return Needs(
        name=plan.name,
        cpus=plan.cpus,
        memory=memory_of(plan.memory),
        disks=tuple(DiskNeed(disk.disk.size, disk.data_size) for disk in plan.disks),
        networks=networks_of([nic.source_name for nic in plan.nics]),
        hardware=f"vmx-{hardware(plan.platform):02}",
        own=own,
        products=tuple((name, PRODUCTS[name].hardware) for name in PRODUCT.values),
    )


def _words(found: Location, destination: Destination, name: str) -> str:
    wires = "".join(f", {wire.source} on {wire.target}" for wire in found.networks)
    return (
        f"{found.folder}/{name} on {destination.server.host}, host {found.host}, datastore {found.datastore} "
        f"({human_size(found.free_space)} free){wires}"
    )


def bring(
    run: Run,
    plan: Plan,
    vm: VirtualMachine,
    files: Sequence[Image],
    *,
    destination: Destination | None,
    house: House,
) -> Placed | None:
    """Import the machine that was written for the platform of a plan, or what became of it before.

    What an import that was killed has left is removed first. None where the platform has no import. Raises as
    `placed`, and VerifyError.
    """
    if not (step := step_of(plan)):
        return None
    if destination is None:
        raise UsageError(f"{run.path} does not say where to import", hint="Try: p2v emit --to vsphere")
    folder = run.vm_dir(plan.platform.label)
    note = _read(folder)
    if note is not None and run.done(step) and _is_done(note, destination, house):
        return note.placed
    started = time.monotonic()
    again = note is not None and note.placed is None
    begun = Note(destination, note.instance_uuid if note is not None and again else str(uuid.uuid4()))
    write_atomically(folder / NOTE_NAME, to_json(_NOTE, begun))
    imported = _import(begun, _appliance(vm, files, folder), house)
    done = replace(begun, placed=_placed(imported))
    write_atomically(folder / NOTE_NAME, to_json(_NOTE, done))
    run.log.info("%s is %s on %s", imported.name, imported.reference, imported.server)
    run.finish(step, digest=_digest(files), seconds=time.monotonic() - started)
    return done.placed


def _import(note: Note, appliance: Appliance, house: House) -> Imported:
    from p2v.vsphere.importer import import_machine

    server = note.destination.server
    secret = house.keyring.password(server, house.ask_password)
    imported = import_machine(
        server,
        secret,
        note.destination.placement,
        appliance,
        house.ui,
        instance_uuid=note.instance_uuid,
    )
    for warning in imported.warnings:
        house.ui.warn(warning)
    return imported


def _appliance(vm: VirtualMachine, files: Sequence[Image], folder: Path) -> Appliance:
    path = descriptor_path(vm, folder)
    try:
        descriptor = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(
            f"Cannot read {path}: {error}", hint="Start a new run with another --name"
        ) from error
    disks = tuple(
        DiskFile(f"file{index}", folder / file.path, file.digest) for index, file in enumerate(files)
    )
    return Appliance(replace(vm, memory=memory_of(vm.memory)), descriptor, disks)


def _placed(imported: Imported) -> Placed:
    place = imported.location
    return Placed(
        server=imported.server,
        reference=imported.reference,
        path=f"{place.folder}/{imported.name}",
        host=place.host,
        datastore=place.datastore,
        instance_uuid=imported.instance_uuid,
        powered_on=imported.powered_on,
        warnings=imported.warnings,
    )


def _digest(files: Sequence[Image]) -> str:
    """What was uploaded; the same files imported again are the same step."""
    return "+".join(file.digest for file in files)


def _read(folder: Path) -> Note | None:
    path = folder / NOTE_NAME
    return read_note(_NOTE, path) if path.exists() else None


def _is_done(note: Note | None, destination: Destination, house: House) -> bool:
    """Whether the machine was imported to that very place, and is still on its server."""
    if note is None or note.placed is None or not _same(note.destination, destination):
        return False
    from p2v.vsphere.importer import is_there

    secret = house.keyring.password(destination.server, house.ask_password)
    return is_there(destination.server, secret, note.instance_uuid)


def _same(one: Destination, other: Destination) -> bool:
    return (one.server.host, one.server.port, one.placement) == (
        other.server.host,
        other.server.port,
        other.placement,
    )
