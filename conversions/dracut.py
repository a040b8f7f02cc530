"""dracut, in the guest: dracut(8), dracut.conf(5).

It runs in the appliance, whose hardware is neither the old nor the new machine, so host-only mode is off for
the one build: the result knows every machine. All is said in a file of configuration, because versions
differ in their options (that of Red Hat 6 knows neither --kver nor --no-hostonly).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.command_lines import STABLE_NAMES, edit_file
from conversions.devices import DeviceNames, with_stable_paths
from conversions.kernels import Kernel
from conversions.rebuilt import RESULT, all_modules, build_folder, install_result, tool_of
from drivers.pack import LinuxDriver

TOOLS = ("/usr/bin/dracut", "/usr/sbin/dracut", "/sbin/dracut")
FOLDER = "/etc/dracut.conf.d"
CONFIGS = ("/etc/dracut.conf", f"{FOLDER}/*.conf")
KEPT = f"{FOLDER}/90-p2v.conf"
BUILD = f"{FOLDER}/99-p2v-build.conf"
DEBIAN_RIVAL = ("/usr/sbin/update-initramfs", "/usr/sbin/mkinitramfs")
DEBIAN_HOOK = "/etc/kernel/postinst.d/dracut"
"""Debian has initramfs-tools beside dracut-core; only the package dracut installs this hook."""
COMMENT = "# drivers of the virtual machine, added by p2v"
SAFE_WORDS = re.compile(r"[\w.,:/=@%+-]+")


@dataclass(frozen=True, slots=True)
class Dracut:
    """dracut as a `conversions.ramdisks.Builder`."""

    changes: Changes
    name: str = "dracut"

    @property
    def exists(self) -> bool:
        exists = self.changes.guest.exists
        rival = all(exists(path) for path in DEBIAN_RIVAL) and not exists(DEBIAN_HOOK)
        return bool(tool_of(self.changes, *TOOLS)) and not rival

    def rewrite_devices(self, names: DeviceNames) -> None:
        for pattern in CONFIGS:
            for path in self.changes.guest.glob(pattern):
                edit_file(self.changes, path, lambda text: with_stable_paths(text, names), STABLE_NAMES)

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        modules = " ".join(driver.module for driver in drivers)
        text = f'{COMMENT}\nadd_drivers+=" {modules} "\n'
        self.changes.write_text(KEPT, text, "drivers of the virtual machine in later initramfs")

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        guest = self.changes.guest
        text = _build_config(all_modules(kernel, drivers), _arguments(kernel))
        with build_folder(self.changes, kernel):
            guest.mkdir(posixpath.dirname(BUILD))
            guest.write(BUILD, text.encode())
            try:
                guest.run([tool_of(self.changes, *TOOLS), "--force", RESULT, kernel.version])
            finally:
                guest.remove(BUILD)
            install_result(self.changes, kernel, drivers, reason)

    def note(self, kernel: Kernel, content: bytes) -> None:
        """dracut keeps no record."""


def _build_config(modules: Sequence[str], arguments: str) -> str:
    """Everything, plain: a squashed image inside the image could not be looked into afterwards."""
    lines = (
        'hostonly="no"',
        'hostonly_cmdline="no"',
        'hostonly_mode=""',
        'compress="gzip"',
        'omit_dracutmodules+=" squash squash-squashfs squash-erofs squash-lib "',
        f'add_drivers+=" {" ".join(modules)} "',
        f'kernel_cmdline+=" rd.auto=1 {arguments} "',
    )
    return "".join(f"{line}\n" for line in lines)


def _arguments(kernel: Kernel) -> str:
    """What host-only mode had found out about the machine, and what a general image would not know."""
    files = kernel.contents.configuration if kernel.contents else ()
    words = [word for file in files if "etc/cmdline.d/" in file.path for word in file.text.split()]
    return " ".join(dict.fromkeys(word for word in words if SAFE_WORDS.fullmatch(word)))
