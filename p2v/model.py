"""The nouns: frozen values that the rooms of the pipeline hand to each other.

Sizes and offsets are bytes, durations seconds, MAC addresses lower case with colons. A disk is known by its
serial or WWN; `Disk.path` is only where it was seen this time. Nothing here does more than look at itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

BLOCK_SIZE = 4 * MiB
"""Unit of digests, of resuming and of verifying: one SHA-256 for each such block of a disk."""


FREEZE_SECONDS = 60.0
"""How long filesystems may be frozen where nobody says otherwise: what services commonly wait for a disk."""


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
    LSI_LOGIC = "lsi-logic"
    BUSLOGIC = "buslogic"
    HYPERV_SCSI = "hyperv-scsi"
    XEN_BLK = "xen-blk"
    METAL = "metal"
    """Whatever the physical machine has: its drivers follow from the ids of its devices."""


class NicModel(StrEnum):
    VIRTIO = "virtio"
    E1000 = "e1000"
    E1000E = "e1000e"
    VMXNET3 = "vmxnet3"
    TULIP = "tulip"
    PCNET = "pcnet"
    NETVSC = "netvsc"
    XEN_NET = "xen-net"
    METAL = "metal"


class ImageFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vpc"
    VHDX = "vhdx"
    VDI = "vdi"

    @property
    def suffix(self) -> str:
        """What the name of such a file ends in; the values are those of qemu-img."""
        return "vhd" if self is ImageFormat.VHD else self.value


class Consistency(StrEnum):
    """How well the copy represents one moment of the source, best first."""

    OFFLINE = "offline"
    SNAPSHOT = "snapshot"
    FROZEN = "frozen"
    FUZZY = "fuzzy"


class ConsistencyWish(StrEnum):
    """What the user asks for: the best that works, exactly one grade, or no attempt at any."""

    AUTO = "auto"
    SNAPSHOT = "snapshot"
    FREEZE = "freeze"
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

    `data_size` is what a capture would read of it, 0 where nobody has looked. `idle` says that the kernel of
    the source lets nobody use it: no mount, no swap, no volume; `unknown_users` are devices on it that
    something has claimed which is none of these.
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
    idle: bool = False
    unknown_users: tuple[str, ...] = ()

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


class ProductType(StrEnum):
    """What a Windows is sold as: `ProductType` of `Control\\ProductOptions` (WinNT, LanmanNT, ServerNT)."""

    WORKSTATION = "workstation"
    DOMAIN_CONTROLLER = "domain-controller"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class WindowsSystem:
    """The version of a Windows, as its kernel counts: 5.1 is XP, 6.1 is 7, 10.0 with build 26100 is 2025.

    `root` is its folder on the volume that holds it, as it is written there: `/Windows`; `drive` is what a
    running one calls that volume, `C:`, and empty on a disk at rest.
    """

    major: int
    minor: int
    build: int
    product_type: ProductType = ProductType.WORKSTATION
    edition: str = ""
    root: str = "/Windows"
    drive: str = ""

    @property
    def version(self) -> tuple[int, int]:
        return (self.major, self.minor)


@dataclass(frozen=True, slots=True)
class OperatingSystem:
    """`family` is the conversion that serves it (`debian`, …), empty where none does; `id` is os-release.

    Of a Windows, `id` is `windows`, `version` is `10.0.19041`, and `windows` says more.
    """

    id: str
    version: str
    name: str
    family: str
    architecture: str = "x86_64"
    machine_id: str = ""
    windows: WindowsSystem | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that blocks a conversion or deserves a warning; `hint` is the command that mends it."""

    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class MountedFilesystem:
    """What a running source has mounted for writing at `place`, and the paths of all disks below it.

    `start` and `length` are bytes on its disk where it is a plain partition, else 0; `volume` is the
    device-mapper name of the logical volume that it stands on, if it does.
    """

    place: str
    kind: str
    disks: tuple[str, ...]
    start: int = 0
    length: int = 0
    volume: str = ""


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """A group of LVM: `free` and `extent_size` are bytes, `revision` counts the changes to it."""

    name: str
    uuid: str
    free: int
    extent_size: int
    revision: int
    usable: bool


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """`plain`: linear, neither snapshot nor anything with layers. `mapped` is its device-mapper name."""

    group: str
    name: str
    size: int
    plain: bool
    mapped: str


