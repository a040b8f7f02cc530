"""What the entries of a boot loader's menu start: a kernel with the initramfs that stands beside it there.

One reader for the menus that are texts in blocks: grub.cfg (`menuentry`), menu.lst (`title`), extlinux.conf
(`label`). Names differ (`linux`, `linux16`, `linuxefi`, `kernel`, `module`; `initrd` in all, extlinux also in
`append initrd=`), and what stands in a block is the same.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from conversions.changes import Changes

BLOCK = re.compile(r"^[ \t]*(?:menuentry|title|label)\b", re.MULTILINE | re.IGNORECASE)
LINE = re.compile(
    r"^[ \t]*(?P<key>linux|linux16|linuxefi|kernel|module|initrd|initrd16|initrdefi|append)"
    r"(?:[ \t]*=[ \t]*|[ \t]+)(?P<words>[^\n]+)$",
    re.MULTILINE | re.IGNORECASE,
)
KERNELS = re.compile(r"(?:vmlinu[xz]|kernel|linux|bzImage)", re.IGNORECASE)
DEVICE = re.compile(r"^\([^)]*\)")
MICROCODE = re.compile(r"ucode|microcode|-uc\.img$")
PLACES = ("", "/boot", "/boot/efi", "/efi")
"""Where the filesystem of a loader may be mounted: `/vmlinuz` of a menu is /boot/vmlinuz of the system."""
NAME = re.compile(r"[\x21-\x7e]{1,1024}")
MAX_ENTRIES = 64


@dataclass(frozen=True, slots=True)
class BootEntry:
    """One entry; the paths are on the loader's own filesystem, as the menu has them."""

    linux: str
    initrds: tuple[str, ...] = ()


def read_menu(text: str, folder: str) -> tuple[BootEntry, ...]:
    """The entries of a menu; a path that is relative starts at `folder`."""
    starts = [0, *(found.start() for found in BLOCK.finditer(text))]
    blocks = (text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True))
    return tuple(entry for block in blocks for entry in _entry(block, folder))[:MAX_ENTRIES]


def _entry(block: str, folder: str) -> Iterator[BootEntry]:
    linux, initrds = "", list[str]()
    for found in LINE.finditer(block):
        key, words = found["key"].lower(), [DEVICE.sub("", word) for word in found["words"].split()]
        first = next((word for word in words if not word.startswith("-")), "")
        if key.startswith("initrd"):
            initrds += [name for word in words for name in word.split(",")]
        elif key == "append":
            named = (word[7:] for word in words if word.startswith("initrd="))
            initrds += [name for names in named for name in names.split(",")]
        elif key == "module" and linux and not KERNELS.match(posixpath.basename(first)):
            initrds.append(first)
        elif KERNELS.match(posixpath.basename(first)):
            linux = linux or first
    if linux:
        yield BootEntry(_absolute(linux, folder), tuple(_absolute(name, folder) for name in initrds if name))


def _absolute(path: str, folder: str) -> str:
    return posixpath.normpath(posixpath.join(folder, path))


def resolve(changes: Changes, entries: Iterable[BootEntry]) -> tuple[BootEntry, ...]:
    """The same by paths of the mounted system; what is not found there, and microcode, is left out.

    Many entries share a kernel, and a look at a path takes a while in the appliance: each is looked at once.
    """
    asked = list(entries)
    names = dict.fromkeys(name for entry in asked for name in (entry.linux, *entry.initrds))
    places = {name: place(changes, name) for name in names if not MICROCODE.search(posixpath.basename(name))}
    return tuple(
        BootEntry(places.get(entry.linux, ""), tuple(filter(None, map(places.get, entry.initrds))))
        for entry in asked
    )


def place(changes: Changes, path: str) -> str:
    """Where a file of the loader's filesystem is; that may be a subvolume (`/@/boot/…`). Empty if nowhere."""
    ways = [f"{mount}{path}" for mount in PLACES]
    ways += [path[start.start() :] for start in re.finditer(r"(?<=.)/boot/", path)]
    usable = ways if NAME.fullmatch(path) else []
    return next((way for way in usable if _is_file(changes, way)), "")


def _is_file(changes: Changes, path: str) -> bool:
    return changes.guest.exists(path) and not changes.guest.is_dir(path)
