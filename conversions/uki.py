"""Unified kernel images: a kernel, its initramfs and its command line in one EFI program.

Formats: PE/COFF (Microsoft, "PE Format"); sections `.linux`, `.initrd`, `.cmdline`, `.uname` of
systemd-stub(7). They are only read: most are signed, and a change would break the signature.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from conversions import esp
from conversions.changes import Changes
from p2v.errors import GuestError
from p2v.model import MiB

LIMIT = 512 * MiB
TEXT_LIMIT = 64 * 1024
MAX_SECTIONS = 96
"""The most that Windows' loader takes."""
PE_OFFSET = 0x3C
COFF = struct.Struct("<HHIIIHH")
SECTION = struct.Struct("<8sIIII16x")


@dataclass(frozen=True, slots=True)
class Image:
    """One image; `version` is what uname -r says, empty where the image does not tell."""

    path: str
    command_line: str
    version: str
    initramfs: bytes


def paths(changes: Changes) -> tuple[str, ...]:
    """The images in EFI/Linux, the last of the names first: those that a boot manager finds by itself."""
    folders = (esp.find(changes, place, "EFI", "Linux") for place in esp.places(changes))
    found = (path for folder in folders if folder for path in esp.listing(changes, folder))
    return tuple(sorted((path for path in found if path.lower().endswith(".efi")), reverse=True))


def images(changes: Changes) -> tuple[Image, ...]:
    """What is in each of them; one that cannot be read costs a warning."""
    return tuple(image for path in paths(changes) for image in _image(changes, path))


def _image(changes: Changes, path: str) -> list[Image]:
    try:
        parts = sections(changes.guest.read(path, limit=LIMIT))
    except GuestError as error:
        changes.warn(f"{path} could not be read: {error.message}")
        return []
    version = _text(parts.get(".uname", b""))
    return [Image(path, _text(parts.get(".cmdline", b"")), version, parts.get(".initrd", b""))]


def _text(data: bytes) -> str:
    return data[:TEXT_LIMIT].rstrip(b"\0").decode("utf-8", "replace").strip()


def sections(data: bytes) -> dict[str, bytes]:
    """The sections of a PE file by name. Raises GuestError where it is none, or is damaged."""
    try:
        (start,) = struct.unpack_from("<I", data, PE_OFFSET)
        if data[:2] != b"MZ" or data[start : start + 4] != b"PE\0\0":
            raise GuestError("It is no EFI program")
        _, count, _, _, _, optional, _ = COFF.unpack_from(data, start + 4)
        table = start + 4 + COFF.size + optional
        if count > MAX_SECTIONS:
            raise GuestError("It has too many sections")
        entries = [SECTION.unpack_from(data, table + index * SECTION.size) for index in range(count)]
    except struct.error as bad:
        raise GuestError("It is a damaged EFI program") from bad
    return {
        name.rstrip(b"\0").decode("ascii", "replace"): data[offset : offset + min(size, stored)]
        for name, size, _, stored, offset in entries
    }
