"""From one kind of firmware to the other: where the disks allow it, and the guest's own GRUB installed for
it.
"""

from __future__ import annotations

from collections.abc import Sequence

from conversions import esp, uefi
from conversions.changes import Changes
from conversions.loaders import find_loader
from p2v.guest import Guest
from p2v.model import Disk, Finding, Firmware, Machine, OperatingSystem, Partition, Severity, TableKind
from p2v.restore import grub
from p2v.restore.model import FirmwareEntry
from p2v.restore.relayout import BIOS_BOOT

ESP_TYPES = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "ef")
"""On GPT, on MBR (UEFI specification 2.10, 5.3.3 and 5.2.2)."""
MOUNT_POINT = "/boot/efi"


def firmware_finding(
    disks: Sequence[Disk], image: Firmware, metal: Firmware, system: OperatingSystem | None = None
) -> Finding | None:
    """Why a machine with the firmware `metal` cannot start `system`, which was installed for `image`.

    None where it can, or where only the system itself can show it: that it has GRUB for both.
    """
    if image is metal or not disks:
        return None
    if system and system.windows:
        return Finding(
            Severity.BLOCKER,
            f"{system.name} was installed for {image.upper()} and starts by nothing else; this machine starts"
            f" by {metal.upper()}",
            f"Switch the machine's firmware to {image.upper()}, if it can",
        )
    if metal is Firmware.UEFI and _esp_of(disks) is None:
        return Finding(
            Severity.BLOCKER,
            "The system was installed for BIOS and has no EFI system partition; this machine starts by UEFI",
            "Switch the machine's firmware to BIOS (legacy, CSM), if it can",
        )
    if metal is Firmware.BIOS and not _has_room_for_bios(disks[0]):
        return Finding(
            Severity.BLOCKER,
            "The system was installed for UEFI on a GPT without a BIOS boot partition; this machine starts by"
            " BIOS",
            "Switch the machine's firmware to UEFI, if it can",
        )
    return None


def _esp_of(disks: Sequence[Disk]) -> tuple[int, Partition] | None:
    """The first EFI system partition, with the number of its disk."""
    found = ((index, one) for index, disk in enumerate(disks) for one in disk.partitions)
    return next(((index, one) for index, one in found if one.type_id in ESP_TYPES), None)


def _has_room_for_bios(disk: Disk) -> bool:
    if disk.table is TableKind.MBR:
        return True
    return any(one.type_id == BIOS_BOOT for one in disk.partitions)


def change_firmware(guest: Guest, machine: Machine, image: Firmware, metal: Firmware) -> tuple[str, ...]:
    """Install the mounted guest's own GRUB for `metal`, where nothing of it is there; what was done.

    Raises GuestError where the guest has no GRUB for it, or no menu that it could show.
    """
    if metal is Firmware.UEFI:
        _mount_esp(guest, machine)
        if _is_started_by_uefi(guest):
            return ()
    if image is metal:
        return ()
    grub.install(guest, machine, metal, esp=_esp_place(guest, machine))
    return (f"GRUB was installed for {metal.upper()}: the system was installed for {image.upper()}",)


def _mount_esp(guest: Guest, machine: Machine) -> None:
    """An EFI system partition that nothing mounts, for systems that were installed for BIOS."""
    found = _esp_of(machine.disks)
    if found and not guest.glob(f"{MOUNT_POINT}/*") and not _is_started_by_uefi(guest):
        index, partition = found
        device = guest.partition_device(index, partition.number)
        if device not in guest.mounted().values():
            guest.mkdir(MOUNT_POINT)
            guest.mount(device, MOUNT_POINT)


def _is_started_by_uefi(guest: Guest) -> bool:
    changes = Changes(guest)
    programs = (path for place in esp.places(changes) for path in esp.programs(changes, place))
    return any(path.lower().endswith(".efi") for path in programs)


def _esp_place(guest: Guest, machine: Machine) -> str:
    """Where the first EFI system partition is mounted."""
    index, partition = _esp_of(machine.disks) or (0, None)
    device = guest.partition_device(index, partition.number) if partition else ""
    return next((place for place, name in guest.mounted().items() if name == device), MOUNT_POINT)


def entries_of(guest: Guest, machine: Machine) -> tuple[FirmwareEntry, ...]:
    """The entry for the mounted guest's own loader; none where it has no EFI system partition."""
    changes = Changes(guest)
    loader = uefi.own_loader(changes, find_loader(changes, Firmware.UEFI).name)
    mounted = guest.mounted()
    for place, path in [loader] if loader else []:
        for index, disk in enumerate(machine.disks):
            for partition in disk.partitions:
                if partition.type_id in ESP_TYPES and _is_at(guest, mounted.get(place, ""), index, partition):
                    inside = path.removeprefix(place).replace("/", "\\")
                    title = machine.os.name if machine.os else machine.hostname
                    return (FirmwareEntry(title, index, partition.number, inside),)
    return ()


def _is_at(guest: Guest, device: str, index: int, partition: Partition) -> bool:
    return guest.partition_device(index, partition.number) == device
