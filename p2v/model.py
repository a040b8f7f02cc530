"""The nouns: frozen values that the rooms of the pipeline hand to each other.

Sizes and offsets are bytes, durations seconds, MAC addresses lower case with colons. A disk is known by its
serial or WWN; `Disk.path` is only where it was seen this time. Nothing here does more than look at itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

BLOCK_SIZE = 4 * MiB
"""Unit of digests, of resuming and of verifying: one SHA-256 for each such block of a disk."""


class Firmware(StrEnum):
    BIOS = "bios"
    UEFI = "uefi"


class TableKind(StrEnum):
    NONE = "none"
    MBR = "mbr"
    GPT = "gpt"


class DiskBus(StrEnum):
    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    SATA = "sata"
    IDE = "ide"
    LSI_SAS = "lsi-sas"
    PVSCSI = "pvscsi"
    NVME = "nvme"


class NicModel(StrEnum):
    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    VMXNET3 = "vmxnet3"
    TULIP = "tulip"


class ImageFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"


class Consistency(StrEnum):
    """How well the copy represents one moment of the source, best first."""

    OFFLINE = "offline"
    SNAPSHOT = "snapshot"
    FROZEN = "frozen"
    FUZZY = "fuzzy"


class Severity(StrEnum):
    """A blocker stops a conversion in the plan; a warning goes into the receipt."""

    BLOCKER = "blocker"
    WARNING = "warning"


class ExtentKind(StrEnum):
    DATA = "data"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of a device from `start`, either used (must be copied) or free."""

    start: int
    length: int
    kind: ExtentKind = ExtentKind.DATA

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Filesystem:
    """What a superblock says about itself. `used` is None where the counters are not known."""

    kind: str
    size: int
    used: int | None = None
    uuid: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition. `type_id` is two hex digits on MBR, a lower-case GUID on GPT; `uuid` is the PARTUUID."""

    number: int
    start: int
    length: int
    type_id: str
    uuid: str = ""
    filesystem: Filesystem | None = None
    mountpoint: str = ""

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk. `names` are all paths by which the source knows it: kernel name, by-id, by-path.

    `data_size` is what a capture would read of it, 0 where nobody has looked.
    """

    path: str
    size: int
    sector_size: int = 512
    serial: str = ""
    wwn: str = ""
    model: str = ""
    names: tuple[str, ...] = ()
    table: TableKind = TableKind.NONE
    table_id: str = ""
    partitions: tuple[Partition, ...] = ()
    filesystem: Filesystem | None = None
    data_size: int = 0

    @property
    def identity(self) -> str:
        """What names this disk across reboots and controllers."""
        return self.wwn or self.serial or self.table_id or self.path


@dataclass(frozen=True, slots=True)
class Nic:
    name: str
    mac: str
    driver: str = ""
    addresses: tuple[str, ...] = ()
    gateway: str = ""


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """`family` is the conversion that serves it (`debian`, …), empty where none does; `id` is os-release."""

    id: str
    version: str
    name: str
    family: str
    architecture: str = "x86_64"
    machine_id: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that blocks a conversion or deserves a warning; `hint` is the command that mends it."""

    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """What was seen on the source. `uuid` is the SMBIOS system UUID; empty for an image of a disk."""

    hostname: str
    firmware: Firmware
    cpus: int
    memory: int
    disks: tuple[Disk, ...]
    nics: tuple[Nic, ...] = ()
    os: OperatingSystem | None = None
    vendor: str = ""
    product: str = ""
    uuid: str = ""
    kernel: str = ""
    live: bool = False
    findings: tuple[Finding, ...] = ()

    @property
    def identity(self) -> str:
        """The key under which a license unit is counted: the hardware UUID, else its disks and system."""
        if self.uuid:
            return f"uuid:{self.uuid.lower()}"
        machine_id = self.os.machine_id if self.os else ""
        return "disk:" + ",".join(sorted(disk.identity for disk in self.disks)) + f";{machine_id}"


@dataclass(frozen=True, slots=True)
class Platform:
    """The virtual hardware that a target gives: `name` is the target's, `driver_pack` names its drivers."""

    name: str
    title: str
    disk_bus: DiskBus
    nic_model: NicModel
    image_format: ImageFormat
    driver_pack: str
    firmwares: tuple[Firmware, ...] = (Firmware.BIOS, Firmware.UEFI)
    max_disks: int = 26
    max_disk_size: int = 64 * TiB


