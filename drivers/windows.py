"""What Windows needs for the devices of a platform: its own drivers by version, and the ids to seek others
by.

Versions are those of the kernel. Sources: the DriverDatabase of a Windows 10 (19041) for 8 and later;
Microsoft KB 922976 and KB 975453 (drivers of Vista and 7 that are not started), KB 314082 and the MergeIDE
script (XP); "Supported Windows guest operating systems for Hyper-V"; VMware KB 1005208.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from drivers.inf.ids import PciFunction
from drivers.inf.index import DriverIndex, best
from drivers.inf.model import DeviceIds, Match, NoMatch, Windows
from drivers.pack import DeviceId, DriverPack
from p2v.model import DiskBus, NicModel, Platform, WindowsSystem

Version = tuple[int, int]
XP, VISTA, WINDOWS_7, WINDOWS_8, WINDOWS_8_1 = (5, 1), (6, 0), (6, 1), (6, 2), (6, 3)
OLDEST, NEWEST = (5, 0), (99, 0)

CLASS_HDC = "{4D36E96A-E325-11CE-BFC1-08002BE10318}"
CLASS_SCSI = "{4D36E97B-E325-11CE-BFC1-08002BE10318}"
CLASS_DISK = "{4D36E967-E325-11CE-BFC1-08002BE10318}"
CLASS_SYSTEM = "{4D36E97D-E325-11CE-BFC1-08002BE10318}"


@dataclass(frozen=True, slots=True)
class CriticalDevice:
    """An entry of CriticalDeviceDatabase: an id with `#` for `\\`, and the service that is bound to it."""

    device: str
    service: str
    class_guid: str


@dataclass(frozen=True, slots=True)
class Inbox:
    """Drivers that Windows brings from version `since` up to `until`.

    `services` are needed; `companions` help where they are there: the bus below, the CD drive beside.
    """

    services: tuple[str, ...]
    since: Version = OLDEST
    until: Version = NEWEST
    companions: tuple[str, ...] = ()
    critical: tuple[CriticalDevice, ...] = ()

    def serves(self, version: Version) -> bool:
        return self.since <= version <= self.until


_IDE = ("intelide", "pciide", "atapi")
_HYPERV = ("vmbus", "storvsc", "storflt", "vpci", "bttflt")
_CHANNELS = tuple(
    CriticalDevice(name, "atapi", CLASS_HDC)
    for name in ("primary_ide_channel", "secondary_ide_channel", "*pnp0600")
)
_DISK = CriticalDevice("gendisk", "disk", CLASS_DISK)
_IDE_DEVICES = (
    CriticalDevice("pci#ven_8086&dev_7010", "intelide", CLASS_HDC),
    CriticalDevice("pci#ven_8086&dev_7111", "intelide", CLASS_HDC),
    CriticalDevice("pci#cc_0101", "pciide", CLASS_HDC),
    *_CHANNELS,
    _DISK,
)
_AHCI_7 = CriticalDevice("pci#cc_010601", "msahci", CLASS_HDC)
_SAS = CriticalDevice("pci#ven_1000&dev_0054", "LSI_SAS", CLASS_SCSI)

DISKS: dict[DiskBus, tuple[Inbox, ...]] = {
    DiskBus.IDE: (Inbox(_IDE, critical=_IDE_DEVICES),),
    DiskBus.SATA: (
        Inbox(("storahci",), since=WINDOWS_8, companions=_IDE),
        Inbox(("msahci",), since=VISTA, until=WINDOWS_7, companions=_IDE, critical=(_AHCI_7, *_IDE_DEVICES)),
    ),
    DiskBus.NVME: (Inbox(("stornvme",), since=WINDOWS_8_1, companions=("vpci", "storahci", *_IDE)),),
    DiskBus.LSI_SAS: (
        Inbox(("LSI_SAS",), since=WINDOWS_8, companions=("storahci", *_IDE)),
        Inbox(
            ("LSI_SAS",),
            since=VISTA,
            until=WINDOWS_7,
            companions=("msahci", *_IDE),
            critical=(_SAS, *_IDE_DEVICES),
        ),
    ),
    DiskBus.LSI_LOGIC: (
        Inbox(
            ("symmpi",),
            until=(5, 2),
            companions=_IDE,
            critical=(
                CriticalDevice("pci#ven_1000&dev_0030", "symmpi", CLASS_SCSI),
                *_IDE_DEVICES,
            ),
        ),
        Inbox(
            ("LSI_SCSI",),
            since=VISTA,
            until=WINDOWS_7,
            companions=_IDE,
            critical=(CriticalDevice("pci#ven_1000&dev_0030", "LSI_SCSI", CLASS_SCSI), *_IDE_DEVICES),
        ),
    ),
    # A machine of generation 2 has UEFI and nothing that it emulates, so 7 does not start there.
    DiskBus.HYPERV_SCSI: (Inbox(("vmbus", "storvsc"), since=WINDOWS_8, companions=_HYPERV),),
}
"""Inbox drivers by bus. A bus that is not here has none."""

BUSES_BELOW = {"hyperv": _HYPERV}
"""What else helps on a platform, by the start of its pack's name: Hyper-V takes over the IDE disks that it
emulates.
"""

NICS: dict[NicModel, tuple[Inbox, ...]] = {
    NicModel.E1000: (Inbox((), since=VISTA),),
    NicModel.E1000E: (Inbox((), since=WINDOWS_7),),
    NicModel.PCNET: (Inbox((), until=(5, 2)),),
    NicModel.TULIP: (Inbox(()),),
    NicModel.NETVSC: (Inbox((), since=WINDOWS_7),),
}
"""Network cards that Windows drives by itself. They need nothing at boot."""


def _virtio(legacy: int, modern: int, kind: int, class_code: int) -> tuple[DeviceIds, ...]:
    """A virtio device as its transitional and as its modern PCI function (virtio 1.2, 4.1.2)."""
    return (
        PciFunction(0x1AF4, legacy, 0x1AF4, kind, 0, class_code).ids(),
        PciFunction(0x1AF4, modern, 0x1AF4, 0x1100, 1, class_code).ids(),
    )


DISK_DEVICES: dict[DiskBus, tuple[DeviceIds, ...]] = {
    DiskBus.VIRTIO_BLK: _virtio(0x1001, 0x1042, 0x0002, 0x010000),
    DiskBus.VIRTIO_SCSI: _virtio(0x1004, 0x1048, 0x0008, 0x010000),
    DiskBus.PVSCSI: (PciFunction(0x15AD, 0x07C0, 0x15AD, 0x07C0, 2, 0x010700).ids(),),
    DiskBus.LSI_LOGIC: (PciFunction(0x1000, 0x0030, 0x15AD, 0x1976, 1, 0x010000).ids(),),
    DiskBus.LSI_SAS: (PciFunction(0x1000, 0x0054, 0x15AD, 0x1976, 1, 0x010700).ids(),),
    DiskBus.BUSLOGIC: (PciFunction(0x104B, 0x1040, 0x104B, 0x1040, 1, 0x010000).ids(),),
    DiskBus.NVME: (PciFunction(0x15AD, 0x07F0, 0x15AD, 0x07F0, 0, 0x010802).ids(),),
    DiskBus.SATA: (PciFunction(0x8086, 0x2922, 0x1AF4, 0x1100, 2, 0x010601).ids(),),
}
"""The controllers of a bus by what Windows calls them, for drivers that a pack brings."""

NIC_DEVICES: dict[NicModel, tuple[DeviceIds, ...]] = {
    NicModel.VIRTIO: _virtio(0x1000, 0x1041, 0x0001, 0x020000),
    NicModel.VMXNET3: (PciFunction(0x15AD, 0x07B0, 0x15AD, 0x07B0, 1, 0x020000).ids(),),
    NicModel.E1000: (PciFunction(0x8086, 0x100E, 0x1AF4, 0x1100, 3, 0x020000).ids(),),
    NicModel.E1000E: (PciFunction(0x8086, 0x10D3, 0x8086, 0x0000, 0, 0x020000).ids(),),
}

VENDORS = {"virtio": ("VEN_1AF4", "VEN_1B36"), "vmware": ("VEN_15AD",), "xen": ("VEN_5853",)}
"""Whose devices a platform has, by the start of its pack's name: their drivers are installed later."""

