"""The loader that firmware starts which has forgotten its boot entries, as that of a new machine has.

UEFI specification 2.10, 3.5.1.1: \\EFI\\BOOT\\BOOTX64.EFI. Windows' own setup puts a copy of its boot manager
there, but nothing keeps it there; virt-v2v does the same since 2022 (commit 9d4b58dc).
"""

from __future__ import annotations

from dataclasses import dataclass

from conversions.nt.identify import pe_machine
from conversions.nt.places import ESP
from conversions.nt.work import WindowsWork
from p2v.errors import GuestError
from p2v.model import ChangeKind, Firmware, KiB, MiB

FALLBACKS = {
    "x86_64": "BOOTX64.EFI",
    "i686": "BOOTIA32.EFI",
    "aarch64": "BOOTAA64.EFI",
    "armv7l": "BOOTARM.EFI",
}
"""By the machine type of the boot manager (UEFI specification, table 3-2)."""
LOADER_LIMIT = 32 * MiB
"""Bytes; that of Windows 11 has 2.9 MB."""
SPARE = 64 * KiB
MICROSOFT = "Microsoft".encode("utf-16-le")
"""In the version of a program of Windows; an older copy of its loader is nothing to warn of."""
BACKUP = ".before-p2v"
REASON = "the firmware of a new machine knows no boot entries and starts this file"


@dataclass(frozen=True, slots=True)
class _Loader:
    path: str
    content: bytes


def step(work: WindowsWork) -> None:
    """Put Windows' boot manager where firmware looks by itself; what was there is kept beside it.

    Raises GuestError where the EFI system partition is full.
    """
    if work.request.firmware is not Firmware.UEFI:
        return
    path = work.path(ESP, "EFI", "Microsoft", "Boot", "bootmgfw.efi")
    if not work.guest.exists(path):
        work.warn(
            "No boot manager of Windows was found on an EFI system partition: the machine may not start"
        )
        return
    manager = _Loader(path, work.guest.read(path, limit=LOADER_LIMIT))
    name = FALLBACKS.get(pe_machine(manager.content), "")
    if name:
        _install(work, manager, work.path(ESP, "EFI", "BOOT", name))
    else:
        work.warn(f"{path} is no program for a firmware that p2v knows and was copied nowhere")


def _install(work: WindowsWork, manager: _Loader, fallback: str) -> None:
    before, wanted = work.guest.sha256(fallback), work.guest.sha256(manager.path)
    if before == wanted:
        return
    old = work.guest.size(fallback) if before else 0
    _require_space(work, len(manager.content) + old)
    if before:
        _keep(work, fallback, before)
    work.changes.write_bytes(fallback, manager.content, REASON, kind=ChangeKind.EDITED)


def _require_space(work: WindowsWork, size: int) -> None:
    free = work.guest.free_space(ESP)
    if free < size + SPARE:
        raise GuestError(
            f"The EFI system partition has {free // KiB} KiB free, and the loader for a new machine needs"
            f" {(size + SPARE) // KiB} KiB",
            hint="Remove what is not needed from it (mountvol S: /S), then capture again",
        )


def _keep(work: WindowsWork, fallback: str, digest: str) -> None:
    """A backup that is there was made of what was there before us, and is worth more."""
    backup = work.path(fallback + BACKUP)
    if not work.guest.exists(backup):
        work.changes.copy(
            fallback, backup, "what was there before p2v put the loader of Windows in its place"
        )
    if MICROSOFT not in work.guest.read(fallback, limit=LOADER_LIMIT):
        kept = f"it is kept as {backup}" if work.guest.sha256(backup) == digest else f"{backup} is older"
        work.warn(f"{fallback} was not the loader of Windows, and is now; {kept}")
