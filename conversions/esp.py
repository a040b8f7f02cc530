"""The EFI system partition of a guest: where it is mounted, and its files, whose names have no case.

UEFI specification 2.10, 13.3: FAT. A plain listing is compared in lower case, as the firmware would.
"""

from __future__ import annotations

from collections.abc import Iterator

from conversions.changes import Changes

MOUNTPOINTS = ("/boot/efi", "/efi", "/boot")


def places(changes: Changes) -> tuple[str, ...]:
    """Where an EFI system partition is mounted: the mount points below which there is a folder EFI."""
    return tuple(place for place in MOUNTPOINTS if find(changes, place, "EFI"))


def find(changes: Changes, folder: str, *names: str) -> str:
    """The path of a file or folder below `folder`, whatever the case of its parts; empty where it is not."""
    for name in names:
        folder = next((path for path in listing(changes, folder) if _name(path) == name.lower()), "")
        if not folder:
            return ""
    return folder


def listing(changes: Changes, folder: str) -> list[str]:
    return changes.guest.glob(f"{folder}/*")


def programs(changes: Changes, place: str) -> Iterator[str]:
    """Every file two levels below the folder EFI."""
    root = find(changes, place, "EFI")
    for folder in listing(changes, root) if root else ():
        yield from listing(changes, folder)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1].lower()