STORAGE = (
    *("storahci", "stornvme", "msahci", "iaStor", "iaStorV", "iaStorAV", "iaStorAVC", "iaStorVD"),
    *("LSI_SAS", "LSI_SAS2", "LSI_SAS2i", "LSI_SAS3i", "LSI_SSS", "LSI_SCSI", "megasas", "megasas2i"),
    *("megasas35i", "megasr", "percsas2i", "percsas3i", "ItSas35i", "arcsas", "HpSAMD", "SmartSAMD"),
    *("ADP80XX", "amdsata", "amdsbs", "amdxata", "nvraid", "nvstor", "SiSRaid2", "SiSRaid4", "vsmraid"),
    *("stexstor", "mvumis", "3ware", "cht4iscsi", "VSTXRAID", "nvdimm", "pmem", "scmbus", "storufs"),
    *("sbp2port", "EhStorTcgDrv", "isapnp", "pcmcia", "pci", "vpci", *_IDE),
)
"""Windows' own drivers of disks and of the buses below them, for a machine whose controllers are metal."""

_ALIAS = re.compile(
    r"pci:v0000([0-9A-F]{4})d0000([0-9A-F]{4})sv0000([0-9A-F]{4})sd0000([0-9A-F]{4})"
    r"bc([0-9A-F]{2})sc([0-9A-F]{2})i([0-9A-F]{2})",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class NoDriver:
    """No disk bus of a platform that a Windows could start from: why, and what would work instead."""

    reasons: tuple[str, ...]
    hint: str


@dataclass(frozen=True, slots=True)
class WindowsChoice:
    """The devices that a Windows gets on a platform, as far as its version and a pack of drivers tell.

    `inbox` holds Windows' own drivers to be started; `packages` those to be put in, for the disks; `cards`
    those of the network card. `warnings` say what better devices would have needed.
    """

    disk_bus: DiskBus
    nic_model: NicModel
    inbox: Inbox | None
    packages: tuple[Match, ...]
    cards: tuple[Match, ...]
    warnings: tuple[str, ...] = ()


def device_of(known: DeviceId) -> DeviceIds | None:
    """A PCI function of a physical machine by its modalias, as Windows calls it; None for another bus."""
    found = _ALIAS.match(known.alias)
    if found is None:
        return None
    vendor, device, board_vendor, board, base, sub, interface = (int(part, 16) for part in found.groups())
    code = base << 16 | sub << 8 | interface
    return PciFunction(vendor, device, board_vendor, board, 0, code).ids()


def inbox_for(bus: DiskBus, version: Version) -> Inbox | None:
    """Windows' own drivers for a bus in that version."""
    return next((each for each in DISKS.get(bus, ()) if each.serves(version)), None)


def find_packages(
    devices: Sequence[DeviceIds], windows: Windows, index: DriverIndex | None
) -> tuple[Match, ...] | NoMatch:
    """For each of the devices the best driver of the pack; NoMatch where one has none."""
    if index is None:
        return NoMatch(("no drivers were given",))
    matches = [best(index, windows, device) for device in devices]
    for match in matches:
        if isinstance(match, NoMatch):
            return match
    found = {match.package.inf: match for match in matches if isinstance(match, Match)}
    return tuple(found.values())


def buses(pack: DriverPack, platform: Platform) -> tuple[DiskBus, ...]:
    """The disk buses of a platform, the wanted one first."""
    offered = dict.fromkeys(choice.bus for choice in pack.disks)
    return tuple(sorted(offered, key=lambda bus: bus is not platform.disk_bus))


def choose(
    pack: DriverPack,
    platform: Platform,
    system: WindowsSystem,
    architecture: str,
    index: DriverIndex | None,
) -> WindowsChoice | NoDriver:
    """The first disk bus of a platform that this Windows can start from, and its network card.

    `architecture` is that of `OperatingSystem`. What the guest itself has beyond its version is not known
    here; the conversion looks again.
    """
    windows = Windows.of(system, architecture)
    if windows is None:
        return NoDriver((f"p2v knows no Windows for {architecture}",), "Take a Windows for x86 or x64")
    if any(choice.bus is DiskBus.METAL for choice in pack.disks):
        return _on_metal(pack, windows, index)
    reasons: list[str] = []
    for bus in buses(pack, platform):
        inbox = inbox_for(bus, system.version)
        found = () if inbox else find_packages(DISK_DEVICES.get(bus, ()), windows, index)
        if inbox or (found and not isinstance(found, NoMatch)):
            card, cards, warnings = choose_card(pack, platform, windows, index)
            packages = () if isinstance(found, NoMatch) else found
            said = tuple(f"{reason}; its disks are on {bus}" for reason in reasons)
            return WindowsChoice(bus, card, inbox, packages, cards, (*said, *warnings))
        reasons.append(_why(bus, system, found))
    return NoDriver(tuple(reasons), "Give its drivers with --drivers DIR, or " + _instead(system))


def _on_metal(pack: DriverPack, windows: Windows, index: DriverIndex | None) -> WindowsChoice:
    """Windows' own drivers of all controllers, and what the given drivers have for those of this machine.

    Whether that is enough is seen by the guest's own list of devices.
    """
    found = [match for choice in pack.disks for match in _matches(choice.devices, windows, index)]
    cards = [match for choice in pack.nics for match in _matches(choice.devices, windows, index)]
    inbox = Inbox((), companions=STORAGE)
    return WindowsChoice(DiskBus.METAL, NicModel.METAL, inbox, tuple(found), tuple(cards))


def _matches(devices: Sequence[DeviceId], windows: Windows, index: DriverIndex | None) -> Iterator[Match]:
    for known in devices:
        ids = device_of(known)
        match = best(index, windows, ids) if index and ids else None
        if isinstance(match, Match):
            yield match


def choose_card(
    pack: DriverPack, platform: Platform, windows: Windows, index: DriverIndex | None
) -> tuple[NicModel, tuple[Match, ...], tuple[str, ...]]:
    """The first network card that this Windows drives; the last one with a warning if it drives none.

    Of a machine of metal, what the given drivers have for its cards: what Windows brings for them is not in
    the hive that it starts with.
    """
    if any(choice.model is NicModel.METAL for choice in pack.nics):
        devices = [device for choice in pack.nics for device in choice.devices]
        return NicModel.METAL, tuple(_matches(devices, windows, index)), ()
    models = sorted(
        dict.fromkeys(choice.model for choice in pack.nics), key=lambda model: model is not platform.nic_model
    )
    version = (windows.major, windows.minor)
    for model in models:
        if any(inbox.serves(version) for inbox in NICS.get(model, ())):
            return model, (), tuple(_missed(platform, model, models))
        found = find_packages(NIC_DEVICES.get(model, ()), windows, index)
        if found and not isinstance(found, NoMatch):
            return model, found, tuple(_missed(platform, model, models))
    model = models[-1]  # the oldest that the platform emulates: somebody may have a driver
    return model, (), (f"{windows} brings no driver for a network card of {platform.title}: add one there",)


def _missed(platform: Platform, model: NicModel, models: Sequence[NicModel]) -> Iterator[str]:
    if model is not models[0]:
        yield (
            f"There is no driver for the network card {models[0]} here; it gets {model}. For {models[0]} give"
            " its driver with --drivers DIR"
        )


def _why(bus: DiskBus, system: WindowsSystem, found: tuple[Match, ...] | NoMatch) -> str:
    why = found.reasons[0] if isinstance(found, NoMatch) else "none is known"
    return f"Windows {system.major}.{system.minor} brings no driver for {bus} disks ({why})"


def _instead(system: WindowsSystem) -> str:
    """Targets whose usual disks this Windows drives by itself."""
    if system.version < VISTA:
        return "take a target with IDE disks: --to virtualserver, --to hyperv, --to libvirt"
    return "take a target with disks that it drives: --to hyperv, --to virtualbox, --to libvirt"
