"""A UEFI guest whose firmware has forgotten its boot entries, as that of a new virtual machine has.

Such firmware starts EFI/BOOT/BOOTX64.EFI of the EFI system partition (UEFI specification 2.10, 3.5.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass

from conversions.changes import Changes

ESP = "/boot/efi"
REASON = "the firmware of a new machine knows no boot entries and starts this file"


@dataclass(frozen=True, slots=True)
class _Loader:
    """File names of one architecture: what firmware starts, the signed first stage, and GRUB."""

    fallback: str
    shim: str
    grub: str


LOADERS = (
    _Loader("BOOTX64.EFI", "shimx64.efi", "grubx64.efi"),
    _Loader("BOOTAA64.EFI", "shimaa64.efi", "grubaa64.efi"),
)


def ensure_fallback_loader(changes: Changes) -> None:
    """Put the guest's own loader where firmware without boot entries looks, unless something is there."""
    for loader in LOADERS:
        folder = _vendor_folder(changes, loader)
        if folder:
            _install(changes, loader, folder)
            return
    if not any(changes.guest.exists(f"{ESP}/EFI/BOOT/{loader.fallback}") for loader in LOADERS):
        changes.warn(
            "No boot loader was found in /boot/efi: a machine without boot entries will not start it"
        )


def _vendor_folder(changes: Changes, loader: _Loader) -> str:
    found = changes.guest.glob(f"{ESP}/EFI/*/{loader.grub}")
    folders = [path.rsplit("/", 1)[0] for path in found]
    return next((folder for folder in folders if not folder.lower().endswith("/boot")), "")


def _install(changes: Changes, loader: _Loader, folder: str) -> None:
    guest = changes.guest
    if guest.exists(f"{ESP}/EFI/BOOT/{loader.fallback}"):
        return
    guest.mkdir(f"{ESP}/EFI/BOOT")
    first = loader.shim if guest.exists(f"{folder}/{loader.shim}") else loader.grub
    changes.copy(f"{folder}/{first}", f"{ESP}/EFI/BOOT/{loader.fallback}", REASON)
    if first == loader.shim and not guest.exists(f"{ESP}/EFI/BOOT/{loader.grub}"):
        changes.copy(
            f"{folder}/{loader.grub}", f"{ESP}/EFI/BOOT/{loader.grub}", "the first stage looks beside itself"
        )
