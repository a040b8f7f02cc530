"""EXTLINUX and SYSLINUX: their menus, and the settings from which Debian and Alpine write them.

Format: doc/syslinux.txt and doc/extlinux.txt of Syslinux; extlinux-update(8); update-extlinux.conf of Alpine.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversions.boot_entries import BootEntry, read_menu
from conversions.changes import Changes
from conversions.command_lines import SERIAL_CONSOLE, Edit, arguments, edit_file, stable_names
from conversions.devices import DeviceNames

FOLDERS = (
    *("/boot/extlinux", "/boot/syslinux", "/boot", "/extlinux", "/syslinux", ""),
    *("/boot/efi/EFI/syslinux", "/boot/efi/EFI/BOOT", "/boot/efi/syslinux"),
)
MENUS = ("extlinux.conf", "syslinux.cfg", "linux.cfg")
"""`linux.cfg` holds the entries on Debian, where extlinux.conf includes it."""
EVIDENCE = ("/boot/extlinux/ldlinux.sys", "/boot/syslinux/ldlinux.sys", "/boot/ldlinux.sys", "/ldlinux.sys")
DEBIAN_SETTINGS = "/etc/default/extlinux"
ALPINE_SETTINGS = "/etc/update-extlinux.conf"

APPEND = re.compile(
    r"^(?P<head>[ \t]*append)(?P<gap>[ \t]+)(?P<arguments>[^\n]*)$", re.MULTILINE | re.IGNORECASE
)
LABEL = re.compile(r"^[ \t]*label[ \t]+(?P<name>\S+)", re.MULTILINE | re.IGNORECASE)
LINUX = re.compile(r"^[ \t]*(?:linux|kernel)[ \t]+(?P<kernel>\S+)", re.MULTILINE | re.IGNORECASE)
DEFAULT = re.compile(r"^[ \t]*(?:ontimeout|default)[ \t]+(?P<name>\S+)", re.MULTILINE | re.IGNORECASE)
SETTING = re.compile(
    r"^(?P<head>[ \t]*(?:EXTLINUX_(?P<debian>PARAMETERS|ROOT)|(?P<alpine>default_kernel_opts|root))=)"
    r"(?P<quote>[\"']?)(?P<value>[^\"'\n]*)(?P=quote)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Extlinux:
    """EXTLINUX or SYSLINUX as a `conversions.loaders.Loader`."""

    changes: Changes
    name: str = "extlinux"

    @property
    def exists(self) -> bool:
        return bool(_paths(self.changes))

    @property
    def evidence(self) -> bool:
        """Whether a BIOS was made to start it."""
        return any(self.changes.guest.exists(path) for path in EVIDENCE)

    def default_kernel(self) -> str:
        text = "\n".join(self.changes.read_text(path) for path in _paths(self.changes))
        starts = [found.start() for found in LABEL.finditer(text)]
        blocks = [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]
        wanted = {found["name"] for found in DEFAULT.finditer(text)}
        blocks.sort(key=lambda block: _label(block) not in wanted)
        kernels = (LINUX.search(block) for block in blocks)
        return next((kernel["kernel"] for kernel in kernels if kernel), "")

    def entries(self) -> tuple[BootEntry, ...]:
        paths = _paths(self.changes)
        menus = (read_menu(self.changes.read_text(path), posixpath.dirname(path)) for path in paths)
        return tuple(entry for menu in menus for entry in menu)

    def rewrite_devices(self, names: DeviceNames) -> None:
        edit = stable_names(self.changes, names)
        self._edit(edit)
        for path in (DEBIAN_SETTINGS, ALPINE_SETTINGS):
            edit_file(self.changes, path, lambda text: _settings(text, edit.apply), edit.reason)

    def add_arguments(self, words: Sequence[str]) -> None:
        self._add(arguments(words))

    def add_serial_console(self) -> None:
        self._add(SERIAL_CONSOLE)

    def _add(self, edit: Edit) -> None:
        self._edit(edit)
        for path in (DEBIAN_SETTINGS, ALPINE_SETTINGS):
            edit_file(self.changes, path, lambda text: _added(text, edit.apply), edit.reason)

    def _edit(self, edit: Edit) -> None:
        for path in _paths(self.changes):
            edit_file(self.changes, path, lambda text: edit_menu(text, edit.apply), edit.reason)


def _paths(changes: Changes) -> tuple[str, ...]:
    found = (f"{folder}/{menu}" for folder in FOLDERS for menu in MENUS)
    return tuple(
        path for path in found if changes.guest.exists(path) and LABELS.search(changes.read_text(path))
    )


LABELS = re.compile(r"^[ \t]*(?:label|include)\b", re.MULTILINE | re.IGNORECASE)
"""A file of one of these names without a label and without an include is no menu."""


def _label(block: str) -> str:
    found = LABEL.match(block)
    return found["name"] if found else ""


def edit_menu(text: str, edit: Callable[[str], str]) -> str:
    """A menu with `edit` applied to the arguments of every entry; the first word may be the initramfs."""
    return APPEND.sub(lambda found: found["head"] + found["gap"] + edit(found["arguments"]), text)


def _settings(text: str, edit: Callable[[str], str]) -> str:
    """Devices in the settings; Alpine's `root=` is the device itself, Debian's a word of the command line."""

    def edited(found: re.Match[str]) -> str:
        device = found["alpine"] == "root"
        words = edit(f"root={found['value']}").removeprefix("root=") if device else edit(found["value"])
        return f"{found['head']}{found['quote']}{words}{found['quote']}"

    return SETTING.sub(edited, text)


def _added(text: str, edit: Callable[[str], str]) -> str:
    """What is added goes into the options, not into the name of the root."""

    def edited(found: re.Match[str]) -> str:
        if found["debian"] == "ROOT" or found["alpine"] == "root":
            return found.group()
        words = edit(found["value"])
        quote = found["quote"] or '"'
        return found.group() if words == found["value"] else f"{found['head']}{quote}{words}{quote}"

    return SETTING.sub(edited, text)
