"""mkinitfs of Alpine, in the guest: mkinitfs(1), mkinitfs.conf(5); drivers come in groups, its features."""

from __future__ import annotations

import re
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.kernels import Kernel
from conversions.rebuilt import RESULT, build_folder, install_result, tool_of
from drivers.pack import LinuxDriver

TOOLS = ("/sbin/mkinitfs", "/usr/sbin/mkinitfs", "/usr/bin/mkinitfs")
CONFIG = "/etc/mkinitfs/mkinitfs.conf"
FEATURES_FOLDERS = ("/etc/mkinitfs/features.d", "/usr/share/mkinitfs/features.d")
FEATURES = re.compile(
    r"^(?P<head>[ \t]*features=)(?P<quote>[\"']?)(?P<words>[^\"'\n]*)(?P=quote)", re.MULTILINE
)
GROUPS = (("virtio", "virtio"), ("nvme", "nvme"), ("ahci", "ata"), ("ata_", "ata"))
"""How the name of a driver begins, and the feature that has it; all others are in `scsi`."""
REASON = "drivers of the virtual machine in later initramfs"


@dataclass(frozen=True, slots=True)
class Mkinitfs:
    """mkinitfs as a `conversions.ramdisks.Builder`."""

    changes: Changes
    name: str = "mkinitfs"

    @property
    def exists(self) -> bool:
        return bool(tool_of(self.changes, *TOOLS)) and self.changes.guest.exists(CONFIG)

    def rewrite_devices(self, names: DeviceNames) -> None:
        """It names disks nowhere but on the kernel's command line."""

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        wanted = dict.fromkeys(_feature(driver.module) for driver in drivers)
        known = [feature for feature in wanted if self._is_known(feature)]
        text = self.changes.read_text(CONFIG)
        self.changes.write_text(CONFIG, with_features(text, known), REASON)

    def _is_known(self, feature: str) -> bool:
        return any(self.changes.guest.exists(f"{folder}/{feature}.modules") for folder in FEATURES_FOLDERS)

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        with build_folder(self.changes, kernel):
            self.changes.guest.run([tool_of(self.changes, *TOOLS), "-o", RESULT, kernel.version])
            install_result(self.changes, kernel, drivers, reason)

    def note(self, kernel: Kernel, content: bytes) -> None:
        """mkinitfs keeps no record."""


def _feature(module: str) -> str:
    return next((feature for start, feature in GROUPS if module.startswith(start)), "scsi")


def with_features(text: str, features: list[str]) -> str:
    """The configuration with `features` among those that are there; as it is where it names none."""

    def edited(found: re.Match[str]) -> str:
        words = found["words"].split()
        new = [feature for feature in features if feature not in words]
        quote = found["quote"] or '"'
        return f"{found['head']}{quote}{' '.join([*words, *new])}{quote}" if new else found.group()

    return FEATURES.sub(edited, text, count=1)
