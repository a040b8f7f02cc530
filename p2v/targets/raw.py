"""Images alone, in any format, without a configuration: for whatever hypervisor takes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from p2v.errors import UsageError
from p2v.model import DiskBus, Finding, ImageFormat, NicModel, Plan, Platform, VirtualMachine
from p2v.targets.base import (
    AUTO,
    Option,
    Target,
    choose_devices,
    misfits,
    no_configuration,
    setting,
)

FORMATS = {
    "raw": ImageFormat.RAW,
    "qcow2": ImageFormat.QCOW2,
    "vmdk": ImageFormat.VMDK,
    "vhd": ImageFormat.VHD,
    "vhdx": ImageFormat.VHDX,
    "vdi": ImageFormat.VDI,
}
SUBFORMATS = {
    ImageFormat.VMDK: ("monolithicSparse", "monolithicFlat", "streamOptimized"),
    ImageFormat.VHD: ("dynamic", "fixed"),
    ImageFormat.VHDX: ("dynamic", "fixed"),
    ImageFormat.VDI: ("dynamic", "fixed"),
}
FORMAT = Option("format", tuple(FORMATS), "the format of the images")
SUBFORMAT = Option(
    "subformat",
    (AUTO, "monolithicSparse", "monolithicFlat", "streamOptimized", "dynamic", "fixed"),
    "the variant of the format",
)
BUS = Option(
    "bus",
    (AUTO, DiskBus.VIRTIO_BLK, DiskBus.VIRTIO_SCSI, DiskBus.SATA, DiskBus.IDE),
    "what the guest is made to boot from",
)
NIC = Option(
    "nic", (AUTO, NicModel.VIRTIO, NicModel.E1000, NicModel.E1000E, NicModel.PCNET), "the network card"
)

_BASE = Platform(
    name="raw",
    title="Images only",
    disk_bus=DiskBus.VIRTIO_BLK,
    nic_model=NicModel.VIRTIO,
    image_format=ImageFormat.RAW,
    driver_pack="virtio",
    max_disks=255,
    max_cpus=1024,
    max_nics=32,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings. Raises UsageError for a variant that the format has not."""
    image_format = FORMATS[setting(platform, FORMAT)]
    known, chosen = SUBFORMATS.get(image_format, ()), setting(platform, SUBFORMAT)
    if chosen != AUTO and chosen not in known:
        raise UsageError(
            f"{setting(platform, FORMAT)} images are not {chosen}",
            hint=f"They are: {', '.join(known) or 'of one kind'}",
        )
    subformat = chosen if chosen != AUTO else (known[0] if known else "")
    return choose_devices(replace(platform, image_format=image_format, subformat=subformat), BUS, NIC)


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit."""
    return tuple(misfits(plan))


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """Nothing that would fit everywhere: what they are, for whoever takes them."""
    return f"qemu-img info {image_dir / vm.disks[0].file}"


TARGET = Target(
    PLATFORM, check, no_configuration, "none", start, options=(FORMAT, SUBFORMAT, BUS, NIC), shape=shape
)
