"""The line that the conversion of every Linux guest follows; a family adds what is its own.

A family is a few lines: it calls `convert_linux` with its steps. What is common stands here, top to bottom:
names of disks, boot loader, network, console, loader of the firmware, drivers in every initramfs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from enum import StrEnum

from conversions.boot_entries import BootEntry, resolve
from conversions.changes import Changes
from conversions.console import add_login
from conversions.devices import device_names
from conversions.kernel_drivers import choose_nic, provide_disk_bus
from conversions.kernels import Kernel, installed_kernels, other_initramfs
from conversions.loaders import NONE, Loader, find_loader
from conversions.protocol import GuestFiles
from conversions.ramdisks import find_builder
from conversions.request import Request
from conversions.storage import rewrite_storage, warn_about_hardware
from conversions.uefi import ensure_fallback_loader
from conversions.updates import Updates
from drivers.physical import NAME as METAL
from p2v.errors import GuestError
from p2v.model import Conversion, DiskBus, Firmware, NicModel

Step = Callable[[Changes, Request], None]
"""Something that a family does to its guests; it records what it changed in `Changes` and warns there."""


class Tolerance(StrEnum):
    """What happens where a guest lacks something that its boot needs: an error, or a warning and a guess."""

    STRICT = "strict"
    LENIENT = "lenient"


def convert_linux(
    guest: GuestFiles,
    request: Request,
    *,
    family: str,
    network: Step,
    steps: Sequence[Step] = (),
    finish: Sequence[Step] = (),
    tolerance: Tolerance = Tolerance.STRICT,
) -> Conversion:
    """Make a Linux guest boot on the platform; doing it twice changes nothing the second time.

    `network` keeps the addresses; `steps` come after it and before any initramfs is made, so that what they
    write is in it; `finish` comes last of all. Raises GuestError where a STRICT family's guest has no kernel,
    no boot loader that p2v knows, no space, or no driver for any bus.
    """
    changes = Changes(guest)
    names = device_names(request.machine)
    loader = find_loader(changes, request.firmware)
    entries = resolve(changes, loader.entries())
    kernels = _kernels(changes, request, loader, entries, tolerance)
    builder = find_builder(changes)

    rewrite_storage(changes, names)
    loader.rewrite_devices(names if _has_initramfs(kernels) else names.by_partition())
    builder.rewrite_devices(names)
    for step in (network, *steps):
        step(changes, request)
    if request.platform.name != METAL:  # there, a serial console would take the questions of the boot
        loader.add_serial_console()
        add_login(changes)
    if request.firmware is Firmware.UEFI:
        ensure_fallback_loader(changes, loader.name)

    warn_about_hardware(changes)
    disk_bus, nic_model = _LEAST_DEMANDING
    if kernels:
        default = default_kernel(kernels, loader.default_kernel())
        updates = Updates(changes, builder, names)
        others = other_initramfs(changes, kernels, entries)
        disk_bus = provide_disk_bus(
            changes, request, updates, kernels=kernels, default=default, others=others
        )
        nic_model = choose_nic(changes, default, request.pack, request.platform)
    for step in finish:
        step(changes, request)
    return Conversion(
        family=family,
        changes=changes.changes,
        disk_bus=disk_bus,
        nic_model=nic_model,
        serial_console=loader.name != NONE,
        warnings=changes.warnings,
    )


_LEAST_DEMANDING = (DiskBus.SATA, NicModel.E1000)
"""What a kernel that nobody could look into most likely drives: hardware of 2003 that every kernel knows."""


def _kernels(
    changes: Changes,
    request: Request,
    loader: Loader,
    entries: Sequence[BootEntry],
    tolerance: Tolerance,
) -> tuple[Kernel, ...]:
    """The kernels of the guest; what is missing is an error for a STRICT family, else a warning."""
    try:
        if loader.name == NONE:
            raise _no_loader()
        return installed_kernels(changes, request.linux_drivers, entries)
    except GuestError as error:
        if tolerance is Tolerance.STRICT:
            raise
        changes.warn(f"{error.message}; nobody can say whether it will boot")
    if loader.name == NONE:
        return _kernels_if_any(changes, request)
    return ()


def _has_initramfs(kernels: Sequence[Kernel]) -> bool:
    """Whether something that knows UUIDs looks for the root; where no kernel is seen, most likely."""
    return not kernels or any(kernel.initramfs or kernel.contents for kernel in kernels)


def _kernels_if_any(changes: Changes, request: Request) -> tuple[Kernel, ...]:
    try:
        return installed_kernels(changes, request.linux_drivers)
    except GuestError as error:
        changes.warn(error.message)
        return ()


def _no_loader() -> GuestError:
    return GuestError(
        "The guest has no configuration of a boot loader that p2v knows (GRUB, extlinux, systemd-boot), so"
        " its boot cannot be prepared",
        hint="If /boot is on a disk of its own, capture that too",
    )


def default_kernel(kernels: Sequence[Kernel], image: str) -> Kernel:
    """The kernel that the boot loader starts: the one with this image, else the newest.

    A loader names the image on its own filesystem, which may be mounted at /boot or be a subvolume.
    """
    path = re.sub(r"^\([^)]*\)", "", image)
    for end in (path, f"/{path.rsplit('/', 1)[-1]}"):
        named = [kernel for kernel in kernels if kernel.image.endswith(end)]
        if image and named:
            return named[0]
    return kernels[0]
