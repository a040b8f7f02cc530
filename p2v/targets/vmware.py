"""VMware: a .vmx beside its disks, or an OVF package, as one OVA file or in pieces.

The keys of a .vmx are those that VMware's products write themselves; libvirt's src/vmx/vmx.c documents them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2v.errors import TargetError, UsageError
from p2v.model import (
    Clock,
    DiskBus,
    Finding,
    Firmware,
    ImageFormat,
    MiB,
    NicModel,
    Plan,
    Platform,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets import ova, ovf
from p2v.targets.base import (
    AUTO,
    ConfigFile,
    Option,
    Target,
    begin_disks,
    choose_devices,
    file_name,
    misfits,
    one_line,
    setting,
)
from p2v.targets.guests import guest_names
from p2v.targets.packages import Package
from p2v.targets.vmware_products import PRODUCTS, Product

PRODUCT = Option("product", tuple(PRODUCTS), "which product it runs on")
CONFIG = Option("config", ("vmx", "ovf", "ova"), "a .vmx, an OVF in pieces, or all in one OVA file")
FORMAT = Option(
    "format",
    (AUTO, "vmfs", "monolithicSparse", "monolithicFlat", "streamOptimized"),
    "the kind of VMDK; by default what the product and the configuration want",
)
BUS = Option(
    "bus",
    (AUTO, DiskBus.PVSCSI, DiskBus.LSI_SAS, DiskBus.LSI_LOGIC, DiskBus.BUSLOGIC, DiskBus.SATA, DiskBus.IDE),
    "the disk controller",
)
NIC = Option(
    "nic",
    (AUTO, NicModel.VMXNET3, NicModel.E1000, NicModel.E1000E, NicModel.PCNET),
    "the network card",
)

SLOTS = (*range(7), *range(8, 16))
"""Targets of a SCSI controller; 7 is the controller itself."""

MAX_CONTROLLERS = 4
SATA_PORTS = 30
PER_BUS = {DiskBus.IDE: 4, DiskBus.SATA: MAX_CONTROLLERS * SATA_PORTS}
SCSI_NAMES = {
    DiskBus.PVSCSI: "pvscsi",
    DiskBus.LSI_SAS: "lsisas1068",
    DiskBus.LSI_LOGIC: "lsilogic",
    DiskBus.BUSLOGIC: "buslogic",
}
NIC_NAMES = {
    NicModel.VMXNET3: "vmxnet3",
    NicModel.E1000: "e1000",
    NicModel.E1000E: "e1000e",
    NicModel.PCNET: "vlance",
}
_PLATFORM = Platform(
    name="vmware",
    title="VMware",
    disk_bus=DiskBus.PVSCSI,
    nic_model=NicModel.VMXNET3,
    image_format=ImageFormat.VMDK,
    driver_pack="vmware-sata",
)


def shape(platform: Platform) -> Platform:
    """The platform that product, configuration and format ask for. Raises UsageError where they exclude each
    other.
    """
    product = PRODUCTS[setting(platform, PRODUCT)]
    platform = replace(
        platform,
        title=product.title,
        disk_bus=product.disk_bus,
        nic_model=product.nic_model,
        driver_pack=product.driver_pack,
        firmwares=product.firmwares,
        max_cpus=product.cpus,
        max_memory=product.memory,
        max_disk_size=product.disk_size,
        max_nics=product.nics,
        subformat=_subformat(platform, product),
    )
    platform = choose_devices(platform, BUS, NIC)
    return replace(platform, max_disks=PER_BUS.get(platform.disk_bus, len(SLOTS) * MAX_CONTROLLERS))


def _subformat(platform: Platform, product: Product) -> str:
    config, chosen = setting(platform, CONFIG), setting(platform, FORMAT)
    if config == "vmx":
        if chosen == ovf.STREAM_OPTIMIZED:
            raise UsageError(
                "No product runs a machine from a streamOptimized disk",
                hint="It is for import: add config=ova or config=ovf",
            )
        usual = "monolithicSparse" if product.hosted else "vmfs"
        return usual if chosen == AUTO else chosen
    if not product.is_modern:
        raise UsageError(f"{product.title} imports no OVF", hint="Use config=vmx")
    if chosen not in (AUTO, ovf.STREAM_OPTIMIZED):
        raise UsageError(f"An OVF package has no {chosen} disks", hint="Leave out format, or use config=vmx")
    return ovf.STREAM_OPTIMIZED


PLATFORM = shape(_PLATFORM)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit on the product."""
    return tuple(misfits(plan, name=machine_name))


def machine_name(name: str) -> str:
    """The nearest name that vCenter and the filesystems below it accept: 80 characters, none of `/\\%`."""
    return re.sub(r"[/\\%]", "-", one_line(name))[:80].strip() or "machine"


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The .vmx of `vm`; nothing where an OVF is wanted, which is written with the disks."""
    if setting(vm, CONFIG) != "vmx":
        return ()
    lines = [f'{key} = "{escape(value)}"' for key, value in vmx_entries(vm)]
    return (ConfigFile(file_name(vm.name, ".vmx"), "\n".join(['.encoding = "UTF-8"', *lines]) + "\n"),)


def escape(value: str) -> str:
    """A value of a .vmx: quotes and bars in VMware's own way, `|22`; on one line."""
    return re.sub(r'["|]', lambda found: f"|{ord(found[0]):02X}", one_line(value))


