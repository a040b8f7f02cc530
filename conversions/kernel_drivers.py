"""Which bus and card the kernels of a guest can use, and what each initramfs gets for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from conversions.changes import Changes
from conversions.device_ids import with_devices
from conversions.kernels import Kernel
from conversions.request import Request
from conversions.updates import Updates
from drivers.pack import DiskChoice, DriverPack, LinuxDriver
from p2v.errors import GuestError
from p2v.model import DiskBus, NicModel, Platform


def provide_disk_bus(
    changes: Changes,
    request: Request,
    updates: Updates,
    *,
    kernels: Sequence[Kernel],
    default: Kernel,
    others: Iterable[Kernel] = (),
) -> DiskBus:
    """See that the kernels find their disks on the best bus that the default kernel can use.

    `others` are kernels with a further initramfs; they are asked for last, after the others have changed.
    Raises GuestError where no bus is possible, and where the initramfs of the default kernel cannot be made;
    another kernel that cannot follow costs a warning.
    """
    pack, platform = request.pack, request.platform
    choices = sorted(pack.disks, key=lambda choice: choice.bus is not platform.disk_bus)
    for choice in choices:
        if _can_serve(changes, default, choice, updates):
            for kernel in kernels:
                _serve(changes, kernel, choice, updates, pack, must=kernel is default)
            for other in others:
                _serve(changes, other, choice, updates, pack, must=False)
            return choice.bus
        lacking = _lacking(changes, default, choice)
        changes.warn(f"The kernel {default.version} cannot use {choice.bus} disks: it lacks {lacking}")
    lacking = "; ".join(f"{choice.bus}: {_lacking(changes, default, choice)}" for choice in choices)
    raise GuestError(
        f"The kernel {default.version} finds its disks on no bus of {platform.title}. It lacks for {lacking}",
        hint="Install the distribution's own kernel and initramfs tool, then convert again",
    )


def _needed(changes: Changes, kernel: Kernel, choice: DiskChoice) -> tuple[LinuxDriver, ...]:
    return with_devices(changes, kernel, choice.needed, choice.devices)


def _lacking(changes: Changes, kernel: Kernel, choice: DiskChoice) -> str:
    return ", ".join(kernel.missing(_needed(changes, kernel, choice)))


def _can_serve(changes: Changes, kernel: Kernel, choice: DiskChoice, updates: Updates) -> bool:
    needed = _needed(changes, kernel, choice)
    if not kernel.missing(needed):
        return True
    return kernel.can_load(needed) and updates.possible(kernel)


def _serve(
    changes: Changes,
    kernel: Kernel,
    choice: DiskChoice,
    updates: Updates,
    pack: DriverPack,
    *,
    must: bool,
) -> None:
    try:
        if _can_serve(changes, kernel, choice, updates):
            updates.bring(kernel, _wanted(kernel, _needed(changes, kernel, choice), pack))
        else:
            changes.warn(f"{_title(kernel)} cannot use {choice.bus} disks and will not boot")
    except GuestError as error:
        if must:
            raise
        changes.warn(f"{_title(kernel)} will not boot: {error.message}")


def _title(kernel: Kernel) -> str:
    return f"The kernel {kernel.version}" + (f" with {kernel.initramfs}" if kernel.initramfs else "")


def _wanted(kernel: Kernel, needed: tuple[LinuxDriver, ...], pack: DriverPack) -> tuple[LinuxDriver, ...]:
    """What an initramfs must get; nothing where it has what it needs."""
    if not kernel.missing(needed):
        return ()
    return (*needed, *(driver for driver in pack.welcome if kernel.can_load((driver,))))


def choose_nic(changes: Changes, kernel: Kernel, pack: DriverPack, platform: Platform) -> NicModel:
    """The best network card that the kernel has a driver for."""
    choices = sorted(pack.nics, key=lambda choice: choice.model is not platform.nic_model)
    for choice in choices:
        needed = with_devices(changes, kernel, choice.needed, choice.devices)
        if kernel.can_load(needed):
            return choice.model
        kind = _unknown_cards(kernel, needed) if choice.devices else f"{choice.model} network cards"
        changes.warn(f"The kernel {kernel.version} has no driver for {kind}")
    return choices[0].model


def _unknown_cards(kernel: Kernel, needed: Iterable[LinuxDriver]) -> str:
    names = ", ".join(driver.module for driver in needed if not kernel.can_load((driver,)))
    return f"network cards of the machine: {names}"
