"""Where the kernels of a guest are, which version each is, and which initramfs belongs to it.

Names: what kernel-install(8) and the packages of the distributions use. A name without a version (Arch's
`vmlinuz-linux`, Alpine's `vmlinuz-lts`) leads to one through the modules, or the kernel itself says it: Linux
Documentation/arch/x86/boot.rst, field `kernel_version`.
"""

from __future__ import annotations

import posixpath
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from conversions.boot_entries import BootEntry
from conversions.changes import Changes
from p2v.errors import GuestError
from p2v.model import MiB

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,99}")
IMAGES = tuple(f"/boot/{name}-*" for name in ("vmlinuz", "vmlinux", "kernel", "bzImage"))
INITRAMFS = (
    *("/boot/initrd.img-{name}", "/boot/initramfs-{name}.img", "/boot/initrd-{name}"),
    *("/boot/initrd-{name}.img", "/boot/initramfs-{name}"),
)
INSTALLED = tuple(f"{place}/*/*/linux*" for place in ("/boot", "/boot/efi", "/efi"))
"""kernel-install(8): `$BOOT/ENTRY-TOKEN/VERSION/linux`; openSUSE adds a digest to the name."""
INSTALLED_INITRAMFS = ("initrd", "initrd-*", "initrd.img-*", "initramfs-*")
OLD = (".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".bak", ".old", ".rpmsave", ".rpmnew", ".hmac", ".sig")
IMAGE_LIMIT = 128 * MiB
HEADER_MAGIC = 0x202
VERSION_FIELD = 0x20E
SECTOR = 0x200


@dataclass(frozen=True, slots=True)
class KernelImage:
    """A kernel that a boot loader may start; `version` and `initramfs` are empty where there is none."""

    path: str
    version: str
    initramfs: str


def kernel_images(changes: Changes, versions: frozenset[str]) -> Iterator[KernelImage]:
    """Every image. `versions` are those with modules."""
    for pattern in IMAGES:
        for path in changes.guest.glob(pattern):
            name = path.split("-", 1)[1]
            if VERSION.fullmatch(name) and not path.endswith(OLD):
                yield KernelImage(path, _version(changes, path, name, versions), _initramfs(changes, name))
    for pattern in INSTALLED:
        for path in changes.guest.glob(pattern):
            version = path.split("/")[-2]
            if version in versions:
                yield KernelImage(path, version, _beside(changes, posixpath.dirname(path)))


def named_images(
    changes: Changes, images: Sequence[KernelImage], entries: Sequence[BootEntry]
) -> Iterator[KernelImage]:
    """The images with what only the menu knows: an initramfs of any name, and kernels of any name."""
    with_initrd = [entry for entry in entries if entry.initrds]
    for image in images:
        beside = next((entry.initrds[-1] for entry in with_initrd if entry.linux == image.path), "")
        yield image if image.initramfs else replace(image, initramfs=beside)
    versions = {image.version for image in images}
    for entry in dict.fromkeys(entries):
        if not entry.linux or any(image.path == entry.linux for image in images):
            continue
        version = _told(changes, entry.linux)
        if version and version not in versions:  # else it is a link to one of them, or a copy
            versions.add(version)
            yield KernelImage(entry.linux, version, entry.initrds[-1] if entry.initrds else "")


def _version(changes: Changes, path: str, name: str, versions: frozenset[str]) -> str:
    if name in versions or "-rescue-" in path:
        return name
    named = [version for version in versions if _package(changes, version) == name]
    named += [version for version in versions if version.endswith(f"-{name}")]
    return named[0] if len(set(named)) == 1 else _told(changes, path) or name


def _package(changes: Changes, version: str) -> str:
    """Arch: the package of a kernel, which is the name of its image, too."""
    return changes.read_text(f"/lib/modules/{version}/pkgbase").strip()


def _told(changes: Changes, path: str) -> str:
    """The version in the header of an x86 kernel; empty where it tells none."""
    try:
        return told_version(changes.guest.read(path, limit=IMAGE_LIMIT))
    except GuestError:
        return ""


def told_version(data: bytes) -> str:
    """The version that a kernel's own header points at: the first word of a text."""
    try:
        (pointer,) = struct.unpack_from("<H", data, VERSION_FIELD)
    except struct.error:
        return ""
    if data[HEADER_MAGIC : HEADER_MAGIC + 4] != b"HdrS" or not pointer:
        return ""
    found = VERSION.match(data[pointer + SECTOR : pointer + SECTOR + 128].decode("ascii", "replace"))
    return found[0] if found else ""


def _initramfs(changes: Changes, name: str) -> str:
    paths = (pattern.format(name=name) for pattern in INITRAMFS)
    return next((path for path in paths if changes.guest.exists(path)), "")


def _beside(changes: Changes, folder: str) -> str:
    found = (path for name in INSTALLED_INITRAMFS for path in changes.guest.glob(f"{folder}/{name}"))
    return next(found, "")
