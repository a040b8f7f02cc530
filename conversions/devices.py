"""Names of disks that hold on one machine only (`/dev/sda1`), and what means the same place on any other.

The kernel's names follow from the controller and from the order of discovery; by-id and by-path names follow
from serial numbers and slots. A filesystem's UUID is in the copied bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from p2v.model import Disk, Machine, Partition

UNIQUE_ID = re.compile(r"[0-9A-Za-z-]{4,64}")
UNSTABLE = re.compile(
    r"/dev/(?:(?:[shv]|xv)d[a-z]{1,3}\d*|nvme\d+n\d+(?:p\d+)?|mmcblk\d+(?:p\d+)?|cciss/c\d+d\d+(?:p\d+)?"
    r"|dm-\d+|mapper/(?:mpath[a-z]+|3[0-9a-f]{16,32})(?:(?:-part|p)?\d+)?|disk/by-(?:id|path|diskseq)/\S+)"
)
PATH = re.compile(r"(?<![\w/])/dev/[\w.+:@%!/-]*[\w]")
STABLE_IDS = re.compile(r"/dev/disk/by-id/(?:lvm-|md-|dm-(?!(?:name-mpath|uuid-(?:part\d+-)?mpath)))")
"""What is in the copied bytes, too: volumes and arrays by their own identifiers, but not multipath's."""
USUAL_FIRST_NAMES = ("/dev/sda", "/dev/vda", "/dev/hda", "/dev/xvda", "/dev/nvme0n1", "/dev/mmcblk0")


@dataclass(frozen=True, slots=True)
class DeviceName:
    """One name, what replaces it anywhere (`UUID=…`), and the kind of filesystem there, where known.

    `partition` is the same place by its `PARTUUID=…`, empty where it has none of its own.
    """

    name: str
    stable: str
    kind: str = ""
    partition: str = ""


@dataclass(frozen=True, slots=True)
class DeviceNames:
    """The names of the source's filesystems, `guessed` where the disk came without its machine."""

    names: tuple[DeviceName, ...]
    guessed: bool = False

    def find(self, name: str) -> DeviceName | None:
        return next((known for known in self.names if known.name == name), None)

    def stable(self, name: str) -> str | None:
        """What stands for `name` on any machine, or None where the name is not the source's."""
        found = self.find(name)
        return found.stable if found else None

    def by_partition(self) -> DeviceNames:
        """The names that a kernel understands without an initramfs: it looks into no filesystem."""
        return replace(
            self, names=tuple(replace(name, stable=name.partition) for name in self.names if name.partition)
        )

    def path(self, name: str) -> str | None:
        """As `stable`, for places that take a path only: `/dev/disk/by-uuid/…`."""
        kind, _, identifier = (self.stable(name) or "").partition("=")
        return f"/dev/disk/by-{kind.lower()}/{identifier}" if identifier else None


def is_unstable(name: str) -> bool:
    """Whether a name means a disk by its controller, slot, serial or order: what another machine changes."""
    return UNSTABLE.fullmatch(name) is not None and STABLE_IDS.match(name) is None


def with_stable_paths(text: str, names: DeviceNames) -> str:
    """A text with every path of a disk of the source replaced by one that holds on any machine."""

    def replaced(found: re.Match[str]) -> str:
        return (names.path(found[0]) if is_unstable(found[0]) else None) or found[0]

    return PATH.sub(replaced, text)


def unknown_paths(text: str, names: DeviceNames) -> tuple[str, ...]:
    """The paths in a text that mean a disk by where it was, and that are on no disk of this run."""
    found = (path for path in PATH.findall(text) if is_unstable(path) and names.stable(path) is None)
    return tuple(dict.fromkeys(found))


def device_names(machine: Machine) -> DeviceNames:
    """The names of everything on the disks of `machine`, as the probe saw them.

    The disks of an image have no names; where there is one, the usual names of a first disk are taken.
    """
    shared = _shared_ids(machine.disks)
    known = [name for disk in machine.disks for name in _disk_names(disk)]
    guessed = not known and len(machine.disks) == 1
    names: list[DeviceName] = []
    for disk in machine.disks:
        paths = USUAL_FIRST_NAMES if guessed else _disk_names(disk)
        for path in paths:
            names.extend(_names_on(disk, path, shared))
    return DeviceNames(tuple(names), guessed)


def partition_path(disk: str, number: int) -> str:
    """The name of a partition, by the rules of the kernel and of udev: `sda1`, `nvme0n1p1`, `…-part1`."""
    if disk.startswith("/dev/disk/"):
        return f"{disk}-part{number}"
    return f"{disk}p{number}" if disk[-1:].isdigit() else f"{disk}{number}"


def disk_of(name: str, number: int) -> str:
    """The disk whose partition `number` is called `name`; empty where the name is not of that partition."""
    for tail in (f"-part{number}", f"p{number}", str(number)):
        disk = name.removesuffix(tail)
        if disk != name and partition_path(disk, number) == name:
            return disk
    return ""


def partition_paths(disk: str, number: int) -> tuple[str, ...]:
    """All names that a partition has; multipath's depend on its version and on its settings."""
    if disk.startswith("/dev/mapper/"):
        return (f"{disk}{number}", f"{disk}p{number}", f"{disk}-part{number}")
    return (partition_path(disk, number),)


def _disk_names(disk: Disk) -> tuple[str, ...]:
    names = (name if name.startswith("/") else f"/dev/{name}" for name in (disk.path, *disk.names) if name)
    return tuple(dict.fromkeys(name for name in names if name.startswith("/dev/")))


def _names_on(disk: Disk, path: str, shared: frozenset[str]) -> Iterator[DeviceName]:
    if disk.filesystem and _usable(disk.filesystem.uuid, shared):
        yield DeviceName(path, f"UUID={disk.filesystem.uuid}", disk.filesystem.kind)
    for partition in disk.partitions:
        stable = _stable(partition, shared)
        if stable:
            kind = partition.filesystem.kind if partition.filesystem else ""
            for name in partition_paths(path, partition.number):
                yield DeviceName(name, stable, kind, _by_partition(partition, shared))


def _stable(partition: Partition, shared: frozenset[str]) -> str:
    if partition.filesystem and _usable(partition.filesystem.uuid, shared):
        return f"UUID={partition.filesystem.uuid}"
    return _by_partition(partition, shared)


def _by_partition(partition: Partition, shared: frozenset[str]) -> str:
    return f"PARTUUID={partition.uuid}" if _usable(partition.uuid, shared) else ""


def _usable(identifier: str, shared: frozenset[str]) -> bool:
    return UNIQUE_ID.fullmatch(identifier) is not None and identifier not in shared


def _shared_ids(disks: Sequence[Disk]) -> frozenset[str]:
    """Identifiers that name more than one place: somebody cloned a disk, they tell nothing apart."""
    counted = Counter[str]()
    for disk in disks:
        counted.update([disk.filesystem.uuid] if disk.filesystem else [])
        for partition in disk.partitions:
            counted.update([partition.uuid] if partition.uuid else [])
            counted.update([partition.filesystem.uuid] if partition.filesystem else [])
    return frozenset(identifier for identifier, times in counted.items() if times > 1)
