"""What a running Windows says of itself that stands in the way of a copy, with the command that mends it.

What its disks show, whoever reads them, is in `p2v/windows_findings.py`.
Numbers: Win32_EncryptableVolume (learn.microsoft.com), ProtectionStatus and ConversionStatus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from p2v.model import Finding, Severity

DECRYPTED = 0
"""ConversionStatus: everything else holds ciphertext somewhere; -1 where Windows does not say."""

UNPROTECTED, LOCKED = 0, 2
"""ProtectionStatus; the first is also that of a volume whose key lies open on it (suspended)."""


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A volume that BitLocker knows of, and what it says of it."""

    place: str
    protection: int
    conversion: int


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What of the inventory decides: `spaces` are paths of disks."""

    hiberboot: bool
    pending_reboots: tuple[str, ...]
    encrypted: tuple[Encrypted, ...]
    spaces: tuple[str, ...]
    architecture: str
    uefi_32: bool


def findings(seen: Circumstances) -> tuple[Finding, ...]:
    return (
        *(one for volume in seen.encrypted for one in _about_encrypted(volume)),
        *_about_disks(seen),
        *_about_system(seen),
    )


def _about_encrypted(volume: Encrypted) -> Iterator[Finding]:
    """Refused: its snapshot would give plaintext, for which the loader of the copy is not prepared."""
    if volume.conversion == DECRYPTED or (volume.conversion < 0 and volume.protection == UNPROTECTED):
        return
    state = {UNPROTECTED: ", and its protection is suspended", LOCKED: ", and locked"}
    yield Finding(
        Severity.BLOCKER,
        f"{volume.place} is encrypted with BitLocker{state.get(volume.protection, '')}",
        f"On the source: manage-bde -off {volume.place}, and wait until manage-bde -status {volume.place} "
        "says Fully Decrypted",
    )


def _about_disks(seen: Circumstances) -> Iterator[Finding]:
    for path in seen.spaces:
        yield Finding(
            Severity.WARNING,
            f"{path} is a Storage Space: the copy is one plain disk without its redundancy",
            "What it consists of, on the source: powershell Get-VirtualDisk",
        )


def _about_system(seen: Circumstances) -> Iterator[Finding]:
    if seen.pending_reboots:
        yield Finding(
            Severity.WARNING,
            f"Windows waits for a restart ({', '.join(seen.pending_reboots)}): the copy would finish it with "
            "other hardware",
            "On the source: shutdown /r /t 0, then scan again",
        )
    if seen.hiberboot:
        yield Finding(
            Severity.WARNING,
            "Fast startup is on: after an ordinary shutdown the disk would hold a hibernated system",
            "On the source: powercfg /h off",
        )
    if seen.architecture not in ("x86_64", "i686"):
        yield Finding(
            Severity.BLOCKER,
            f"This Windows is for {seen.architecture}, and the targets are x86 machines",
            "Look for a Windows of the same role on x86",
        )
    if seen.uefi_32:
        yield Finding(
            Severity.BLOCKER,
            "This Windows boots with 32-bit UEFI, which the targets do not have",
            "On the source, for a machine with BIOS: mbr2gpt has no way back; install it anew",
        )
