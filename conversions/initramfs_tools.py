"""Rebuild an initramfs with Debian's own tool, mkinitramfs(8) of initramfs-tools, inside the guest.

The tool runs in the appliance, whose hardware is neither the old nor the new machine: MODULES=dep would look
at the wrong one, and MODULES=most takes minutes in emulation. So it gets a copy of the guest's configuration
with MODULES=list, and a hook that adds the drivers and what the old initramfs had, so that the old hardware
still boots.
"""

from __future__ import annotations

import hashlib
import shlex

from conversions.changes import Changes
from conversions.initramfs import read_initramfs
from conversions.kernels import INITRAMFS_LIMIT, Kernel
from drivers.pack import LinuxDriver
from p2v.errors import GuestError
from p2v.model import MiB

CONFIG = "/etc/initramfs-tools"
MODULES = f"{CONFIG}/modules"
TOOLS = ("/usr/sbin/mkinitramfs", "/sbin/mkinitramfs")
WORK = "/var/lib/p2v-conversion"
"""Only root may write in /var/lib, so that nobody of the guest can have put a trap there."""
WORK_CONFIG = f"{WORK}/initramfs-tools"
HOOK = f"{WORK_CONFIG}/hooks/zz-p2v"
RESULT = f"{WORK}/initrd.img"
STATE = "/var/lib/initramfs-tools"
SCRATCH = "/var/tmp"
COMMENT = "# drivers of the virtual machine, added by p2v"
GROWTH = 8 * MiB
UNPACKED = 5
"""An initramfs unpacked, twice over, is about this many times its compressed size."""

SETTINGS = "MODULES={modules}\nCOMPRESSLEVEL=1\n"
HOOK_TEXT = """#!/bin/sh
case "$1" in prereqs) exit 0 ;; esac
. /usr/share/initramfs-tools/hook-functions
manual_add_modules {modules}
"""


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
    old = kernel.contents.modules(kernel.version) if kernel.contents else frozenset()
    modules = sorted(old | kernel.closure(driver.module for driver in drivers))
    size = changes.guest.size(kernel.initramfs)
    _need_space(changes, SCRATCH, UNPACKED * size + 32 * MiB)
    _need_space(changes, WORK.rsplit("/", 1)[0], size + GROWTH)
    try:
        # Without knowing what the old one held, only Debian's own full choice is sure to find the root disk.
        _prepare(changes, modules, selection="list" if kernel.contents else "most")
        changes.guest.run([tool(changes), "-d", WORK_CONFIG, "-o", RESULT, kernel.version])
        _install(changes, kernel, drivers, reason)
    finally:
        changes.guest.run(["rm", "-rf", WORK])


def _need_space(changes: Changes, path: str, size: int) -> None:
    free = changes.guest.free_space(path)
    if free < size:
        raise GuestError(
            f"{path} of the guest has {free // MiB} MiB free, but {size // MiB} MiB are needed to rebuild an"
            " initramfs",
            hint="Make space there on the source, for old kernels with: apt autoremove --purge",
        )


def _prepare(changes: Changes, modules: list[str], *, selection: str) -> None:
    guest = changes.guest
    guest.run(["rm", "-rf", WORK])
    guest.mkdir(WORK)
    guest.run(["cp", "-a", CONFIG, WORK_CONFIG])
    for folder in ("conf.d", "hooks", "scripts"):
        guest.mkdir(f"{WORK_CONFIG}/{folder}")
    guest.write(f"{WORK_CONFIG}/conf.d/zz-p2v", SETTINGS.format(modules=selection).encode())
    guest.write(HOOK, HOOK_TEXT.format(modules=" ".join(map(shlex.quote, modules))).encode())
    guest.run(["chmod", "0755", HOOK])


def _install(changes: Changes, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> None:
    data = changes.guest.read(RESULT, limit=INITRAMFS_LIMIT)
    present = read_initramfs(data).modules(kernel.version) | kernel.built_in
    lacking = sorted(kernel.closure(driver.module for driver in drivers) - present)
    if lacking:
        raise GuestError(f"The rebuilt initramfs of {kernel.version} still lacks {', '.join(lacking)}")
    _need_space(changes, "/boot", len(data) - changes.guest.size(kernel.initramfs))
    changes.rebuild(RESULT, kernel.initramfs, reason)
    _note_digest(changes, kernel, data)


def _note_digest(changes: Changes, kernel: Kernel, data: bytes) -> None:
    """Older update-initramfs refuse to touch an initramfs whose SHA-1 is not the one they noted."""
    path = f"{STATE}/{kernel.version}"
    if kernel.initramfs in changes.read_text(path):
        digest = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        changes.write_text(path, f"{digest}  {kernel.initramfs}\n", "the initramfs was rebuilt")
