"""The header of a PE file ("PE Format", learn.microsoft.com): for which machine, and whether it is signed."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from drivers.inf.model import Architecture
from drivers.inf.text import InfError

HEAD = 65_536
"""Bytes that must hold the headers. Drivers have theirs within the first KiB."""

MACHINES = {
    0x014C: Architecture.X86,
    0x8664: Architecture.AMD64,
    0xAA64: Architecture.ARM64,
    0x01C4: Architecture.ARM,
    0x0200: Architecture.IA64,
}
"""IMAGE_FILE_MACHINE_*."""

PE32 = 0x10B
PE32_PLUS = 0x20B
DIRECTORIES = {PE32: 96, PE32_PLUS: 112}
"""Where the data directories begin in the optional header, by its magic number."""
SECURITY = 4
"""IMAGE_DIRECTORY_ENTRY_SECURITY: the only one whose address is an offset in the file."""


@dataclass(frozen=True, slots=True)
class Pe:
    architecture: Architecture
    signed: bool  # it carries a certificate table; nobody here can judge the certificates


def parse_pe(head: bytes, size: int) -> Pe:
    """From the first `HEAD` bytes of a file of `size` bytes. Raises InfError for what is no PE file."""
    if head[:2] != b"MZ" or len(head) < 0x40:
        raise InfError("it is no program")
    (start,) = struct.unpack_from("<I", head, 0x3C)
    coff = head[start : start + 24]
    if coff[:4] != b"PE\0\0" or len(coff) < 24:
        raise InfError("it is no Windows program")
    machine, optional_size = struct.unpack_from("<H", coff, 4)[0], struct.unpack_from("<H", coff, 20)[0]
    if machine not in MACHINES:
        raise InfError(f"it is for an unknown machine, {machine:#06x}")
    optional = head[start + 24 : start + 24 + optional_size]
    if len(optional) < optional_size:
        raise InfError("its header is cut short")
    return Pe(MACHINES[machine], _signed(optional, size))


def _signed(optional: bytes, size: int) -> bool:
    if len(optional) < 2 or (begin := DIRECTORIES.get(struct.unpack_from("<H", optional)[0])) is None:
        raise InfError("its header is damaged")
    if len(optional) < begin:
        raise InfError("its header is damaged")
    count = struct.unpack_from("<I", optional, begin - 4)[0]
    entry = begin + SECURITY * 8
    if count <= SECURITY or len(optional) < entry + 8:
        return False
    offset, length = struct.unpack_from("<II", optional, entry)
    if length and offset + length > size:
        raise InfError("its certificates lie behind its end, so it is cut short")
    return bool(offset and length)
