"""What the disks of a Windows show before anything is copied: encrypted, hibernated, not shut down cleanly.

Read from the disks themselves, without the appliance: a source that is only reached over the wire is told so
too. A disk that is in use says nothing here, since its volumes are never at rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from p2v.disk.bitlocker import BitLocker, read_bitlocker
from p2v.disk.device import BlockDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.ntfs_state import NtfsState, read_state
from p2v.model import Disk, Finding, Partition, Severity

SHUT_DOWN = "start Windows there and shut it down whole: shutdown /s /f /t 0"
WITHOUT_SESSION = "where it starts no more, give up the session: ntfs-3g -o remove_hiberfile VOLUME /mnt"
LDM_TYPES = ("42", "5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad")
"""Partitions of dynamic disks: on an MBR, and on a GPT metadata and data."""
SPACES_TYPE = "e75caf8f-f680-4cee-afa3-b001e56efc2d"
LINUX_KINDS = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "jfs", "f2fs", "LVM2_member", "linux_raid_member", "crypto_LUKS")
)
"""With one of these the machine may be a Linux, beside which a Windows sleeps."""


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What one partition is for Windows; None for what it is not, or what cannot be read."""

    disk: Disk
    partition: Partition
    ntfs: NtfsState | None = None
    bitlocker: BitLocker | None = None

    @property
    def name(self) -> str:
        return f"{self.disk.path} partition {self.partition.number}"


def read_states(device: BlockDevice, disk: Disk) -> Iterator[VolumeState]:
    """The volumes of a disk that matters to Windows. Raises TransportError."""
    if device.live:
        return
    for partition in disk.partitions:
        kind = partition.filesystem.kind if partition.filesystem else ""
        if kind == "ntfs":
            yield VolumeState(disk, partition, ntfs=_ntfs_state(device, partition))
        elif kind == "BitLocker":
            found = read_bitlocker(device, partition.start, partition.length)
            yield VolumeState(disk, partition, bitlocker=found)


def _ntfs_state(device: BlockDevice, partition: Partition) -> NtfsState | None:
    try:
        return read_state(device, partition.start, partition.length)
    except MapUnknown:
        return None  # the map of used blocks says what is damaged


def findings(disks: Sequence[Disk], states: Sequence[VolumeState]) -> Iterator[Finding]:
    """Of all disks of a machine together: what blocks depends on what else there is."""
    kinds = {part.filesystem.kind for disk in disks for part in disk.partitions if part.filesystem}
    maybe_linux = bool(kinds & LINUX_KINDS)
    readable = any(state.ntfs and state.ntfs.holds_windows for state in states)
    for state in states:
        if state.ntfs:
            yield from _about_ntfs(state, state.ntfs, maybe_linux=maybe_linux)
        if state.bitlocker:
            blocks = not (readable or maybe_linux or state.bitlocker.is_to_go)
            yield _about_bitlocker(state, state.bitlocker, _blocker_if(blocks))
    yield from _about_pools(disks, readable=readable or maybe_linux)


def _blocker_if(blocks: bool) -> Severity:
    return Severity.BLOCKER if blocks else Severity.WARNING


def _about_ntfs(state: VolumeState, ntfs: NtfsState, *, maybe_linux: bool) -> Iterator[Finding]:
    if ntfs.is_hibernated:
        yield Finding(
            _blocker_if(not maybe_linux),
            f"{state.name} holds a Windows that is hibernated, or was shut down with Fast Startup: what it "
            "has in memory is not on the disk, and does not fit another machine",
            f"On the source, {SHUT_DOWN} (powercfg /h off turns both off); {WITHOUT_SESSION}",
        )
    elif not ntfs.has_clean_log:
        yield Finding(
            _blocker_if(ntfs.holds_windows and not maybe_linux),
            f"{state.name} was not shut down cleanly: its NTFS log holds changes that only Windows can make",
            f"On the source, {SHUT_DOWN}; where it starts no more, give them up with: ntfsfix VOLUME",
        )
    if ntfs.is_dirty:
        yield Finding(
            Severity.WARNING,
            f"{state.name} is marked dirty: Windows checks it at its next start",
            "On the source: chkdsk C: /f, then shutdown /s /f /t 0",
        )


def _about_bitlocker(state: VolumeState, found: BitLocker, severity: Severity) -> Finding:
    what = "BitLocker To Go" if found.is_to_go else "BitLocker"
    suspended = ", which is suspended: its key lies open on the disk" if found.has_clear_key else ""
    stays = "" if severity is Severity.BLOCKER else "; it stays so, and its recovery key is needed there too"
    return Finding(
        severity,
        f"{state.name} is encrypted with {what}{suspended}{stays}",
        "On the source: manage-bde -off C:, until manage-bde -status says Fully Decrypted; then shut it down",
    )


def _about_pools(disks: Iterable[Disk], *, readable: bool) -> Iterator[Finding]:
    for disk in disks:
        types = {partition.type_id.lower() for partition in disk.partitions}
        if types & set(LDM_TYPES):
            yield Finding(
                _blocker_if(not readable),
                f"{disk.path} is a dynamic disk of Windows"
                + ("; it is copied as it is" if readable else ", and p2v finds no system on such disks"),
                "On the source, make it basic again (back up first; diskpart: convert basic), or leave it "
                "out with --disk",
            )
        if SPACES_TYPE in types:
            yield Finding(
                Severity.WARNING,
                f"{disk.path} belongs to a pool of Storage Spaces; it is copied as it is, and Windows finds "
                "the pool only where all of its disks come along",
                "On the source: Get-StoragePool -IsPrimordial 0 | Get-PhysicalDisk",
            )