def vmx_entries(vm: VirtualMachine) -> Iterator[tuple[str, str]]:
    product = PRODUCTS[setting(vm, PRODUCT)]
    yield "config.version", "8"
    yield "virtualHW.version", str(product.hardware)
    yield "displayName", machine_name(vm.name)
    if vm.title:
        yield "annotation", vm.title
    yield "guestOS", guest_names(vm.os, hardware=product.hardware).vmx
    if vmware_uuid(vm.uuid):
        yield "uuid.bios", vmware_uuid(vm.uuid)
    yield "memsize", str(ovf.memory_of(vm.memory) // MiB)
    yield "numvcpus", str(vm.cpus)
    if vm.firmware is Firmware.UEFI:
        yield "firmware", "efi"
        # The keys that the physical machine trusted are not known, so its boot loader may not be either.
        yield "uefi.secureBoot.enabled", "FALSE"
    if vm.clock is Clock.UTC:
        yield "rtc.diffFromUTC", "0"
    yield from _board(product)
    yield from _disks(vm.disks)
    for index, nic in enumerate(vm.nics):
        yield from _nic(index, nic, product)


def _board(product: Product) -> Iterator[tuple[str, str]]:
    if product.is_modern:
        yield "pciBridge0.present", "TRUE"
        for bridge in range(4, 8):
            # Without these, a paravirtual card finds no slot.
            yield f"pciBridge{bridge}.present", "TRUE"
            yield f"pciBridge{bridge}.virtualDev", "pcieRootPort"
            yield f"pciBridge{bridge}.functions", "8"
        yield "vmci0.present", "TRUE"
        yield "hpet0.present", "TRUE"
        yield "svga.present", "TRUE"
        yield "disk.EnableUUID", "TRUE"
    yield "floppy0.present", "FALSE"
    yield "tools.syncTime", "FALSE"


def _disks(disks: tuple[VirtualDisk, ...]) -> Iterator[tuple[str, str]]:
    counts: dict[str, int] = {}
    for disk in disks:
        family = _family(disk)
        number = counts.get(family, 0)
        counts[family] = number + 1
        controller, slot = divmod(number, {"ide": 2, "sata": SATA_PORTS}.get(family, len(SLOTS)))
        unit = SLOTS[slot] if family == "scsi" else slot
        if controller >= MAX_CONTROLLERS:
            raise TargetError(f"{disk.file} is one {disk.bus} disk too many for VMware")
        if unit == 0 and family != "ide":
            yield f"{family}{controller}.present", "TRUE"
        if unit == 0 and family == "scsi":
            yield f"scsi{controller}.virtualDev", SCSI_NAMES[disk.bus]
        place = f"{family}{controller}:{unit}"
        yield f"{place}.present", "TRUE"
        yield f"{place}.fileName", disk.file
        yield f"{place}.deviceType", "scsi-hardDisk" if family == "scsi" else "disk"


def _family(disk: VirtualDisk) -> str:
    if disk.bus in SCSI_NAMES:
        return "scsi"
    if disk.bus in PER_BUS:
        return disk.bus.value
    raise TargetError(f"VMware has no {disk.bus} disk for {disk.file}")


def _nic(index: int, nic: VirtualNic, product: Product) -> Iterator[tuple[str, str]]:
    if nic.model not in NIC_NAMES:
        raise TargetError(f"VMware has no {nic.model} network card")
    card = f"ethernet{index}"
    yield f"{card}.present", "TRUE"
    yield f"{card}.virtualDev", NIC_NAMES[nic.model]
    if product.hosted:
        yield f"{card}.connectionType", "bridged"
    else:
        yield f"{card}.networkName", "VM Network"
    yield f"{card}.addressType", "static"
    yield f"{card}.address", nic.mac
    # VMware's own range is 00:50:56:00:00:00 to 3f:ff:ff; it keeps another address only unchecked.
    yield f"{card}.checkMACAddress", "FALSE"
    yield f"{card}.startConnected", "TRUE"


def vmware_uuid(text: str) -> str:
    """`56 4d … -…`, as `uuid.bios` is written; empty for what is no UUID."""
    digits = re.sub(r"-", "", text.lower())
    if not re.fullmatch(r"[0-9a-f]{32}", digits):
        return ""
    pairs = re.findall("..", digits)
    return f"{' '.join(pairs[:8])}-{' '.join(pairs[8:])}"


def begin(vm: VirtualMachine, folder: Path) -> AbstractContextManager[Package]:
    """The disks; of an OVF with descriptor and manifest, of an OVA all in one file."""
    config = setting(vm, CONFIG)
    if config == "vmx":
        return begin_disks(vm, folder)
    dialect = ovf.Dialect.vmware(PRODUCTS[setting(vm, PRODUCT)].hardware)
    return ova.begin_package(vm, folder, partial(ovf.render, vm, dialect), one_file=config == "ova")


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """Start on the host itself, or bring it to an ESX host and register it there."""
    product = PRODUCTS[setting(vm, PRODUCT)]
    config = setting(vm, CONFIG)
    if config != "vmx":
        return f"ovftool {shlex.quote(str(image_dir / file_name(vm.name, f'.{config}')))} vi://root@ESX-HOST/"
    path = file_name(vm.name, ".vmx")
    if product.hosted:
        return f"vmrun start {shlex.quote(str(image_dir / path))}"
    place = f"/vmfs/volumes/datastore1/{file_name(vm.name, '')}"
    return (
        f"scp -r {shlex.quote(str(image_dir))} root@ESX-HOST:{place} && "
        f"ssh root@ESX-HOST vim-cmd solo/registervm {place}/{path}"
    )


TARGET = Target(
    PLATFORM,
    check,
    render,
    ".vmx, OVF or OVA",
    start,
    options=(PRODUCT, CONFIG, FORMAT, BUS, NIC),
    shape=shape,
    begin=begin,
)
