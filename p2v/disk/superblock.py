"""What a partition holds, by its superblock: kind, size, UUID and label, named as `blkid` names them.

Sources, offsets in bytes from the start of the partition: ext2/3/4 `fs/ext4/ext4.h` (superblock at 1024); XFS
`fs/xfs/libxfs/xfs_format.h`; Btrfs `fs/btrfs` (superblock at 64 KiB); NTFS and FAT boot sectors; swap
`include/linux/swap.h`; LVM2 `lib/format_text`; LUKS on-disk format 1 and 2; MD superblock 1.x `md_p.h`.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable
from itertools import pairwise

from p2v.disk.device import BlockDevice
from p2v.model import Filesystem, KiB

HEAD_SIZE = 72 * KiB
SWAP_PAGES = (4 * KiB, 8 * KiB, 16 * KiB, 64 * KiB)


def identify(device: BlockDevice, start: int, length: int) -> Filesystem | None:
    """What the `length` bytes from `start` hold, or None where nothing known is there. Raises
    TransportError.
    """
    head = device.read(start, min(HEAD_SIZE, length))
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
    return Filesystem("ntfs", length, None, f"{struct.unpack_from('<Q', head, 72)[0]:016X}")


def _bitlocker(head: bytes, length: int) -> Filesystem | None:
    return Filesystem("BitLocker", length) if head[3:11] == b"-FVE-FS-" else None


def _exfat(head: bytes, length: int) -> Filesystem | None:
    if head[3:11] != b"EXFAT   ":
        return None
    serial = struct.unpack_from("<I", head, 100)[0]
    return Filesystem("exfat", length, None, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}")


def _fat(head: bytes, length: int) -> Filesystem | None:
    if head[510:512] != b"\x55\xaa":
        return None
    at = 67 if head[82:90] == b"FAT32   " else 39 if head[54:57] == b"FAT" else 0
    if not at:
        return None
    serial = struct.unpack_from("<I", head, at)[0]
    label = _text(head[at + 4 : at + 15])
    name = "" if label == "NO NAME" else label
    return Filesystem("vfat", length, None, f"{serial >> 16:04X}-{serial & 0xFFFF:04X}", name)


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
