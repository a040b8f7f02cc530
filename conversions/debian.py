"""Debian and what descends from it: initramfs-tools, GRUB 2, ifupdown or netplan."""

from __future__ import annotations

import re

from conversions import grub, initramfs_tools, linux
from conversions.changes import Changes
from conversions.console import add_serial_console
from conversions.devices import DeviceNames, device_names, is_unstable
from conversions.grub import STABLE_NAMES
from conversions.kernels import Kernel, installed_kernels
from conversions.network import keep_names
from conversions.protocol import GuestFiles
from conversions.request import Request
from conversions.uefi import ensure_fallback_loader
from drivers.pack import LinuxDriver
from p2v.errors import GuestError
from p2v.model import Conversion, Firmware

IDS = ("debian", "ubuntu")
"""`ID` and `ID_LIKE` of os-release that this family serves."""

RESUME = re.compile(
    r"^(?P<head>[ \t]*(?:RESUME|ROOT)=[\"']?)(?P<device>/dev/[^\s\"'#]+)(?P<tail>[\"']?[ \t]*)$", re.MULTILINE
)


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """Make the guest boot on the platform; doing it twice changes nothing the second time.

    Raises GuestError where the guest has no kernel, no GRUB 2, no space, or no driver for any bus.
    """
    changes = Changes(guest)
    names = device_names(request.machine)
    grub.config_paths(changes)
    kernels = installed_kernels(changes, request.linux_drivers)
    default = linux.default_kernel(kernels, grub.default_kernel(changes))

    linux.rewrite_tables(changes, names)
    rewrite_resume(changes, names)
    grub.rewrite_devices(changes, names)
    keep_names(changes, request.nics)
    add_serial_console(changes)
    if request.firmware is Firmware.UEFI:
        ensure_fallback_loader(changes)

    tool = _Initramfs(changes)
    disk_bus = linux.provide_disk_bus(
        changes,
        kernels,
        default,
        request.pack,
        request.platform,
        rebuild=tool.rebuild if tool.exists else None,
    )
    tool.refresh_stale(kernels, names)
    nic_model = linux.choose_nic(changes, default, request.pack, request.platform)
    linux.warn_about_lvm(changes)
    grub.warn_about_installer(changes)
    return Conversion(
        family="debian",
        changes=changes.changes,
        disk_bus=disk_bus,
        nic_model=nic_model,
        serial_console=True,
        warnings=changes.warnings,
    )


def rewrite_resume(changes: Changes, names: DeviceNames) -> None:
    """RESUME= and ROOT= in the settings of initramfs-tools."""

    def edited(found: re.Match[str]) -> str:
        stable = names.stable(found["device"]) if is_unstable(found["device"]) else None
        return f"{found['head']}{stable}{found['tail']}" if stable else found.group()

    folder = initramfs_tools.CONFIG
    for path in (f"{folder}/initramfs.conf", *changes.guest.glob(f"{folder}/conf.d/*")):
        text = changes.read_text(path)
        if text:
            changes.write_text(path, RESUME.sub(edited, text), STABLE_NAMES)


class _Initramfs:
    """Rebuilds each initramfs at most once, and remembers which."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes
        self._done: set[str] = set()
        self.exists = bool(initramfs_tools.tool(changes))

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        initramfs_tools.remember_modules(self._changes, drivers)
        initramfs_tools.rebuild(self._changes, kernel, drivers, reason)
        self._done.add(kernel.version)

    def refresh_stale(self, kernels: tuple[Kernel, ...], names: DeviceNames) -> None:
        """An initramfs that waits for a disk by its old name costs half a minute at each boot."""
        for kernel in kernels:
            stale = _stale_name(kernel, names)
            if stale and kernel.version not in self._done:
                self._refresh(kernel, f"it waited for {stale}")

    def _refresh(self, kernel: Kernel, reason: str) -> None:
        try:
            if self.exists:
                initramfs_tools.rebuild(self._changes, kernel, (), reason)
                return
            self._changes.warn(f"{kernel.initramfs}: {reason}, and there is no mkinitramfs to rebuild it")
        except GuestError as error:
            self._changes.warn(f"{kernel.initramfs}: {reason}, and could not be rebuilt: {error.message}")


def _stale_name(kernel: Kernel, names: DeviceNames) -> str:
    settings = kernel.contents.settings if kernel.contents else ""
    found = (match["device"] for match in RESUME.finditer(settings))
    return next((name for name in found if names.stable(name)), "")
