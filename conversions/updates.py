"""Bring an initramfs up to date: the quick way where it is sure to work, else by the guest's own program."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from conversions.changes import Changes
from conversions.devices import DeviceNames
from conversions.initramfs import Packed, read_initramfs
from conversions.kernels import INITRAMFS_LIMIT, Kernel
from conversions.ramdisk_settings import stable_settings
from conversions.ramdisks import Builder
from conversions.rebuilt import RESULT, need_space, work_folder
from conversions.supplement import Unsure, supplement, supports_modules
from drivers.pack import LinuxDriver
from p2v.errors import GuestError
from p2v.model import ChangeKind, KiB, MiB


@dataclass(frozen=True, slots=True)
class Updates:
    """What can be done to the initramfs of a guest's kernels; `done` are those that had their turn."""

    changes: Changes
    builder: Builder
    names: DeviceNames
    done: set[str] = field(default_factory=set)

    def possible(self, kernel: Kernel) -> bool:
        """Whether drivers can be put into the initramfs of `kernel` at all."""
        if not kernel.initramfs:
            return False
        return self.builder.exists or supports_modules(kernel)

    def bring(self, kernel: Kernel, drivers: tuple[LinuxDriver, ...]) -> None:
        """See that the initramfs holds `drivers`, and names disks in a way that holds on any machine.

        Raises GuestError where it cannot get the drivers; an old name that stays costs a warning.
        """
        lacking = kernel.missing(drivers)
        settings = stable_settings(kernel, self.names)
        if (not lacking and not settings) or kernel.initramfs in self.done:
            return
        if lacking:
            self.builder.remember(drivers)
        try:
            self._supplement(kernel, lacking, settings)
        except Unsure as unsure:
            self._rebuild(kernel, drivers if lacking else (), settings, unsure)

    def _supplement(self, kernel: Kernel, lacking: tuple[str, ...], settings: Mapping[str, Packed]) -> None:
        data = self.changes.guest.read(kernel.initramfs, limit=INITRAMFS_LIMIT)
        replaced = {path: file.content for path, file in settings.items()}
        result = supplement(self.changes, kernel, data, lacking, replaced)
        still = set(lacking) - read_initramfs(result).modules(kernel.version)
        if still:
            raise Unsure(f"{', '.join(sorted(still))} was not found in the result")
        added = (len(result) - len(data) + KiB - 1) // KiB
        reason = f"{_reason(lacking, settings)}; an archive of {added} KiB was added at its end"
        self._store(kernel, result, len(data), reason)
        self.builder.note(kernel, result)
        self.done.add(kernel.initramfs)

    def _store(self, kernel: Kernel, content: bytes, old_size: int, reason: str) -> None:
        """Beside the old one where there is space for both, else built elsewhere and put over it."""
        guest = self.changes.guest
        folder = posixpath.dirname(kernel.initramfs)
        if guest.free_space(folder) >= len(content) + MiB:
            self.changes.write_bytes(kernel.initramfs, content, reason, kind=ChangeKind.REBUILT)
            return
        need_space(self.changes, folder, len(content) - old_size + MiB)
        with work_folder(self.changes, len(content)):
            guest.write(RESULT, content)
            guest.run(["chmod", f"--reference={kernel.initramfs}", RESULT])
            self.changes.rebuild(RESULT, kernel.initramfs, reason)

    def _rebuild(
        self,
        kernel: Kernel,
        drivers: tuple[LinuxDriver, ...],
        settings: Mapping[str, Packed],
        unsure: Unsure,
    ) -> None:
        lacking = kernel.missing(drivers)
        try:
            self.builder.rebuild(kernel, drivers, _reason(lacking, settings))
        except GuestError as error:
            if lacking:
                message = f"{error.message}; nothing was added to it, as {unsure.message}"
                raise GuestError(message, hint=error.hint) from error
            old = ", ".join(settings)
            self.changes.warn(
                f"{kernel.initramfs} names disks by their old names ({old}), and could not be rebuilt:"
                f" {error.message}"
            )


def _reason(lacking: tuple[str, ...], settings: Mapping[str, Packed]) -> str:
    parts = [f"it lacked {', '.join(lacking)}"] if lacking else []
    parts += [f"its {path} had names of the old disks" for path in settings]
    return "; ".join(parts)
