"""Steps that the Linux families share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from conversions.changes import Changes
from conversions.devices import DeviceNames, is_unstable
from conversions.fstab import rewrite_crypttab, rewrite_fstab
from conversions.grub import STABLE_NAMES
from conversions.kernels import Kernel
from drivers.pack import DiskChoice, DriverPack, LinuxDriver
from p2v.errors import GuestError
from p2v.model import DiskBus, NicModel, Platform

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"
LVM_CONFIGS = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf", "/etc/lvm/devices/system.devices")
DEVICE = re.compile(r"/dev/[^\s\"'|,;=]+")

Rebuild = Callable[[Kernel, tuple[LinuxDriver, ...], str], None]


def rewrite_tables(changes: Changes, names: DeviceNames) -> None:
    """Name filesystems in fstab and crypttab in a way that holds on any machine."""
    for path, rewrite in ((FSTAB, rewrite_fstab), (CRYPTTAB, rewrite_crypttab)):
        rewritten = rewrite(changes.read_text(path), names)
        changes.warn_all(rewritten.warnings)
        if rewritten.text:
            changes.write_text(path, rewritten.text, STABLE_NAMES)


def warn_about_lvm(changes: Changes) -> None:
    """A filter that only lets disks of the source through hides every volume in the virtual machine."""
    for path in LVM_CONFIGS:
        for line in changes.read_text(path).splitlines():
            active = line.split("#", 1)[0]
            named = [name for name in DEVICE.findall(active) if is_unstable(name.rstrip("$.*"))]
            if named and ("filter" in active or path.endswith("system.devices")):
                changes.warn(f"{path} names {named[0]}: LVM may not see its volumes in the virtual machine")


def default_kernel(kernels: Sequence[Kernel], image_name: str) -> Kernel:
    """The kernel that the boot loader starts: the one with this file name, else the newest."""
    return next((kernel for kernel in kernels if kernel.image.endswith(f"/{image_name}")), kernels[0])


def provide_disk_bus(
    changes: Changes,
    kernels: Sequence[Kernel],
    default: Kernel,
    pack: DriverPack,
    platform: Platform,
    *,
    rebuild: Rebuild | None,
) -> DiskBus:
    """See that the kernels find their disks on the best bus that the default kernel can use.

    `rebuild` is None where the guest has no tool for it. Raises GuestError where no bus is possible, and what
    `rebuild` raises for the default kernel; another kernel that cannot follow costs a warning.
    """
    choices = sorted(pack.disks, key=lambda choice: choice.bus is not platform.disk_bus)
    for choice in choices:
        if _can_serve(default, choice, can_rebuild=rebuild is not None):
            _serve_all(changes, choice, kernels=kernels, default=default, pack=pack, rebuild=rebuild)
            return choice.bus
        lacking = ", ".join(default.missing(choice.needed))
        changes.warn(f"The kernel {default.version} cannot use {choice.bus} disks: it lacks {lacking}")
    lacking = "; ".join(f"{choice.bus}: {', '.join(default.missing(choice.needed))}" for choice in choices)
    raise GuestError(
        f"The kernel {default.version} finds its disks on no bus of {platform.title}. It lacks for {lacking}",
        hint="Install the distribution's own kernel and initramfs-tools on the machine, then convert again",
    )


def _can_serve(kernel: Kernel, choice: DiskChoice, *, can_rebuild: bool) -> bool:
    if not kernel.missing(choice.needed):
        return True
    return can_rebuild and bool(kernel.initramfs) and kernel.can_load(choice.needed)


def _serve_all(
    changes: Changes,
    choice: DiskChoice,
    *,
    kernels: Sequence[Kernel],
    default: Kernel,
    pack: DriverPack,
    rebuild: Rebuild | None,
) -> None:
    for kernel in kernels:
        if not kernel.missing(choice.needed):
            continue
        if rebuild is None or not _can_serve(kernel, choice, can_rebuild=True):
            changes.warn(f"The kernel {kernel.version} cannot use {choice.bus} disks and will not boot")
            continue
        welcome = tuple(driver for driver in pack.welcome if kernel.can_load((driver,)))
        reason = f"it lacked {', '.join(kernel.missing(choice.needed))}"
        try:
            rebuild(kernel, (*choice.needed, *welcome), reason)
        except GuestError as error:
            if kernel is default:
                raise
            changes.warn(f"The kernel {kernel.version} will not boot: {error.message}")


def choose_nic(changes: Changes, kernel: Kernel, pack: DriverPack, platform: Platform) -> NicModel:
    """The best network card that the kernel has a driver for."""
    choices = sorted(pack.nics, key=lambda choice: choice.model is not platform.nic_model)
    for choice in choices:
        if kernel.can_load(choice.needed):
            return choice.model
        changes.warn(f"The kernel {kernel.version} has no driver for {choice.model} network cards")
    return choices[0].model
