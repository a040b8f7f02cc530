"""systemd-boot: entries of the Boot Loader Specification, and unified kernel images.

Formats: loader.conf(5), uapi-group.org Boot Loader Specification, systemd-stub(7).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from conversions import bls, cmdline, esp, uki
from conversions.boot_entries import BootEntry
from conversions.changes import Changes
from conversions.command_lines import SERIAL_CONSOLE, Edit, arguments, edit_kernel_install, stable_names
from conversions.devices import DeviceNames
from conversions.kernel_versions import version_key

DEFAULT = re.compile(r"^[ \t]*default[ \t]+(?P<pattern>\S+)", re.MULTILINE)
MANAGERS = ("systemd-bootx64.efi", "systemd-bootaa64.efi", "systemd-bootia32.efi")


@dataclass(frozen=True, slots=True)
class SystemdBoot:
    """systemd-boot, or firmware that starts unified kernel images, as a `conversions.loaders.Loader`."""

    changes: Changes
    name: str = "systemd-boot"

    @property
    def exists(self) -> bool:
        return self.evidence or bool(uki.paths(self.changes))

    @property
    def evidence(self) -> bool:
        """Whether the manager itself is on the EFI system partition."""
        return any(
            esp.find(self.changes, place, "EFI", "systemd", manager)
            for place in esp.places(self.changes)
            for manager in MANAGERS
        )

    def default_kernel(self) -> str:
        known = {
            entry.name: entry.linux
            for folder in self._folders()
            for entry in bls.entries(self.changes, folder)
        }
        known |= {path.rsplit("/", 1)[-1]: path for path in uki.paths(self.changes)}
        for pattern in self._patterns():
            named = [name for name in known if fnmatch.fnmatchcase(name, pattern.removesuffix(".conf"))]
            if named:
                return known[max(named, key=version_key)]
        return next(iter(known.values()), "")

    def _patterns(self) -> list[str]:
        texts = [self.changes.read_text(f"{place}/loader/loader.conf") for place in esp.MOUNTPOINTS]
        return [found["pattern"] for text in texts for found in DEFAULT.finditer(text)]

    def _folders(self) -> list[str]:
        return [f"{place}/loader/entries" for place in esp.MOUNTPOINTS]

    def entries(self) -> tuple[BootEntry, ...]:
        listed = (bls.entries(self.changes, folder) for folder in self._folders())
        return tuple(entry.started for entries in listed for entry in entries)

    def rewrite_devices(self, names: DeviceNames) -> None:
        self._edit(stable_names(self.changes, names))
        for image in uki.images(self.changes):
            if cmdline.rewrite_devices(image.command_line, names).text != image.command_line:
                self.changes.warn(
                    f"{image.path} names a disk of the source in its command line"
                    f" ({image.command_line[:200]}), which cannot be changed from outside"
                )

    def add_arguments(self, words: Sequence[str]) -> None:
        self._edit(arguments(words))

    def add_serial_console(self) -> None:
        self._edit(SERIAL_CONSOLE)

    def _edit(self, edit: Edit) -> None:
        for folder in self._folders():
            bls.edit_entries(self.changes, folder, edit)
        edit_kernel_install(self.changes, edit)
