"""Rebuild an initramfs with Debian's own tool, mkinitramfs(8) of initramfs-tools, inside the guest.

The tool runs in the appliance, whose hardware is neither the old nor the new machine: MODULES=dep would look
at the wrong one, and MODULES=most takes minutes in emulation. So it gets a copy of the guest's configuration
with MODULES=list, and a hook that adds the drivers and what the old initramfs had, so that the old hardware
still boots.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.command_lines import STABLE_NAMES
from conversions.devices import DeviceNames, is_unstable
from conversions.kernels import Kernel
from conversions.rebuilt import RESULT, WORK, all_modules, build_folder, install_result
from drivers.pack import LinuxDriver

CONFIG = "/etc/initramfs-tools"
MODULES = f"{CONFIG}/modules"
TOOLS = ("/usr/sbin/mkinitramfs", "/sbin/mkinitramfs")
WORK_CONFIG = f"{WORK}/initramfs-tools"
HOOK = f"{WORK_CONFIG}/hooks/zz-p2v"
STATE = "/var/lib/initramfs-tools"
COMMENT = "# drivers of the virtual machine, added by p2v"

SETTINGS = "MODULES={modules}\nCOMPRESSLEVEL=1\n"
HOOK_TEXT = """#!/bin/sh
case "$1" in prereqs) exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions
manual_add_modules {modules}
"""


RESUME = re.compile(
    r"^(?P<head>[ \t]*(?:RESUME|ROOT)=[\"']?)(?P<device>/dev/[^\s\"'#]+)(?P<tail>[\"']?[ \t]*)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class InitramfsTools:
    """Debian's builder as a `conversions.ramdisks.Builder`."""

    changes: Changes
    name: str = "initramfs-tools"

    @property
    def exists(self) -> bool:
        return bool(tool(self.changes))

    def rewrite_devices(self, names: DeviceNames) -> None:
        for path in (f"{CONFIG}/initramfs.conf", *self.changes.guest.glob(f"{CONFIG}/conf.d/*")):
            text = self.changes.read_text(path)
            if text:
                self.changes.write_text(path, with_stable_resume(text, names), STABLE_NAMES)

    def remember(self, drivers: tuple[LinuxDriver, ...]) -> None:
        remember_modules(self.changes, drivers)

    def rebuild(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
        rebuild(self.changes, kernel, drivers, reason)

    def note(self, kernel: Kernel, content: bytes) -> None:
        note_digest(self.changes, kernel, content)


def with_stable_resume(text: str, names: DeviceNames) -> str:
    """RESUME= and ROOT= of the settings of initramfs-tools, in /etc or inside an initramfs."""

    def edited(found: re.Match[str]) -> str:
        stable = names.stable(found["device"]) if is_unstable(found["device"]) else None
        return f"{found['head']}{stable}{found['tail']}" if stable else found.group()

    return RESUME.sub(edited, text)


def tool(changes: Changes) -> str:
    """The path of mkinitramfs in the guest, empty where the guest has none."""
    return next((path for path in TOOLS if changes.guest.exists(path)), "")


def remember_modules(changes: Changes, drivers: tuple[LinuxDriver, ...]) -> None:
    """Every later initramfs of the guest holds the drivers, too."""
    text = changes.read_text(MODULES)
    named = {line.split()[0].replace("-", "_") for line in text.splitlines() if line.strip()}
    new = [driver.module for driver in drivers if driver.module not in named]
    if new:
        gap = "" if not text or text.endswith("\n") else "\n"
        lines = "".join(f"{word}\n" for word in (COMMENT, *new))
        changes.write_text(
            MODULES, f"{text}{gap}{lines}", "drivers of the virtual machine in later initramfs"
        )


def rebuild(changes: Changes, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
    """Replace the initramfs of `kernel` by one that holds `drivers` too, and see that it does.

    Raises GuestError where there is no space, where the tool fails, or where the result lacks a driver.
    """
    with build_folder(changes, kernel):
        # Without knowing what the old one held, only Debian's own full choice is sure to find the root disk.
        selection = "list" if kernel.contents else "most"
        _prepare(changes, all_modules(kernel, drivers), selection=selection)
        changes.guest.run([tool(changes), "-d", WORK_CONFIG, "-o", RESULT, kernel.version])
        note_digest(changes, kernel, install_result(changes, kernel, drivers, reason))


def _prepare(changes: Changes, modules: list[str], *, selection: str) -> None:
    guest = changes.guest
    guest.run(["cp", "-a", CONFIG, WORK_CONFIG])
    for folder in ("conf.d", "hooks", "scripts"):
        guest.mkdir(f"{WORK_CONFIG}/{folder}")
    guest.write(f"{WORK_CONFIG}/conf.d/zz-p2v", SETTINGS.format(modules=selection).encode())
    guest.write(HOOK, HOOK_TEXT.format(modules=" ".join(map(shlex.quote, modules))).encode())
    guest.run(["chmod", "0755", HOOK])


def note_digest(changes: Changes, kernel: Kernel, data: bytes) -> None:
    """Older update-initramfs refuse to touch an initramfs whose SHA-1 is not the one they noted."""
    path = f"{STATE}/{kernel.version}"
    if kernel.initramfs in changes.read_text(path):
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        changes.write_text(path, f"{digest}  {kernel.initramfs}\n", "the initramfs was rebuilt")
