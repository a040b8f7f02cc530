"""Filesystems and volumes of a guest in another size, in the appliance. Nothing may be mounted.

Sizes are bytes. libguestfs does the work, but for two things that it has no call for: where the extents of a
physical volume lie, and moving them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from p2v.errors import GuestError, TargetError
from p2v.guest import Guest
from p2v.guest_handle import Handle
from p2v.model import MiB

EXT = ("ext2", "ext3", "ext4")
LVM = "LVM2_member"
LUKS = "crypto_LUKS"
SHRINKING = ("ext2", "ext3", "ext4", "btrfs")
RESIZE_SECONDS = 12 * 3600.0
"""What is behind the new end of a filesystem moves: as much as the disk holds, in emulation."""
VOLUME_SLACK = 32 * MiB
DEVICE = re.compile(r"/dev/[\w./+-]{1,200}")


@dataclass(frozen=True, slots=True)
class _Volume:
    """A physical volume: extents of `extent` bytes each, the first at byte `start`."""

    start: int
    extent: int
    count: int
    allocated: int
    last: int


def grow(guest: Guest, device: str, kind: str, root: str = "") -> tuple[str, ...]:
    """Make what is on `device` as large as the device is; warnings where it does not help.

    In a physical volume, the volume with the `root` system gets the space, if it is in that group.
    """
    if kind == LVM:
        return _grow_group(guest, device, root)
    if kind == LUKS:
        return (f"{device} is encrypted (LUKS) and larger now; what is inside has its old size",)
    _resize(guest, device, kind, 0)
    return ()


def shrink(guest: Guest, device: str, kind: str, size: int, root: str = "") -> None:
    """Make what is on `device` fit into its first `size` bytes. Raises GuestError where it does not."""
    if kind == LVM:
        _shrink_group(guest, device, size, root)
    else:
        _resize(guest, device, kind, size)


def _resize(guest: Guest, device: str, kind: str, size: int) -> None:
    """`size` 0 is all of the device."""
    words = (
        f"make {device} ({kind}) {size} bytes large"
        if size
        else f"make {device} ({kind}) as large as it can be"
    )
    if kind in EXT:
        _do(guest, words, lambda handle: _resize_ext(handle, device, size))
    elif kind == "ntfs":
        _do(guest, words, lambda handle: _resize_ntfs(handle, device, size))
    elif kind == "btrfs" or (kind == "xfs" and not size):
        _resize_mounted(guest, device, kind, size, words)
    else:
        raise GuestError(f"{kind or 'What is'} on {device} cannot get another size")


def _do(guest: Guest, words: str, work: Callable[[Handle], None]) -> None:
    guest.on_device(words, work, seconds=RESIZE_SECONDS)


def _resize_ext(handle: Handle, device: str, size: int) -> None:
    handle.e2fsck_f(device)
    if size:
        handle.resize2fs_size(device, size)
    else:
        handle.resize2fs(device)


def _resize_ntfs(handle: Handle, device: str, size: int) -> None:
    if size:
        handle.ntfsresize(device, size=size, force=True)
    else:
        handle.ntfsresize(device, force=True)


def _resize_mounted(guest: Guest, device: str, kind: str, size: int, words: str) -> None:
    guest.mount(device, "/")
    try:
        if kind == "xfs":
            _grow_xfs(guest, words)
        elif size:
            _do(guest, words, lambda handle: handle.btrfs_filesystem_resize("/", size=size))
        else:
            _do(guest, words, lambda handle: handle.btrfs_filesystem_resize("/"))
    finally:
        guest.unmount_all()


def _grow_xfs(guest: Guest, words: str) -> None:
    try:
        _do(guest, words, lambda handle: handle.xfs_growfs("/"))
    except GuestError as error:
        if "not available" not in error.message:
            raise
        raise TargetError(
            "libguestfs has no tools for XFS here", hint="Try: sudo apt install libguestfs-xfs"
        ) from error


# LVM


def _grow_group(guest: Guest, device: str, root: str) -> tuple[str, ...]:
    guest.on_device(f"make the physical volume {device} larger", lambda handle: handle.pvresize(device))
    volume = next((one for one in _volumes_on(guest, device) if one == root), "")
    if not volume:
        return (f"The volume group on {device} has got free space; no volume of it was made larger",)
    guest.on_device(f"make {volume} larger", lambda handle: handle.lvresize_free(volume, 100))
    return grow(guest, volume, guest.kind(volume))


def _shrink_group(guest: Guest, device: str, size: int, root: str) -> None:
    now = _volume(guest, device)
    wanted = (size - now.start) // now.extent
    if wanted <= 0:
        raise GuestError(f"{size} bytes are too few for the physical volume {device}")
    if now.allocated > wanted:
        _free(guest, device, (now.allocated - wanted) * now.extent, root)
        now = _volume(guest, device)
    if now.last > wanted:
        moved = f"lvm pvmove --alloc anywhere {device}:{wanted}-{now.count - 1} {device}:0-{wanted - 1}"
        _shell(guest, moved)
    end = now.start + wanted * now.extent
    words = f"make the physical volume {device} smaller"
    guest.on_device(words, lambda handle: handle.pvresize_size(device, end))


def _free(guest: Guest, device: str, missing: int, root: str) -> None:
    """Make one volume smaller by `missing` bytes: that of the root system, else the first that can."""
    volumes = sorted(_volumes_on(guest, device), key=lambda volume: volume != root)
    for volume in volumes:
        kind = guest.kind(volume)
        if kind not in SHRINKING:
            continue
        size, least = guest.on_device(f"look at {volume}", partial(_sizes, device=volume))
        if size - missing < least + VOLUME_SLACK:
            continue
        _resize(guest, volume, kind, size - missing)
        words = f"lvm lvreduce --force --yes --size {size - missing}b {volume}"
        _shell(guest, words)
        return
    raise GuestError(
        f"No volume on {device} can be made smaller by {missing // MiB} MiB"
        f" ({', '.join(f'{volume}: {guest.kind(volume)}' for volume in volumes)})",
        hint="Choose a larger disk, or make a volume smaller on the source",
    )


def _sizes(handle: Handle, device: str) -> tuple[int, int]:
    """That of the device, and the least that its filesystem can have."""
    return handle.blockdev_getsize64(device), handle.vfs_minimum_size(device)


def _volumes_on(guest: Guest, device: str) -> tuple[str, ...]:
    """The volumes of the group that the physical volume belongs to."""
    group = _shell(guest, f"lvm pvs --noheadings -o vg_name {device}").strip()
    names = guest.on_device("list the volumes", lambda handle: handle.lvs())
    return tuple(name for name in names if group and name.startswith(f"/dev/{group}/"))


def _volume(guest: Guest, device: str) -> _Volume:
    fields = "pe_start,vg_extent_size,pv_pe_count,pv_pe_alloc_count"
    said = _shell(guest, f"lvm pvs --noheadings --nosuffix --units b -o {fields} {device}").split()
    segments = _shell(guest, f"lvm pvs --noheadings --segments -o pvseg_start,pvseg_size,segtype {device}")
    try:
        start, extent, count, allocated = map(int, said)
        lines = [line.split() for line in segments.splitlines() if line.strip()]
        used = [int(words[0]) + int(words[1]) for words in lines if words[2] != "free"]
    except (ValueError, IndexError) as error:
        raise GuestError(f"The physical volume {device} could not be looked at") from error
    if extent <= 0:
        raise GuestError(f"The physical volume {device} belongs to no volume group")
    return _Volume(start, extent, count, allocated, max(used, default=0))


def _shell(guest: Guest, words: str) -> str:
    """A command of the appliance itself. What a guest named is only ever the name of a device."""
    for word in words.split():
        if word.startswith("/") and not DEVICE.fullmatch(word.partition(":")[0]):
            raise GuestError(f"{word} is no name of a device")
    return guest.on_device(f"run {words}", lambda handle: handle.debug("sh", [words]), seconds=RESIZE_SECONDS)
