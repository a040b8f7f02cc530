"""The kernels of a guest, and which drivers each has: built in, as modules, in its initramfs.

Files: /lib/modules/VERSION/modules.builtin and modules.dep, written by depmod(8); /boot/config-VERSION.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from conversions.changes import Changes
from conversions.initramfs import Initramfs, module_name, read_initramfs
from drivers.pack import LinuxDriver
from p2v.errors import GuestError

VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,99}")
LIST_LIMIT = 16 * 1024 * 1024
INITRAMFS_LIMIT = 512 * 1024 * 1024
IMAGE_PREFIXES = ("/boot/vmlinuz-", "/boot/vmlinux-")
MODULE_SUFFIX = re.compile(r"\.ko(?:\.(?:gz|xz|zst|bz2))?$")


@dataclass(frozen=True, slots=True)
class Loadable:
    """A module of a kernel and the modules that it needs, all of them."""

    name: str
    needs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One installed kernel. `initramfs` is a path, or empty; `contents` is None where it cannot be read."""

    version: str
    image: str
    initramfs: str
    built_in: frozenset[str]
    loadable: tuple[Loadable, ...]
    contents: Initramfs | None = None

    def can_load(self, drivers: Iterable[LinuxDriver]) -> bool:
        """Whether the kernel has these drivers at all, built in or as modules."""
        known = self.built_in | {module.name for module in self.loadable}
        return all(driver.module in known for driver in drivers)

    def missing(self, drivers: Iterable[LinuxDriver]) -> tuple[str, ...]:
        """The modules, dependencies included, that are neither built in nor in the initramfs."""
        present = self.built_in | (self.contents.modules(self.version) if self.contents else frozenset())
        return tuple(sorted(self.closure(driver.module for driver in drivers) - present))

    def closure(self, names: Iterable[str]) -> frozenset[str]:
        """`names` and all that they need, without what is built in."""
        named = frozenset(names) - self.built_in
        needed = {name for module in self.loadable if module.name in named for name in module.needs}
        return (named | needed) - self.built_in


def installed_kernels(changes: Changes, drivers: Sequence[LinuxDriver]) -> tuple[Kernel, ...]:
    """All kernels with modules, newest first; raises GuestError where there is none.

    `drivers` are those whose symbols are looked up in /boot/config-VERSION, beside modules.builtin.
    """
    found: list[Kernel] = []
    for image in _images(changes):
        version = image.split("-", 1)[1]
        if not changes.guest.is_dir(f"/lib/modules/{version}"):
            changes.warn(f"{image} has no modules in /lib/modules/{version}; it was left as it is")
            continue
        found.append(_kernel(changes, image, version, drivers))
    if not found:
        raise GuestError(
            "The guest has no kernel in /boot with its modules in /lib/modules",
            hint="If /boot is on a disk of its own, capture that disk too: p2v scan SOURCE shows the disks",
        )
    return tuple(sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True))


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts versions as a person would: runs of digits as numbers, above letters."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    return tuple((1, int(part[:18])) if part.isdigit() else (0, part) for part in parts)


def _images(changes: Changes) -> list[str]:
    images = [path for prefix in IMAGE_PREFIXES for path in changes.guest.glob(f"{prefix}*")]
    usable = [path for path in images if VERSION.fullmatch(path.split("-", 1)[1])]
    return [
        path for path in usable if not path.endswith((".dpkg-old", ".dpkg-new", ".dpkg-tmp", ".bak", ".old"))
    ]


def _kernel(changes: Changes, image: str, version: str, drivers: Sequence[LinuxDriver]) -> Kernel:
    folder = f"/lib/modules/{version}"
    initramfs = f"/boot/initrd.img-{version}"
    has_initramfs = changes.guest.exists(initramfs)
    built_in = _module_names(_lines(changes, f"{folder}/modules.builtin")) | _configured(
        changes, version, drivers
    )
    return Kernel(
        version=version,
        image=image,
        initramfs=initramfs if has_initramfs else "",
        built_in=built_in,
        loadable=_loadable(_lines(changes, f"{folder}/modules.dep")),
        contents=read_contents(changes, initramfs) if has_initramfs else None,
    )


def read_contents(changes: Changes, path: str) -> Initramfs | None:
    """What is in an initramfs, None with a warning where it cannot be read."""
    try:
        return read_initramfs(changes.guest.read(path, limit=INITRAMFS_LIMIT))
    except GuestError as error:
        changes.warn(f"{path} could not be read: {error.message}")
        return None


def _lines(changes: Changes, path: str) -> list[str]:
    if not changes.guest.exists(path):
        return []
    return changes.guest.read(path, limit=LIST_LIMIT).decode("utf-8", "replace").splitlines()


def _loadable(lines: Sequence[str]) -> tuple[Loadable, ...]:
    split = (line.partition(":") for line in lines)
    return tuple(Loadable(_name(path), tuple(map(_name, needs.split()))) for path, _, needs in split if path)


def _module_names(paths: Iterable[str]) -> frozenset[str]:
    return frozenset(_name(path) for path in paths)


def _name(path: str) -> str:
    return module_name(MODULE_SUFFIX.sub("", path.strip().rsplit("/", 1)[-1]))


def _configured(changes: Changes, version: str, drivers: Sequence[LinuxDriver]) -> frozenset[str]:
    lines = frozenset(_lines(changes, f"/boot/config-{version}"))
    return frozenset(driver.module for driver in drivers if f"{driver.symbol}=y" in lines)
