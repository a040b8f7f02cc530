"""A UEFI guest whose firmware has forgotten its boot entries, as that of a new virtual machine has.

Such firmware starts EFI/BOOT/BOOTX64.EFI of the EFI system partition (UEFI specification 2.10, 3.5.1.1). What
is put there is the guest's own loader: shim with what it starts, so that Secure Boot holds, else GRUB,
systemd-boot, or a unified kernel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from conversions import esp, uki
from conversions.changes import Changes
from p2v.errors import GuestError
from p2v.model import KiB

REASON = "the firmware of a new machine knows no boot entries and starts this file"
BESIDE = "the first stage looks beside itself"
MANAGER = "systemd-boot"
WINDOWS = "bootmgfw.efi"
MENU = "grub.cfg"
WHOLE_MENU = re.compile(r"^[ \t]*(?:menuentry|submenu|blscfg|linux(?:16|efi)?)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class _Architecture:
    """File names of one architecture: what firmware starts, and its suffix in the names of all loaders."""

    fallback: str
    suffix: str

    @property
    def shims(self) -> tuple[str, ...]:
        return (f"shim{self.suffix}.efi", "shim.efi")

    @property
    def grubs(self) -> tuple[str, ...]:
        return (f"grub{self.suffix}.efi", "grub.efi")

    @property
    def helpers(self) -> tuple[str, ...]:
        """What shim starts for the owner's keys, by the names of Debian and Red Hat, and of SUSE."""
        return (f"mm{self.suffix}.efi", "MokManager.efi")

    @property
    def repair(self) -> tuple[str, ...]:
        """What shim starts in EFI/BOOT: it makes boot entries from the BOOT.CSV of every folder."""
        return (f"fb{self.suffix}.efi", "fallback.efi")

    @property
    def manager(self) -> str:
        return f"systemd-boot{self.suffix}.efi"


ARCHITECTURES = (
    _Architecture("BOOTX64.EFI", "x64"),
    _Architecture("BOOTAA64.EFI", "aa64"),
    _Architecture("BOOTIA32.EFI", "ia32"),
)


@dataclass(frozen=True, slots=True)
class _Copy:
    source: str
    destination: str
    reason: str


def ensure_fallback_loader(changes: Changes, loader: str = "") -> None:
    """Put the guest's own loader where firmware without boot entries looks, unless it is there.

    `loader` is the name of the one that is started now. Raises GuestError where the partition is full.
    """
    for place in esp.places(changes):
        for architecture in ARCHITECTURES:
            copies = _copies(changes, place, architecture, loader)
            if copies is not None:
                _install(changes, place, copies)
                return
    changes.warn(
        "No boot loader was found on an EFI system partition (/boot/efi, /efi, /boot): a machine without boot"
        " entries will not start"
    )


def own_loader(changes: Changes, loader: str = "") -> tuple[str, str] | None:
    """Where the EFI system partition is, and the guest's own first loader on it; None where there is none."""
    for place in esp.places(changes):
        for architecture in ARCHITECTURES:
            found = next(_sources(changes, place, architecture, loader), "")
            found = found or esp.find(changes, place, "EFI", "BOOT", architecture.fallback)
            if found:
                return place, found
    return None


def _copies(changes: Changes, place: str, architecture: _Architecture, loader: str) -> list[_Copy] | None:
    """What must be copied; None where no loader of this architecture is here."""
    sources = list(_sources(changes, place, architecture, loader))
    present = esp.find(changes, place, "EFI", "BOOT", architecture.fallback)
    if not present:
        return _wanted(changes, place, sources[0], architecture) if sources else None
    own = [source for source in sources if changes.guest.sha256(source) == changes.guest.sha256(present)]
    if own and _is(own[0], architecture.shims):
        return _missing_beside(changes, place, own[0], architecture)
    if not own and _is_foreign(changes, place, present):
        changes.warn(f"{present} starts another system than this one; choose this one in the firmware's menu")
    return []