@dataclass(frozen=True, slots=True)
class Machine:
    """What was seen on the source. `uuid` is the SMBIOS system UUID; empty for an image of a disk.

    `unguarded` says why nothing on it can be held still, where that is so.
    """

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
    mounted: tuple[MountedFilesystem, ...] = ()
    groups: tuple[VolumeGroup, ...] = ()
    volumes: tuple[LogicalVolume, ...] = ()
    unguarded: str = ""

    @property
    def identity(self) -> str:
        """The key under which a license unit is counted: the hardware UUID, else its disks and system."""
        if self.uuid:
            return f"uuid:{self.uuid.lower()}"
        machine_id = self.os.machine_id if self.os else ""
        return "disk:" + ",".join(sorted(disk.identity for disk in self.disks)) + f";{machine_id}"


class Clock(StrEnum):
    """What the hardware clock shows."""

    UTC = "utc"
    LOCAL = "localtime"


@dataclass(frozen=True, slots=True)
class Setting:
    """A choice among what a target offers, such as `product` `esx6.7`; checked by the target."""

    key: str
    value: str


@dataclass(frozen=True, slots=True)
class Platform:
    """The virtual hardware that a target gives: `name` is the target's, `driver_pack` names its drivers.

    `subformat` is the variant of the image format (`streamOptimized`, `fixed`, …), empty for the usual one;
    `settings` are the choices that made it so.
    """

    name: str
    title: str
    disk_bus: DiskBus
    nic_model: NicModel
    image_format: ImageFormat
    driver_pack: str
    firmwares: tuple[Firmware, ...] = (Firmware.BIOS, Firmware.UEFI)
    max_disks: int = 26
    max_disk_size: int = 64 * TiB
    max_cpus: int = 255
    max_memory: int = 4 * TiB
    max_nics: int = 10
    subformat: str = ""
    settings: tuple[Setting, ...] = ()

    @property
    def label(self) -> str:
        """The name with the choices that were made: `vmware-esx8-ova`. Names the folders of an output."""
        return "-".join((self.name, *(setting.value for setting in self.settings)))


class Goal(StrEnum):
    """What a run is for: virtual machines, or the images alone, to make machines of them later."""

    CONVERT = "convert"
    CAPTURE = "capture"


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


class Choice(StrEnum):
    """Whether something that tells machines apart stays as it is or is made anew."""

    KEEP = "keep"
    NEW = "new"


class Removal(StrEnum):
    """Software that has no use in the virtual machine and that a user may want to start no more."""

    HW_AGENTS = "hw-agents"
    GUEST_TOOLS = "guest-tools"


@dataclass(frozen=True, slots=True)
class Script:
    """A script that the user named, and the SHA-256 of what was in it when the plan was made."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class CleanUp:
    """What the user chose to change in the guest beyond what its boot needs; by default nothing.

    `identity` stands for the machine-id and the SSH host keys; an empty `hostname` keeps the old one.
    """

    remove: tuple[Removal, ...] = ()
    identity: Choice = Choice.KEEP
    hostname: str = ""
    first_boot: Script | None = None
    disable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before the first byte moves; `--dry-run` prints it, a resumed run must equal it.

    `consistency` is the grade that will be tried; the receipt has the one that was reached. One guest is made
    for `platform` and all those in `also`; with the goal `capture`, none. `place` is where a machine that is
    imported goes, as it was found.
    """

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
    consistency_wish: ConsistencyWish = ConsistencyWish.AUTO
    freeze_limit: float = FREEZE_SECONDS
    clean_up: CleanUp = CleanUp()
    goal: Goal = Goal.CONVERT
    also: tuple[Platform, ...] = ()
    place: str = ""

    @property
    def data_size(self) -> int:
        return sum(disk.data_size for disk in self.disks)

    def each(self) -> tuple[Plan, ...]:
        """One plan for each platform; none for a capture alone."""
        if self.goal is Goal.CAPTURE:
            return ()
        return tuple(replace(self, platform=platform, also=()) for platform in (self.platform, *self.also))


@dataclass(frozen=True, slots=True)
class Image:
    """A captured or written disk image.

    `digest` is the SHA-256 of the file; of a file as long as its disk (a capture, raw, flat, fixed), which is
    mostly holes, the SHA-256 over its per-block digests.
    """

    path: str
    format: ImageFormat
    size: int
    digest: str = ""


