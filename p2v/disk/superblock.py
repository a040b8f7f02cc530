"""What a partition holds, by its superblock: kind, size, UUID and label, named as `blkid` names them.

Sources, offsets in bytes from the start of the partition: ext2/3/4 `fs/ext4/ext4.h` (superblock at 1024); XFS
`fs/xfs/libxfs/xfs_format.h`; Btrfs `fs/btrfs` (superblock at 64 KiB); NTFS and FAT boot sectors; swap
`include/linux/swap.h`; LVM2 `lib/format_text`; LUKS on-disk format 1 and 2; MD superblocks 0.90 and 1.x
`include/uapi/linux/raid/md_p.h`.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from itertools import pairwise

from p2v.disk.bitlocker import is_bitlocker
from p2v.disk.device import BlockDevice
from p2v.model import Filesystem, KiB

HEAD_SIZE = 72 * KiB
MD_MAGIC = 0xA92B4EFC
MD_SIZE = 4 * KiB
SWAP_PAGES = (4 * KiB, 8 * KiB, 16 * KiB, 64 * KiB)


def identify(device: BlockDevice, start: int, length: int) -> Filesystem | None:
    """What the `length` bytes from `start` hold, or None where nothing known is there. Raises
    TransportError.
    """
    tails = [(start + offset, MD_SIZE) for offset in _md_places(length)]
    head, *tail = list(device.read_many([(start, min(HEAD_SIZE, length)), *tails]))
    # First of all: a mirror shows the filesystem in it from its first byte on.
    member = _md_tail(tail, length)
    if member is not None:
        return member
    head += bytes(HEAD_SIZE - len(head))
    for look in _LOOKS:
        found = look(head, length)
        if found is not None:
            return found
    return None


def _text(raw: bytes) -> str:
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()


def _crypt(head: bytes, length: int) -> Filesystem | None:
    if head[:6] != b"LUKS\xba\xbe":
        return None
    return Filesystem("crypto_LUKS", length, None, _text(head[168:208]))


def _lvm(head: bytes, length: int) -> Filesystem | None:
    for sector in range(4):
        label = head[sector * 512 : sector * 512 + 512]
        if label[:8] == b"LABELONE" and label[24:32] == b"LVM2 001":
            return Filesystem("LVM2_member", length, None, _lvm_uuid(label[32:64].decode("ascii", "replace")))
    return None


def _lvm_uuid(raw: str) -> str:
    cuts = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(raw[one:other] for one, other in pairwise(cuts))


def _md(head: bytes, length: int) -> Filesystem | None:
    # Version 1.1 stands at 0, version 1.2 at 4 KiB; 0.90 and 1.0 stand at the end and are found by
    # `_md_tail`.
    for offset in (0, 4 * KiB):
        if head[offset : offset + 4] == b"\xfc\x4e\x2b\xa9":
            return Filesystem(
                "linux_raid_member", length, None, str(uuid.UUID(bytes=head[offset + 16 : offset + 32]))
            )
    return None


def _md_places(length: int) -> list[int]:
    """Where versions 0.90 and 1.0 stand, from the start of a member of `length` bytes; none on a tiny one."""
    if length < 128 * KiB:
        return []
    old = length // (64 * KiB) * (64 * KiB) - 64 * KiB
    new = (length // 512 - 16) // 8 * 8 * 512
    return [old, new]


def _md_tail(blocks: list[bytes], length: int) -> Filesystem | None:
    for look, block in zip((_md_old, _md_new), blocks, strict=False):
        name = look(block, length)
        if name is not None:
            return Filesystem("linux_raid_member", length, None, name)
    return None


def _md_old(block: bytes, length: int) -> str | None:
    # 0.90, in words of 32 bits of the machine that wrote it: 0 magic, 1 and 2 version, 5 and 13 to 15 UUID,
    # 8 size in KiB.
    for order in "<>":
        words = struct.unpack_from(f"{order}16I", block)
        if words[:2] == (MD_MAGIC, 0) and words[2] >= 90:
            # The last partition can end where the disk ends: then it is the whole disk that is a member.
            inside = words[8] * KiB < length
            return str(uuid.UUID(bytes=struct.pack(">4I", words[5], *words[13:16]))) if inside else None
    return None


def _md_new(block: bytes, length: int) -> str | None:
    # 1.0: 0 magic, 4 major version, 16 UUID of the array, 144 its own sector, counted from the start of the
    # member.
    magic, major = struct.unpack_from("<II", block)
    own = struct.unpack_from("<Q", block, 144)[0] * 512
    known = (magic, major) == (MD_MAGIC, 1) and own == _md_places(length)[1]
    return str(uuid.UUID(bytes=block[16:32])) if known else None


def _ext(head: bytes, length: int) -> Filesystem | None:
    block = head[1024:2048]
    if block[56:58] != b"\x53\xef":
        return None
    compatible, incompatible, read_only = struct.unpack_from("<III", block, 92)
    blocks, free, log_size = _ext_counts(block, incompatible)
    size = 1024 << min(log_size, 6)
    kind = _ext_kind(compatible, incompatible, read_only)
    if kind == "jbd":
        return Filesystem(kind, length, None, str(uuid.UUID(bytes=block[104:120])))
    used = (blocks - free) * size if free <= blocks else None
    return Filesystem(kind, blocks * size, used, str(uuid.UUID(bytes=block[104:120])), _text(block[120:136]))


def _ext_counts(block: bytes, incompatible: int) -> tuple[int, int, int]:
    blocks, free, log_size = (struct.unpack_from("<I", block, at)[0] for at in (4, 12, 24))
    if incompatible & 0x80:  # 64bit: high halves of both counters
        blocks |= struct.unpack_from("<I", block, 336)[0] << 32
        free |= struct.unpack_from("<I", block, 344)[0] << 32
    return blocks, free, log_size


def _ext_kind(compatible: int, incompatible: int, read_only: int) -> str:
    if incompatible & 0x8:  # a journal device, not a filesystem
        return "jbd"
    if incompatible & ~0x16 or read_only & ~0x3:
        return "ext4"
    return "ext3" if compatible & 0x4 else "ext2"


def _xfs(head: bytes, length: int) -> Filesystem | None:
    if head[:4] != b"XFSB":
        return None
    size, blocks = struct.unpack_from(">IQ", head, 4)
    free = struct.unpack_from(">Q", head, 144)[0]
    used = (blocks - free) * size if free <= blocks else None
    return Filesystem("xfs", blocks * size, used, str(uuid.UUID(bytes=head[32:48])), _text(head[108:120]))


def _btrfs(head: bytes, length: int) -> Filesystem | None:
    block = head[64 * KiB : 68 * KiB]
    if block[64:72] != b"_BHRfS_M":
        return None
    total, used = struct.unpack_from("<QQ", block, 112)
    return Filesystem(
        "btrfs", min(total, length), used, str(uuid.UUID(bytes=block[32:48])), _text(block[299:555])
    )


def _ntfs(head: bytes, length: int) -> Filesystem | None:
    if head[3:11] != b"NTFS    ":
        return None
    # The backup boot sector stands behind the sectors that are counted, and belongs to the filesystem.
    sector, sectors = struct.unpack_from("<H27xQ", head, 11)
    size = min((sectors + 1) * sector, length)
    return Filesystem("ntfs", size, None, f"{struct.unpack_from('<Q', head, 72)[0]:016X}")


def _bitlocker(head: bytes, length: int) -> Filesystem | None:
    return Filesystem("BitLocker", length) if is_bitlocker(head) else None


def _exfat(head: bytes, length: int) -> Filesystem | None:
    if head[3:11] != b"EXFAT   ":
        return None
    sectors, serial = struct.unpack_from("<Q20xI", head, 72)
    size = min(sectors << min(head[108], 12), length)
    return Filesystem("exfat", size, None, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def _fat(head: bytes, length: int) -> Filesystem | None:
    if head[510:512] != b"\x55\xaa":
        return None
    at = 67 if head[82:90] == b"FAT32   " else 39 if head[54:57] == b"FAT" else 0
    if not at:
        return None
    serial = struct.unpack_from("<I", head, at)[0]
    label = _text(head[at + 4 : at + 15])
    name = "" if label == "NO NAME" else label
    size, used = _fat_counts(head)
    return Filesystem("vfat", min(size, length), used, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}", name)


def _fat_counts(head: bytes) -> tuple[int, int | None]:
    """Size and used bytes; FAT32 alone counts what is free, in its FSInfo sector, as a hint."""
    # 11 bytes in a sector, 13 sectors in a cluster, 19 and 32 sectors, 48 FSInfo; there 0, 484 and 508
    # marks, 488 free clusters.
    sector, per_cluster, _, total = struct.unpack_from("<HB5sH", head, 11)
    size = (total or struct.unpack_from("<I", head, 32)[0]) * sector
    info = head[struct.unpack_from("<H", head, 48)[0] * sector :][:512]
    if head[82:90] != b"FAT32   " or (info[:4], info[484:488]) != (b"RRaA", b"rrAa"):
        return size, None
    free = struct.unpack_from("<I", info, 488)[0] * per_cluster * sector
    return size, size - free if free <= size else None


def _swap(head: bytes, length: int) -> Filesystem | None:
    for page in SWAP_PAGES:
        match head[page - 10 : page]:
            case b"SWAPSPACE2" | b"SWAP-SPACE":
                return Filesystem("swap", length, page, *_swap_names(head))
            case b"S1SUSPEND\0" | b"S2SUSPEND\0" | b"ULSUSPEND\0" | b"LINHIB0001":
                return Filesystem("swsuspend", length, length, *_swap_names(head))
            case _:
                pass
    return None


def _swap_names(head: bytes) -> tuple[str, str]:
    # 1024 version, 1028 last page, 1032 bad pages, 1036 UUID, 1052 label.
    return str(uuid.UUID(bytes=head[1036:1052])), _text(head[1052:1068])


_LOOKS: tuple[Callable[[bytes, int], Filesystem | None], ...] = (
    _crypt,
    _bitlocker,
    _lvm,
    _md,
    _xfs,
    _btrfs,
    _ext,
    _ntfs,
    _exfat,
    _swap,
    _fat,
)
