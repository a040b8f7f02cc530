"""mkinitcpio of Arch, in the guest: mkinitcpio(8), mkinitcpio.conf(5).

The hook `autodetect` would look at the appliance's hardware, so it is left out for the one build.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.kernels import Kernel
from conversions.rebuilt import RESULT, build_folder, install_result, tool_of
from drivers.pack import LinuxDriver

TOOLS = ("/usr/bin/mkinitcpio", "/sbin/mkinitcpio")
CONFIG = "/etc/mkinitcpio.conf"
MODULES = re.compile(
    r"^(?P<head>MODULES=)(?P<open>[(\"'])(?P<words>[^)\"'#]*)(?P<close>[)\"'])", re.MULTILINE
)
REASON = "drivers of the virtual machine in later initramfs"


@dataclass(frozen=True, slots=True)
class Mkinitcpio:
    """mkinitcpio as a `conversions.ramdisks.Builder`."""

    changes: Changes
    name: str = "mkinitcpio"

    @property
    def exists(self) -> bool:
        return bool(tool_of(self.changes, *TOOLS))

    def rewrite_devices(self, names: DeviceNames) -> None:
        """It names disks nowhere but on the kernel's command line."""

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        text = self.changes.read_text(CONFIG)
        modules = tuple(driver.module for driver in drivers)
        self.changes.write_text(CONFIG, with_modules(text, modules), REASON)

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        tool = tool_of(self.changes, *TOOLS)
        with build_folder(self.changes, kernel):
            self.changes.guest.run([tool, "-k", kernel.version, "-S", "autodetect", "-g", RESULT])
            install_result(self.changes, kernel, drivers, reason)

    def note(self, kernel: Kernel, content: bytes) -> None:
        """mkinitcpio keeps no record."""


def with_modules(text: str, modules: tuple[str, ...]) -> str:
    """The configuration with `modules` in MODULES, an array or, in old ones, a text."""
    assignments = list(MODULES.finditer(text))
    if not assignments:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{gap}MODULES=({' '.join(modules)})\n"
    last = assignments[-1]
    named = {word.replace("-", "_") for word in last["words"].split()}
    words = " ".join([*last["words"].split(), *(name for name in modules if name not in named)])
    if set(modules) <= named:
        return text
    return text[: last.start()] + f"MODULES={last['open']}{words}{last['close']}" + text[last.end() :]