class PassKind(StrEnum):
    """What a pass over the disks was for: all of it, what changed since, or the one that counts."""

    FULL = "full"
    DELTA = "delta"
    FROZEN = "frozen"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class CapturePass:
    """One pass over all disks: bytes of the blocks that differed, those on the wire, and seconds."""

    kind: PassKind
    moved_size: int
    wire_size: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Reached:
    """How consistent a capture became and what it took; `warnings` say why it is no better.

    `frozen_seconds` is how long writers had to wait on the source, `span_seconds` the time between the first
    and the last snapshot.
    """

    grade: Consistency
    passes: tuple[CapturePass, ...] = ()
    frozen_seconds: float = 0.0
    span_seconds: float = 0.0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Bytes of a disk (its path when it was planned) that the source could not read: zeros in the copy."""

    disk: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class CaptureStats:
    """Bytes of one capture: of disk, of used blocks, on the wire (compressed), and not sent again.

    `unreadable` is in the order of the disks and of the bytes, and empty unless bad sectors were allowed.
    """

    size: int = 0
    data_size: int = 0
    wire_size: int = 0
    reused_size: int = 0
    seconds: float = 0.0
    reached: Reached | None = None
    unreadable: tuple[Unreadable, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        reached = self.reached.warnings if self.reached else ()
        disks = dict.fromkeys(one.disk for one in self.unreadable)
        return (*reached, *(self._about_unreadable(disk) for disk in disks))

    def _about_unreadable(self, disk: str) -> str:
        places = [one for one in self.unreadable if one.disk == disk]
        return (
            f"{disk}: {sum(one.length for one in places)} bytes in {len(places)} "
            f"{'place' if len(places) == 1 else 'places'}, the first at byte {places[0].start}, could not be "
            "read and are zeros in the copy; the receipt lists them under capture.unreadable"
        )


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
class RegistryChange:
    """One value or key of a Windows guest's registry that was changed.

    `hive` is the file in the guest, `name` None for a whole key and empty for the default value; `before` and
    `after` are values as .reg files show them, empty where there was none.
    """

    kind: ChangeKind
    hive: str
    key: str
    name: str | None
    reason: str
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Conversion:
    """What was changed in the guest, and what it can use *now*: the VM is described from this.

    `os` is the system that was found, also where the plan could not know it.
    """

    family: str
    changes: tuple[Change, ...]
    disk_bus: DiskBus
    nic_model: NicModel
    serial_console: bool
    warnings: tuple[str, ...] = ()
    registry: tuple[RegistryChange, ...] = ()
    clock: Clock = Clock.UTC
    os: OperatingSystem | None = None


@dataclass(frozen=True, slots=True)
class VirtualDisk:
    file: str
    format: ImageFormat
    size: int
    bus: DiskBus
    serial: str = ""
    subformat: str = ""


@dataclass(frozen=True, slots=True)
class VirtualNic:
    """`name` is what the source calls the card that it stands for, where that is known."""

    mac: str
    model: NicModel
    name: str = ""


@dataclass(frozen=True, slots=True)
class VirtualMachine:
    """The machine as a target describes it. Disk files are relative to the directory of the configuration.

    `settings` are those of the platform; `os` is what is installed, where that is known.
    """

    name: str
    uuid: str
    cpus: int
    memory: int
    firmware: Firmware
    disks: tuple[VirtualDisk, ...]
    nics: tuple[VirtualNic, ...]
    title: str = ""
    serial_console: bool = True
    os: OperatingSystem | None = None
    clock: Clock = Clock.UTC
    settings: tuple[Setting, ...] = ()


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
class Placed:
    """Where a machine was imported: `path` is that in the inventory, `reference` what `server` calls it."""

    server: str
    reference: str
    path: str
    host: str
    datastore: str
    instance_uuid: str
    powered_on: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """What was made for one platform; `files` are in the folder of the run that `Platform.label` names."""

    platform: Platform
    conversion: Conversion
    vm: VirtualMachine
    files: tuple[Image, ...]
    proof: Proof | None = None
    placed: Placed | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was done, for people who come later. A capture alone has no outputs and cost no unit."""

    run: str
    plan: Plan
    images: tuple[Image, ...]
    capture: CaptureStats
    outputs: tuple[Output, ...]
    license: LicenseUse | None
    started: str
    finished: str
    steps: tuple[Step, ...]
    warnings: tuple[str, ...] = field(default=())
