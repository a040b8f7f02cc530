"""Names of disks that came without their machine, as images do: what the system on them calls them.

A probe of a running machine knows every name of every disk. An image has at most the name that a person gave
it (`sda=…`), while its fstab may say `/dev/disk/by-path/…-part2`. Two things are evidence: the line for `/`
names the partition that the root was found on; and a name fits if each of its lines describes what is there,
on one disk only, in a partition that no other line names. Positions are no evidence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conversions.devices import USUAL_FIRST_NAMES, device_names, disk_of, is_unstable
from conversions.fstab import COMPARED, EXT, LUKS, Mount
from p2v.model import Disk, Machine, Partition

PART = re.compile(r"(?P<disk>/dev/disk/by-(?:id|path)/\S+)-part(?P<number>\d{1,3})")


@dataclass(frozen=True, slots=True)
class Learned:
    """The machine with the names that its disks were found to have, and what a person should know."""

    machine: Machine
    warnings: tuple[str, ...] = ()


def learn_names(machine: Machine, table: Sequence[Mount], root: tuple[Disk, int] | None) -> Learned:
    """`table` is the system's fstab, and its crypttab as lines of the kind `LUKS`.

    `root` is the partition that the root is on, where it is one.
    """
    spec = next((mount.spec for mount in table if mount.mountpoint == "/"), "")
    if root and is_unstable(spec) and not device_names(machine).find(spec):
        machine = with_own_name(machine, spec, *root)
    warnings: list[str] = []
    for name in dict.fromkeys(found["disk"] for mount in table if (found := PART.fullmatch(mount.spec))):
        fitting = [disk for disk in machine.disks if _fits(machine, disk, name, table)]
        if len(fitting) == 1 and not _known(machine, name):
            machine = _named(machine, fitting[0], (name,))
            warnings.append(
                f"{name} of /etc/fstab or /etc/crypttab is taken to be the disk {fitting[0].path}, which has"
                " what the lines say; an image cannot tell its serial number and slot"
            )
    return Learned(machine, tuple(warnings))


def with_own_name(machine: Machine, name: str, disk: Disk, number: int) -> Machine:
    """The machine, once its system has said that `name` is partition `number` of `disk`.

    That is how a disk gets its names that came without its machine, as an image does; what a probe saw holds.
    """
    own = disk_of(name, number)
    if not own or not _without_probe(disk):
        return machine
    alone = len(machine.disks) == 1 and not disk.names
    return _named(machine, disk, (own, *(USUAL_FIRST_NAMES if alone else ())))


def _named(machine: Machine, disk: Disk, names: Sequence[str]) -> Machine:
    named = replace(disk, names=tuple(dict.fromkeys((*disk.names, *names))))
    return replace(machine, disks=tuple(named if one is disk else one for one in machine.disks))


def _without_probe(disk: Disk) -> bool:
    """Whether nobody looked at the disk in its machine: then its path is that of an image."""
    return not (disk.serial or disk.wwn or disk.path.startswith("/dev/"))


def _known(machine: Machine, name: str) -> bool:
    return any(name in (disk.path, *disk.names) for disk in machine.disks)


def _fits(machine: Machine, disk: Disk, name: str, table: Sequence[Mount]) -> bool:
    """Whether `disk` has what all lines that name `name` say, in partitions that no other line names."""
    if not _without_probe(disk):
        return False
    others = {stable for mount in table for stable in _stable(machine, mount, name)}
    wanted = [(mount, PART.fullmatch(mount.spec)) for mount in table]
    lines = [(mount, int(found["number"])) for mount, found in wanted if found and found["disk"] == name]
    return all(_holds(disk, number, mount, others) for mount, number in lines)


def _stable(machine: Machine, mount: Mount, name: str) -> Iterator[str]:
    """What a line that does not name the disk `name` means, as UUID."""
    found = PART.fullmatch(mount.spec)
    if found is None or found["disk"] != name:
        yield (device_names(machine).stable(mount.spec) or mount.spec).lower()


def _holds(disk: Disk, number: int, mount: Mount, others: set[str]) -> bool:
    partition = next((one for one in disk.partitions if one.number == number), None)
    if partition is None or partition.filesystem is None or mount.kind not in COMPARED | {LUKS}:
        return False
    seen = partition.filesystem.kind
    same = seen == mount.kind or (seen in EXT and mount.kind in EXT)
    return same and not others & _names_of(partition)


def _names_of(partition: Partition) -> set[str]:
    uuid = partition.filesystem.uuid.lower() if partition.filesystem else ""
    named = {f"uuid={uuid}", f"/dev/disk/by-uuid/{uuid}"} if uuid else set()
    return named | ({f"partuuid={partition.uuid.lower()}"} if partition.uuid else set())
