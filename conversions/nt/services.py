"""Drivers among the services of Windows: where their files are, and starting them with the boot loader.

A driver is started at boot by Start 0, unless the key StartOverride below it holds a value `0`: Windows 8 and
later write 3 there for what they did not need. Windows 7 and before change Start itself.
"""

from __future__ import annotations

from conversions.nt.identify import number_of, text_of
from conversions.nt.registry import dword
from conversions.nt.work import WindowsWork
from p2v.errors import GuestError

KERNEL_DRIVER = 1
"""SERVICE_KERNEL_DRIVER, winnt.h."""
BOOT_START = 0


def service_key(control_set: str, name: str) -> str:
    return f"{control_set}\\Services\\{name}"


def has_service(work: WindowsWork, name: str) -> bool:
    """Whether the set of controls that boots next has this driver, with its file."""
    key = service_key(work.control_sets[0], name)
    return number_of(work.system, key, "Type") == KERNEL_DRIVER and has_file(work, key, name)


def has_file(work: WindowsWork, key: str, name: str) -> bool:
    return work.paths.exists(driver_file(work, key, name))


def driver_file(work: WindowsWork, key: str, name: str) -> str:
    """Where the file of a driver is, by ImagePath; without one it is System32\\drivers\\NAME.sys."""
    text = text_of(work.system, key, "ImagePath") or f"System32\\drivers\\{name}.sys"
    lower = text.lower().replace("/", "\\")
    for start in ("\\systemroot\\", "%systemroot%\\"):
        if lower.startswith(start):
            return work.in_windows(text[len(start) :])
    if lower.startswith("\\??\\") and lower[5:7] == ":\\":
        return work.path(text[6:])
    return work.in_windows(text)


def start_at_boot(work: WindowsWork, name: str, reason: str) -> bool:
    """Have a driver started at boot in every set of controls that has it; whether the next one has.

    Never where its file is missing: Windows would stop with 0x7B and say nothing of the reason.
    """
    done = []
    for control_set in work.control_sets:
        key = service_key(control_set, name)
        if number_of(work.system, key, "Type") == KERNEL_DRIVER and has_file(work, key, name):
            work.system.set(key, dword("Start", BOOT_START), reason)
            work.system.remove_key(f"{key}\\StartOverride", reason)
            done.append(control_set)
    return work.control_sets[0] in done


def need_room(work: WindowsWork, size: int) -> None:
    """Raises GuestError where the volume of Windows has not `size` bytes, and what Windows needs beside."""
    free = work.guest.free_space(work.in_windows())
    if free < size + SPARE:
        raise GuestError(
            f"The volume of Windows has {free >> 20} MiB free; the drivers and Windows' first start need"
            f" {(size + SPARE) >> 20} MiB",
            hint="In Windows, try: cleanmgr",
        )


SPARE = 20 << 20
"""Bytes that Windows needs to set up new devices."""
