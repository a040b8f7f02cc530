"""GRUB 0.9x: one menu file, in which Debian's update-grub keeps its settings as comments.

Format: info grub, "Configuration file commands"; update-grub(8) of grub-legacy for the lines `# kopt=`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversions.boot_entries import BootEntry, read_menu
from conversions.changes import Changes
from conversions.command_lines import SERIAL_CONSOLE, Edit, arguments, edit_file, stable_names
from conversions.devices import DeviceNames
from conversions.grub import clean_device_map

CONFIGS = ("/boot/grub/menu.lst", "/boot/grub/grub.conf", "/boot/efi/EFI/*/grub.conf")
DEVICE_MAP = "/boot/grub/device.map"
EVIDENCE = "/boot/grub/stage2"
IMAGE = r"\S*/(?:vmlinu[xz]|kernel|linux|bzImage)[^/\s]*"
LINUX_LINE = re.compile(
    rf"^(?P<head>[ \t]*(?:kernel|module)(?:[ \t]*=[ \t]*|[ \t]+)(?:--\S+[ \t]+)*(?P<kernel>{IMAGE}))"
    r"(?P<gap>[ \t]*)(?P<arguments>[^\n]*)$",
    re.MULTILINE,
)
KEPT_OPTIONS = re.compile(r"^(?P<head>#[ \t]*kopt(?:_[^=\s]*)?=)(?P<arguments>[^\n]*)$", re.MULTILINE)
DEFAULT = re.compile(r"^[ \t]*default(?:[ \t]*=[ \t]*|[ \t]+)(?P<value>\S+)", re.MULTILINE)
TITLE = re.compile(r"^[ \t]*title\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class GrubLegacy:
    """GRUB 0.9x as a `conversions.loaders.Loader`."""

    changes: Changes
    name: str = "grub-legacy"

    @property
    def exists(self) -> bool:
        return bool(_paths(self.changes))

    @property
    def evidence(self) -> bool:
        """Whether a BIOS was made to start it."""
        return self.changes.guest.exists(EVIDENCE)

    def default_kernel(self) -> str:
        found = (_default(self.changes.read_text(path)) for path in _paths(self.changes))
        return next(filter(None, found), "")

    def entries(self) -> tuple[BootEntry, ...]:
        menus = (read_menu(self.changes.read_text(path), "/") for path in _paths(self.changes))
        return tuple(entry for menu in menus for entry in menu)

    def rewrite_devices(self, names: DeviceNames) -> None:
        self._edit(stable_names(self.changes, names))
        clean_device_map(self.changes, DEVICE_MAP)

    def add_arguments(self, words: Sequence[str]) -> None:
        self._edit(arguments(words))

    def add_serial_console(self) -> None:
        self._edit(SERIAL_CONSOLE)

    def _edit(self, edit: Edit) -> None:
        for path in _paths(self.changes):
            edit_file(self.changes, path, lambda text: edit_menu(text, edit.apply), edit.reason)


def _paths(changes: Changes) -> tuple[str, ...]:
    """The menus, each once: one name is often a link to another."""
    found: dict[str, str] = {}
    for pattern in CONFIGS:
        for path in changes.guest.glob(pattern):
            found.setdefault(changes.guest.sha256(path), path)
    return tuple(path for digest, path in found.items() if digest)


def edit_menu(text: str, edit: Callable[[str], str]) -> str:
    """A menu with `edit` applied to the arguments of every kernel, and to those of kernels to come."""

    def edited(found: re.Match[str]) -> str:
        words = edit(found["arguments"])
        return found["head"] + (found["gap"] or (" " if words else "")) + words

    text = LINUX_LINE.sub(edited, text)
    return KEPT_OPTIONS.sub(lambda found: found["head"] + edit(found["arguments"]), text)


def _default(text: str) -> str:
    """The kernel of the default entry; of the first one where the default is `saved` or has no kernel."""
    starts = [found.start() for found in TITLE.finditer(text)]
    blocks = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
    found = DEFAULT.search(text)
    number = int(found["value"]) if found and re.fullmatch(r"\d{1,4}", found["value"]) else 0
    kernels = (LINUX_LINE.search(block) for block in [*blocks[number : number + 1], *blocks])
    return next((kernel["kernel"] for kernel in kernels if kernel), "")
