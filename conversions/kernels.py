"""The kernels of a guest, and which drivers each has: built in, as modules, in its initramfs.

Files: /lib/modules/VERSION/modules.builtin and modules.dep, written by depmod(8); /boot/config-VERSION.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from conversions import uki
from conversions.boot_entries import BootEntry
from conversions.changes import Changes
from conversions.initramfs import Initramfs, module_name, read_initramfs
from conversions.kernel_images import VERSION, KernelImage, kernel_images, named_images
from conversions.kernel_versions import version_key
from drivers.pack import LinuxDriver
from p2v.errors import GuestError

LIST_LIMIT = 16 * 1024 * 1024
INITRAMFS_LIMIT = 512 * 1024 * 1024
MODULE_SUFFIX = re.compile(r"\.ko(?:\.(?:gz|xz|zst|bz2))?$")


@dataclass(frozen=True, slots=True)
class Loadable:
    """A module of a kernel and the modules that it needs, all of them, in the order of modules.dep(5).

    `path` is relative to the folder of the kernel's modules.
    """

    name: str
    needs: tuple[str, ...]
    path: str = ""


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


def installed_kernels(
    changes: Changes, drivers: Sequence[LinuxDriver], entries: Sequence[BootEntry] = ()
) -> tuple[Kernel, ...]:
    """All kernels with modules, newest first; raises GuestError where there is none.

    `drivers` are those whose symbols are looked up in /boot/config-VERSION, beside modules.builtin. `entries`
    of the menu, by paths of the system, lead to what has no usual name.
    """
    versions = _module_folders(changes)
    found: list[Kernel] = []
    for image in named_images(changes, list(kernel_images(changes, versions)), entries):
        if image.version in versions:
            found.append(_kernel(changes, image, drivers))
        elif "-rescue-" not in image.path:
            name = image.version or "its version"
            changes.warn(f"{image.path} has no modules in /lib/modules/{name}; it was left as it is")
    found += _unified(changes, versions, drivers)
    if not found:
        raise GuestError(
            "The guest has no kernel in /boot with its modules in /lib/modules",
            hint="If /boot is on a disk of its own, capture that disk too: p2v scan SOURCE shows the disks",
        )
    for version in sorted(versions - {kernel.version for kernel in found}):
        changes.warn(f"/lib/modules/{version} has modules of a kernel that is not in /boot")
    return tuple(sorted(found, key=lambda kernel: version_key(kernel.version), reverse=True))


def other_initramfs(
    changes: Changes, kernels: Sequence[Kernel], entries: Sequence[BootEntry]
) -> Iterator[Kernel]:
    """Each kernel again with every further initramfs that the menu starts it with, such as a fallback.

    Each is read when it is its turn: a link to one that was changed meanwhile shows what is there now.
    """
    seen = {kernel.initramfs for kernel in kernels}
    for entry in entries:
        kernel = next((one for one in kernels if one.image == entry.linux), None)
        for path in entry.initrds if kernel else ():
            if kernel and path not in seen:
                seen.add(path)
                yield replace(kernel, initramfs=path, contents=read_contents(changes, path))


def _module_folders(changes: Changes) -> frozenset[str]:
    """Versions that have modules, by the file that depmod makes of them."""
    found = (path.split("/")[-2] for path in changes.guest.glob("/lib/modules/*/modules.dep"))
    return frozenset(version for version in found if VERSION.fullmatch(version))


def _kernel(changes: Changes, image: KernelImage, drivers: Sequence[LinuxDriver]) -> Kernel:
    return Kernel(
        version=image.version,
        image=image.path,
        initramfs=image.initramfs,
        built_in=_built_in(changes, image.version, drivers),
        loadable=_loadable(_lines(changes, f"/lib/modules/{image.version}/modules.dep")),
        contents=read_contents(changes, image.initramfs) if image.initramfs else None,
    )


def _built_in(changes: Changes, version: str, drivers: Sequence[LinuxDriver]) -> frozenset[str]:
    listed = _module_names(_lines(changes, f"/lib/modules/{version}/modules.builtin"))
    return listed | _configured(changes, version, drivers)


def _unified(changes: Changes, versions: frozenset[str], drivers: Sequence[LinuxDriver]) -> Iterator[Kernel]:
    """Kernels in unified images: what is in them can be seen, and not be changed."""
    for image in uki.images(changes):
        if image.version not in versions:
            changes.warn(f"{image.path} has no modules in /lib/modules; it was left as it is")
            continue
        yield Kernel(
            version=image.version,
            image=image.path,
            initramfs="",
            built_in=_built_in(changes, image.version, drivers),
            loadable=_loadable(_lines(changes, f"/lib/modules/{image.version}/modules.dep")),
            contents=_contents(changes, image.path, image.initramfs),
        )


def read_contents(changes: Changes, path: str) -> Initramfs | None:
    """What is in an initramfs, None with a warning where it cannot be read."""
    try:
        data = changes.guest.read(path, limit=INITRAMFS_LIMIT)
    except GuestError as error:
        changes.warn(f"{path} could not be read: {error.message}")
        return None
    return _contents(changes, path, data)


def _contents(changes: Changes, path: str, data: bytes) -> Initramfs | None:
    try:
        return read_initramfs(data)
    except GuestError as error:
        changes.warn(f"{path} could not be read: {error.message}")
        return None


def _lines(changes: Changes, path: str) -> list[str]:
    if not changes.guest.exists(path):
        return []
    return changes.guest.read(path, limit=LIST_LIMIT).decode("utf-8", "replace").splitlines()


def _loadable(lines: Sequence[str]) -> tuple[Loadable, ...]:
    split = (line.partition(":") for line in lines)
    return tuple(
        Loadable(_name(path), tuple(map(_name, needs.split())), path.strip())
        for path, _, needs in split
        if path
    )


def _module_names(paths: Iterable[str]) -> frozenset[str]:
    return frozenset(_name(path) for path in paths)


def _name(path: str) -> str:
    return module_name(MODULE_SUFFIX.sub("", path.strip().rsplit("/", 1)[-1]))


def _configured(changes: Changes, version: str, drivers: Sequence[LinuxDriver]) -> frozenset[str]:
    lines = frozenset(_lines(changes, f"/boot/config-{version}"))
    return frozenset(driver.module for driver in drivers if f"{driver.symbol}=y" in lines)
