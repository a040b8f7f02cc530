"""A guest that needs no appliance: what is in an image, and what is made of it, said by us.

The rest of the pipeline is the real one. `install` is for the process of a test, and as a preload of Dask's
workers (`dask worker --preload tests.batch.stub`) for theirs.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from p2v import pipeline, rooms
from p2v.errors import GuestError
from p2v.house import House
from p2v.model import (
    Conversion,
    DiskBus,
    Image,
    Machine,
    NicModel,
    OperatingSystem,
    Output,
    Plan,
    VirtualMachine,
)
from p2v.run import Run

GATE = "P2V_TEST_GATE"
"""A folder: every conversion leaves a file of its name and process there, and waits for `open` in it."""
BROKEN = "broken"
"""A machine whose name begins so cannot be converted."""
SYSTEM = OperatingSystem("debian", "12", "Debian GNU/Linux 12", "debian")
WAIT_SECONDS = 60.0


def look_into_image(machine: Machine, *_arguments: object) -> Machine:
    identity = hashlib.sha256(machine.disks[0].path.encode()).hexdigest()[:32]
    return replace(machine, os=SYSTEM, uuid=identity)


def make_outputs(
    run: Run, plan: Plan, images: Sequence[Image], house: House, *_rest: object, **_named: object
) -> tuple[Output, ...]:
    with house.ui.phase("Converting the guest"):
        _wait_at_gate(run, house)
    if plan.name.startswith(BROKEN):
        raise GuestError("the guest is damaged", hint="Look at it")
    vm = VirtualMachine(plan.name, run.id, plan.cpus, plan.memory, plan.firmware, (), ())
    conversion = Conversion("debian", (), DiskBus.VIRTIO_SCSI, NicModel.VIRTIO, serial_console=True)
    return tuple(Output(one.platform, conversion, vm, files=()) for one in plan.each())


def _wait_at_gate(run: Run, house: House) -> None:
    folder = os.environ.get(GATE)
    if not folder:
        return
    gate = Path(folder)
    (gate / f"{run.name}.{os.getpid()}").touch()
    deadline = time.monotonic() + WAIT_SECONDS
    with house.ui.phase("Waiting at the gate", 1 << 40) as phase:
        while not (gate / "open").exists() and time.monotonic() < deadline:
            phase.advance(1)
            time.sleep(0.02)


def install(put: Callable[[Any, str, Any], None] = setattr) -> None:
    put(rooms, "look_into_image", look_into_image)
    put(pipeline, "make_outputs", make_outputs)


def dask_setup(_worker: object) -> None:
    """Called by Dask in a worker that was started with this as a preload."""
    install()


def write_image(path: Path, *, size: int = 1 << 20) -> Path:
    """An image of a disk, with something on it that differs from image to image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size // 2)
        file.write(hashlib.sha256(path.name.encode()).digest() * 64)
    return path


def write_manifest(folder: Path, names: Sequence[str], more: str = "") -> Path:
    """A manifest of images of these names, in `folder`."""
    lines = ["defaults: {to: libvirt}", *more.splitlines(), "machines:"]
    for name in names:
        write_image(folder / f"{name}.img")
        lines.append(f"  - {{source: {name}.img, name: {name}}}")
    path = folder / "manifest.yaml"
    path.write_text("\n".join(lines) + "\n")
    return path
