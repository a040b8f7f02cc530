"""Virtual machines for the tests of the targets: a plain one, a large one, and one with hostile names."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from p2v.model import (
    Disk,
    Firmware,
    GiB,
    OperatingSystem,
    Plan,
    PlannedDisk,
    PlannedNic,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets import Target, find_target
from tests.plans import make_plan

IMAGES = Path("/var/lib/p2v/web01/vm")
MAC = "00:1b:21:3a:4f:15"
UUID = "4C4C4544-0042-3010-8044-B7C04F313332"
DEBIAN = OperatingSystem("debian", "12", "Debian GNU/Linux 12 (bookworm)", "debian")
HOSTILE_NAME = "../a<b>&\"c' \u2019;`$(id)\\ \x01\ud800é/\n-x"
HOSTILE_TITLE = "]]><script>\u2018+calc\n\ttwo lines\x00"

EVERY = (
    "libvirt",
    "libvirt:raw,virtio-scsi",
    "vmware",
    "vmware:esx8,lsi-sas",
    "vmware:esx6.5,sata,e1000e",
    "vmware:esx4",
    "vmware:esx3",
    "vmware:workstation",
    "vmware:gsx",
    "vsphere",
    "hyperv",
    "hyperv:vhd,fixed",
    "virtualserver",
    "virtualbox",
    "virtualbox:ide,pcnet",
    "xen",
    "xen:raw",
    "proxmox",
    "proxmox:virtio-blk",
    "openstack",
    "kubevirt",
    "raw:vmdk",
)
"""Targets as a person types them; together they have every configuration file and device."""


def target_for(words: str, firmware: Firmware = Firmware.BIOS) -> Target:
    """The target, its platform fitted to a firmware."""
    target = find_target(words)
    return dataclasses.replace(target, platform=target.fit(target.platform, firmware))


def machine(
    target: Target,
    *,
    firmware: Firmware = Firmware.BIOS,
    disks: int = 1,
    nics: int = 1,
    size: int = 4 * GiB,
) -> VirtualMachine:
    """A machine as the pipeline describes it for a target."""
    platform = target.platform
    suffix = platform.image_format.suffix
    return VirtualMachine(
        name="web01",
        uuid=UUID,
        cpus=2,
        memory=2 * GiB,
        firmware=firmware,
        disks=tuple(
            VirtualDisk(
                f"disk{index}.{suffix}",
                platform.image_format,
                size,
                platform.disk_bus,
                "S3R1AL" if index == 0 else "",
                platform.subformat,
            )
            for index in range(disks)
        ),
        nics=tuple(VirtualNic(f"{MAC[:-2]}{0x15 + index:02x}", platform.nic_model) for index in range(nics)),
        title="web01, converted by p2v",
        os=DEBIAN,
        settings=platform.settings,
    )


def plain(words: str) -> tuple[Target, VirtualMachine]:
    target = target_for(words)
    return target, machine(target)


def large(words: str) -> tuple[Target, VirtualMachine]:
    """As many disks as are of interest, and UEFI where there is one."""
    firmware = find_target(words).platform.firmwares[-1]
    target = target_for(words, firmware)
    count = min(18 if words == "vmware" else 5, target.platform.max_disks)
    return target, machine(target, firmware=firmware, disks=count, nics=min(3, target.platform.max_nics))


def hostile(words: str) -> tuple[Target, VirtualMachine]:
    """Everything that a guest can have a say in, at its worst."""
    target, vm = plain(words)
    disk = dataclasses.replace(vm.disks[0], serial="a&b <c>'\"$(id)" + "9" * 50)
    system = dataclasses.replace(DEBIAN, id="deb'ian;$(id)", version="12\n$(id)")
    return target, dataclasses.replace(
        vm, name=HOSTILE_NAME, title=HOSTILE_TITLE, uuid="no uuid", disks=(disk,), os=system
    )


def plan_for(target: Target, **changes: object) -> Plan:
    """A plan that fits everywhere, but for the changes."""
    plan = make_plan()
    seen = dataclasses.replace(plan.machine.disks[0], size=16 * GiB)
    machine_32 = dataclasses.replace(DEBIAN, architecture="i686")
    fitting = dataclasses.replace(
        plan,
        machine=dataclasses.replace(plan.machine, os=machine_32, firmware=Firmware.BIOS),
        platform=target.platform,
        firmware=Firmware.BIOS,
        disks=(PlannedDisk(0, seen, GiB),),
        nics=(PlannedNic(MAC, "eth0"),),
        cpus=1,
        memory=GiB,
        prove=False,
    )
    return dataclasses.replace(fitting, **changes)  # type: ignore[arg-type]


def planned_disk(**changes: object) -> PlannedDisk:
    disk = Disk(path="/dev/sda", size=16 * GiB)
    return PlannedDisk(0, dataclasses.replace(disk, **changes), GiB)  # type: ignore[arg-type]
