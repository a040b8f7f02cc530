"""mkinitrd(8), in the guest: that of SUSE before dracut (SLES 11), and that of Red Hat 5."""

from __future__ import annotations

import re
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.kernels import Kernel
from conversions.rebuilt import RESULT, all_modules, build_folder, install_result, tool_of
from drivers.pack import LinuxDriver

TOOLS = ("/sbin/mkinitrd", "/usr/sbin/mkinitrd")
SUSE_CONFIG = "/etc/sysconfig/kernel"
INITRD_MODULES = re.compile(r"^(?P<head>INITRD_MODULES=\")(?P<words>[^\"\n]*)\"", re.MULTILINE)
MODPROBE = "/etc/modprobe.conf"
ADAPTER = re.compile(r"^[ \t]*alias[ \t]+scsi_hostadapter(?P<number>\d*)[ \t]+(?P<module>\S+)", re.MULTILINE)
REASON = "drivers of the virtual machine in later initramfs"


@dataclass(frozen=True, slots=True)
class Mkinitrd:
    """mkinitrd as a `conversions.ramdisks.Builder`."""

    changes: Changes
    name: str = "mkinitrd"

    @property
    def exists(self) -> bool:
        return bool(tool_of(self.changes, *TOOLS))

    @property
    def _is_suse(self) -> bool:
        return INITRD_MODULES.search(self.changes.read_text(SUSE_CONFIG)) is not None

    def rewrite_devices(self, names: DeviceNames) -> None:
        """It finds the root by fstab."""

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        modules = [driver.module for driver in drivers]
        if self._is_suse:
            text = with_initrd_modules(self.changes.read_text(SUSE_CONFIG), modules)
            self.changes.write_text(SUSE_CONFIG, text, REASON)
        else:
            self.changes.write_text(
                MODPROBE, with_adapters(self.changes.read_text(MODPROBE), modules), REASON
            )

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        modules = all_modules(kernel, drivers)
        tool = tool_of(self.changes, *TOOLS)
        with build_folder(self.changes, kernel):
            if self._is_suse:
                words = [tool, "-k", kernel.image, "-i", RESULT, "-m", " ".join(modules)]
                self.changes.guest.run([*words, *self._root()])
            else:
                self.changes.guest.run(
                    [tool, "-f", *(f"--with={name}" for name in modules), RESULT, kernel.version]
                )
            install_result(self.changes, kernel, drivers, reason)

    def _root(self) -> list[str]:
        """SUSE's mkinitrd must be told the root, which has another name in the appliance."""
        device = self.changes.guest.run(["findmnt", "-n", "-o", "SOURCE", "/"]).strip()
        return ["-d", device] if device.startswith("/dev/") else []

    def note(self, kernel: Kernel, content: bytes) -> None:
        """mkinitrd keeps no record."""


def with_initrd_modules(text: str, modules: list[str]) -> str:
    """SUSE's /etc/sysconfig/kernel with `modules` in INITRD_MODULES."""

    def edited(found: re.Match[str]) -> str:
        words = found["words"].split()
        return f'{found["head"]}{" ".join([*words, *(name for name in modules if name not in words)])}"'

    return INITRD_MODULES.sub(edited, text)


def with_adapters(text: str, modules: list[str]) -> str:
    """modprobe.conf(5) of Red Hat 5, in which each disk driver is an alias `scsi_hostadapter`, numbered."""
    present = list(ADAPTER.finditer(text))
    named = {found["module"].replace("-", "_") for found in present}
    number = max((int(found["number"] or 0) for found in present), default=-1) + 1
    new = [name for name in modules if name not in named]
    lines = (f"alias scsi_hostadapter{count or ''} {name}\n" for count, name in enumerate(new, start=number))
    return text + ("" if not text or text.endswith("\n") else "\n") + "".join(lines)
