"""Small guests written out in a test: a folder with the given files."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

from conversions.devices import DeviceNames, device_names
from p2v.model import GiB
from tests.conversions.machines import MACHINE
from tests.tree_guest import Command, TreeGuest

NAMES: DeviceNames = device_names(MACHINE)
"""/dev/sda1 with ext4 and /dev/sda2 with swap, by-id too."""


def guest_with(
    folder: Path, files: Mapping[str, str | bytes], *, free: int = GiB, **commands: Command
) -> TreeGuest:
    guest = TreeGuest(folder / "guest", free=free, **commands)
    guest.root.mkdir(exist_ok=True)
    for path, content in files.items():
        guest.mkdir(path.rsplit("/", 1)[0] or "/")
        guest.write(path, content.encode() if isinstance(content, str) else content)
    return guest


def text(guest: TreeGuest, path: str) -> str:
    return guest.read(path).decode()


def portable_executable(**parts: bytes) -> bytes:
    """A PE file with these sections: `.cmdline` and the like."""
    header = bytearray(b"MZ".ljust(0x40, b"\0"))
    struct.pack_into("<I", header, 0x3C, 0x40)
    header += b"PE\0\0" + struct.pack("<HHIIIHH", 0x8664, len(parts), 0, 0, 0, 0, 0)
    offset = len(header) + 40 * len(parts)
    table, data = b"", b""
    for name, body in parts.items():
        stored = body.ljust(-(-len(body) // 512) * 512, b"\0")
        table += struct.pack("<8sIIII16x", f".{name}".encode(), len(body), 0, len(stored), offset + len(data))
        data += stored
    return bytes(header) + table + data
