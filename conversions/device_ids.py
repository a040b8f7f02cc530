"""Which modules of a kernel drive a device, by the ids of the device: the kernel's own modules.alias.

Format: modules.alias of depmod(8): `alias PATTERN MODULE`, the pattern as of fnmatch(3). What is built in has
its patterns in modules.builtin.modinfo since Linux 5.2: `MODULE.alias=PATTERN`, each ended by a zero byte.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache

from conversions.changes import Changes
from conversions.initramfs import module_name
from conversions.kernels import Kernel
from drivers.pack import DeviceId, LinuxDriver
from p2v.model import MiB

LIST_LIMIT = 32 * MiB
MAX_ALIAS = 512
WILDCARD = re.compile(r"[*?\[]")


@lru_cache(maxsize=65536)
def _driver(module: str) -> LinuxDriver:
    return LinuxDriver(module, "")


def with_devices(
    changes: Changes, kernel: Kernel, needed: Sequence[LinuxDriver], devices: Sequence[DeviceId]
) -> tuple[LinuxDriver, ...]:
    """`needed` and what `kernel` needs for `devices`; of what it has no driver for, the driver seen elsewhere
    or the id of the device, which it then lacks.
    """
    if not devices:
        return tuple(needed)
    patterns = _patterns(changes, kernel.version)
    found = (module for device in devices for module in _modules(device, kernel, patterns))
    return tuple(dict.fromkeys((*needed, *map(_driver, found))))


def _modules(device: DeviceId, kernel: Kernel, patterns: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    alias = device.alias[:MAX_ALIAS]
    named = dict.fromkeys(module for pattern, module in patterns if _matches(alias, pattern))
    usable = tuple(module for module in named if kernel.can_load((_driver(module),)))
    return usable or (module_name(device.driver) or device.alias,)


def _matches(alias: str, pattern: str) -> bool:
    # A pattern is compiled only where the part without wildcards fits: there are twenty thousand of them.
    return alias.startswith(WILDCARD.split(pattern, maxsplit=1)[0]) and fnmatchcase(alias, pattern)


@lru_cache(maxsize=4)
def _patterns(changes: Changes, version: str) -> list[tuple[str, str]]:
    """Patterns with their modules, in the order of the files."""
    folder = f"/lib/modules/{version}"
    return [
        *_of_modules(changes, f"{folder}/modules.alias"),
        *_built_in(changes, f"{folder}/modules.builtin.modinfo"),
    ]


def _of_modules(changes: Changes, path: str) -> Iterator[tuple[str, str]]:
    for line in _read(changes, path).decode("utf-8", "replace").splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "alias":
            yield words[1], module_name(words[2])


def _built_in(changes: Changes, path: str) -> Iterator[tuple[str, str]]:
    for entry in _read(changes, path).decode("utf-8", "replace").split("\0"):
        module, _, pattern = entry.partition(".alias=")
        if pattern:
            yield pattern, module_name(module)


def _read(changes: Changes, path: str) -> bytes:
    return changes.guest.read(path, limit=LIST_LIMIT) if changes.guest.exists(path) else b""
