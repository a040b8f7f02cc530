"""The nouns of a restore. Sizes and offsets are bytes; disks of metal are named by serial or WWN."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2v.model import Conversion, Disk, Finding, Firmware, ImageFormat, Machine


@dataclass(frozen=True, slots=True)
class PciDevice:
    """A device of the metal as its bus describes it: numbers of PCI configuration space, class in 24 bits.

    `driver` is what the rescue system drives it with, empty where nothing does.
    """

    address: str
    vendor: int
    device: int
    subsystem_vendor: int = 0
    subsystem_device: int = 0
    revision: int = 0
    class_code: int = 0
    driver: str = ""

    @property
    def is_storage(self) -> bool:
        """PCI base class 01: mass storage controller."""
        return self.class_code >> 16 == 0x01

    @property
    def is_network(self) -> bool:
        """PCI base class 02: network controller."""
        return self.class_code >> 16 == 0x02


@dataclass(frozen=True, slots=True)
class Metal:
    """The physical machine that is written to, as its rescue system sees it.

    `modalias` are those of every device (`pci:v00008086d…`), for the guest's own modules.alias;
    `efi_variables` says that entries of the firmware's boot menu can be written.
    """

    machine: Machine
    devices: tuple[PciDevice, ...] = ()
    modaliases: tuple[str, ...] = ()
    efi_variables: bool = False

    @property
    def firmware(self) -> Firmware:
        return self.machine.firmware


class Resize(StrEnum):
    """What becomes of the content where the disk that it goes to has another size."""

    KEEP = "keep"
    GROW = "grow"
    SHRINK = "shrink"


@dataclass(frozen=True, slots=True)
class SourceDisk:
    """An image that is restored: a file of `format`, opened for reading only. `disk` is what is on it."""

    path: Path
    format: ImageFormat
    disk: Disk


@dataclass(frozen=True, slots=True)
class DiskMove:
    """Disk `index` of the images goes onto `target`. `partition` is the one that takes the difference in
    size, 0 for the last that can; `resize` says how.
    """

    index: int
    source: SourceDisk
    target: Disk
    resize: Resize = Resize.KEEP
    partition: int = 0


@dataclass(frozen=True, slots=True)
class NicMove:
    """The addresses of the card `old` go to the card with the MAC `new`."""

    old: str
    new: str


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """All that is decided before the first byte is written; `--dry-run` prints it.

    `guest` is the machine as the images describe it (its disks in their order, its system), `metal` where it
    goes. `convert` is false where the disks go back as they were captured, onto the machine that they came
    from.
    """

    name: str
    source: str
    destination: str
    guest: Machine
    metal: Metal
    moves: tuple[DiskMove, ...]
    nics: tuple[NicMove, ...]
    convert: bool
    units: int
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FirmwareEntry:
    """An entry for the boot menu of a UEFI: `loader` is a path with backslashes on the ESP."""

    title: str
    disk: int
    partition: int
    loader: str


@dataclass(frozen=True, slots=True)
class PreparedDisk:
    """What is written onto a target: a file whose virtual size is the most that the target holds.

    `size` bytes of it count, from the start; with GPT that is the whole target disk.
    """

    path: Path
    format: ImageFormat
    size: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """Images made ready for the metal, in overlays: nothing of the source was written."""

    disks: tuple[PreparedDisk, ...]
    conversion: Conversion | None
    entries: tuple[FirmwareEntry, ...] = ()
    warnings: tuple[str, ...] = ()