def _sources(changes: Changes, place: str, architecture: _Architecture, loader: str) -> Iterator[str]:
    """The loaders that could be started first, best first."""
    programs = [path for path in esp.programs(changes, place) if "/boot/" not in _below(path, place)]
    shims = [
        path
        for path in programs
        if _is(path, architecture.shims) and _grub_beside(path, programs, architecture)
    ]
    grubs = [path for path in programs if _is(path, architecture.grubs)]
    managers = [path for path in programs if _is(path, (architecture.manager,))]
    yield from [*managers, *shims, *grubs] if loader == MANAGER else [*shims, *grubs, *managers]
    if architecture is ARCHITECTURES[0]:
        yield from (path for path in uki.paths(changes) if path.startswith(f"{place}/"))


def _below(path: str, place: str) -> str:
    return path.removeprefix(place).lower()


def _is(path: str, names: Iterable[str]) -> bool:
    return path.rsplit("/", 1)[-1].lower() in {name.lower() for name in names}


def _grub_beside(path: str, programs: list[str], architecture: _Architecture) -> str:
    folder = path.rsplit("/", 1)[0]
    beside = (other for other in programs if other.rsplit("/", 1)[0] == folder)
    return next((other for other in beside if _is(other, architecture.grubs)), "")


def _wanted(changes: Changes, place: str, source: str, architecture: _Architecture) -> list[_Copy]:
    folder = _boot_folder(changes, place)
    first = _Copy(source, f"{folder}/{architecture.fallback}", REASON)
    if _is(source, architecture.shims):
        return [first, *_missing_beside(changes, place, source, architecture)]
    menu = esp.find(changes, source.rsplit("/", 1)[0], "grub.conf")
    if _is(source, ("grub.efi",)) and menu:
        # GRUB 0.9x of Red Hat 6 looks for a menu of its own name.
        return [first, _Copy(menu, f"{folder}/{architecture.fallback.removesuffix('.EFI')}.conf", BESIDE)]
    return [first]


def _missing_beside(changes: Changes, place: str, shim: str, architecture: _Architecture) -> list[_Copy]:
    """What a shim in EFI/BOOT starts: the program that repairs boot entries, else GRUB, copied there."""
    folder = _boot_folder(changes, place)
    if any(esp.find(changes, folder, name) for name in (*architecture.repair, *architecture.grubs)):
        return []
    home = shim.rsplit("/", 1)[0]
    names = (*architecture.grubs, *architecture.helpers)
    found = [esp.find(changes, home, name) for name in names]
    found += [] if esp.find(changes, folder, MENU) else [_pointer(changes, home)]
    return [_Copy(path, f"{folder}/{path.rsplit('/', 1)[-1]}", BESIDE) for path in found if path]


def _pointer(changes: Changes, home: str) -> str:
    """The three lines that lead GRUB to its menu; SUSE's `grub.efi` looks for them beside itself.

    The `grubx64.efi` of the others knows its folder by a name that was built into it.
    A whole menu is left where it is: nobody would update the copy, and its kernels would be gone one day.
    """
    path = esp.find(changes, home, MENU) if esp.find(changes, home, "grub.efi") else ""
    return path if path and not WHOLE_MENU.search(changes.read_text(path)) else ""


def _boot_folder(changes: Changes, place: str) -> str:
    root = esp.find(changes, place, "EFI") or f"{place}/EFI"
    return esp.find(changes, root, "BOOT") or f"{root}/BOOT"


def _is_foreign(changes: Changes, place: str, present: str) -> bool:
    windows = esp.find(changes, place, "EFI", "Microsoft", "Boot", WINDOWS)
    return bool(windows) and changes.guest.sha256(windows) == changes.guest.sha256(present)


def _install(changes: Changes, place: str, copies: list[_Copy]) -> None:
    if not copies:
        return
    size = sum(changes.guest.size(copy.source) for copy in copies)
    free = changes.guest.free_space(place)
    if free < size:
        raise GuestError(
            f"The EFI system partition at {place} has {free // KiB} KiB free, but {size // KiB} KiB are"
            " needed for a loader that a machine without boot entries starts",
            hint=f"Make space in {place} on the source: remove old kernels, or folders of other vendors",
        )
    changes.guest.mkdir(copies[0].destination.rsplit("/", 1)[0])
    for copy in copies:
        changes.copy(copy.source, copy.destination, copy.reason)