@dataclass(frozen=True, slots=True)
class PlannedDisk:
    """One disk of the run. `index` names its files: `capture/disk<index>.raw`."""

    index: int
    disk: Disk
    data_size: int

    @property
    def image_name(self) -> str:
        return f"disk{self.index}"


@dataclass(frozen=True, slots=True)
class PlannedNic:
    """A network card of the virtual machine; it keeps the MAC of the card it stands for."""

    mac: str
    source_name: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before the first byte moves; `--dry-run` prints it, a resumed run must equal it."""

    name: str
    source: str
    machine: Machine
    disks: tuple[PlannedDisk, ...]
    nics: tuple[PlannedNic, ...]
    platform: Platform
    cpus: int
    memory: int
    firmware: Firmware
    prove: bool
    units: int
    consistency: Consistency
    warnings: tuple[str, ...] = ()

    @property
    def data_size(self) -> int:
        return sum(disk.data_size for disk in self.disks)


@dataclass(frozen=True, slots=True)
class Image:
    """A captured or written disk image. `digest` is the SHA-256 over its per-block digests."""

    path: str
    format: ImageFormat
    size: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class CaptureStats:
    """Bytes of one capture: of disk, of used blocks, on the wire (compressed), and not sent again."""

    size: int = 0
    data_size: int = 0
    wire_size: int = 0
    reused_size: int = 0
    seconds: float = 0.0


class ChangeKind(StrEnum):
    CREATED = "created"
    EDITED = "edited"
    REMOVED = "removed"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True)
class Change:
    """One file of the guest that was changed. `before` and `after` are SHA-256, empty where no file was."""

    kind: ChangeKind
    path: str
    reason: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was changed in the guest, and what it can use *now*: the VM is described from this."""

    family: str
    changes: tuple[Change, ...]
    disk_bus: DiskBus
    nic_model: NicModel
    serial_console: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VirtualDisk:
    file: str
    format: ImageFormat
    size: int
    bus: DiskBus
    serial: str = ""


@dataclass(frozen=True, slots=True)
class VirtualNic:
    mac: str
    model: NicModel


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """The machine as a target describes it. Disk files are relative to the directory of the configuration."""

    name: str
    uuid: str
    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[VirtualDisk, ...]
    nics: tuple[VirtualNic, ...]
    title: str = ""
    serial_console: bool = True


class Verdict(StrEnum):
    """What a booted guest showed. Only `BOOTED` and `DEGRADED` mean that a person could log in."""

    BOOTED = "booted"
    DEGRADED = "degraded"
    EMERGENCY = "emergency-mode"
    INITRAMFS_SHELL = "initramfs-shell"
    KERNEL_PANIC = "kernel-panic"
    GUEST_CRASHED = "guest-crashed"
    BOOTLOADER = "stuck-in-bootloader"
    NO_BOOT_DEVICE = "no-boot-device"
    TIMEOUT = "timeout"
    EMULATOR_FAILED = "emulator-failed"

    @property
    def passed(self) -> bool:
        return self in (Verdict.BOOTED, Verdict.DEGRADED)


@dataclass(frozen=True, slots=True)
class Proof:
    """The result of a boot. `evidence` is the line of the guest's own output that decided."""

    verdict: Verdict
    evidence: str
    seconds: float
    accelerator: str
    screenshot: str = ""
    serial_log: str = ""
    failed_units: tuple[str, ...] = ()
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One finished step of a run, with the digest of what it made and how long it took."""

    name: str
    digest: str
    seconds: float
    finished: str


@dataclass(frozen=True, slots=True)
class LicenseUse:
    """The unit a run cost. `state` is `reserved`, `committed`, `released` or `free`; `reason` says why."""

    state: str
    license: str
    units: int
    left: int | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done, for people who come later."""

    run: str
    plan: Plan
    images: tuple[Image, ...]
    capture: CaptureStats
    conversion: Conversion
    vm: VirtualMachine
    files: tuple[Image, ...]
    license: LicenseUse
    started: str
    finished: str
    steps: tuple[Step, ...]
    proof: Proof | None = None
    warnings: tuple[str, ...] = field(default=())
