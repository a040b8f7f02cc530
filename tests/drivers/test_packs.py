"""Driver packs against what a distribution's kernel really has, and packs joined for several platforms."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import drivers
from drivers.pack import DriverPack, LinuxDriver
from p2v.errors import TargetError
from p2v.model import DiskBus
from p2v.targets import TARGETS

GONE = {"piix", "ide_disk", "de4x5"}
"""Modules that Linux no longer has; guests of the time of Virtual Server do."""


def all_drivers(pack: DriverPack) -> set[LinuxDriver]:
    disks = {driver for disk in pack.disks for driver in disk.needed}
    return disks | {driver for nic in pack.nics for driver in nic.needed} | set(pack.welcome)


EVERY = sorted(
    {driver for pack in drivers.PACKS for driver in all_drivers(pack)}, key=lambda each: each.module
)


def test_names_are_unique() -> None:
    names = [pack.name for pack in drivers.PACKS]
    assert len(names) == len(set(names))
    assert not any("+" in name for name in names)


def test_every_target_has_its_pack() -> None:
    for target in TARGETS.values():
        assert drivers.pack(target.platform.driver_pack).disks


@pytest.mark.tools
@pytest.mark.parametrize("driver", EVERY, ids=lambda driver: driver.module)
def test_the_kernel_knows_it(driver: LinuxDriver) -> None:
    """Module and symbol, in the distribution's kernel of this host."""
    configs = sorted(Path("/boot").glob("config-*"))
    if not configs and not os.environ.get("CI"):
        pytest.skip("no kernel of the distribution is installed")
    config = configs[-1].read_text()
    modules = Path("/lib/modules") / configs[-1].name.removeprefix("config-")
    listed = (modules / "modules.dep").read_text() + (modules / "modules.builtin").read_text()
    names = {
        re.sub(r"\.ko.*", "", line.partition(":")[0].rsplit("/", 1)[-1]).replace("-", "_")
        for line in listed.splitlines()
    }
    if driver.module in GONE:
        assert driver.module not in names
        return
    assert driver.module in names
    assert re.search(rf"^{driver.symbol}=[my]$", config, re.MULTILINE)


def modules(pack: DriverPack, number: int = 0) -> set[str]:
    return {driver.module for driver in pack.disks[number].needed}


@pytest.mark.parametrize(
    ("name", "bus", "needed"),
    [
        ("vmware", DiskBus.PVSCSI, {"vmw_pvscsi", "sd_mod"}),
        ("vmware-old", DiskBus.LSI_LOGIC, {"mptspi", "sd_mod"}),
        ("hyperv", DiskBus.IDE, {"hv_vmbus", "hv_storvsc", "ata_piix", "sd_mod"}),
        ("hyperv-gen2", DiskBus.HYPERV_SCSI, {"hv_vmbus", "hv_storvsc", "sd_mod"}),
        ("virtualserver", DiskBus.IDE, {"ata_piix", "sd_mod"}),
        ("virtualbox", DiskBus.SATA, {"ahci", "sd_mod"}),
        ("xen", DiskBus.XEN_BLK, {"xen_blkfront"}),
        ("virtio-scsi", DiskBus.VIRTIO_SCSI, {"virtio_pci", "virtio_scsi", "sd_mod"}),
    ],
)
def test_what_a_kernel_needs_to_boot(name: str, bus: DiskBus, needed: set[str]) -> None:
    pack = drivers.pack(name)
    assert pack.disks[0].bus is bus
    assert modules(pack) == needed


def test_a_joined_pack_boots_on_both() -> None:
    joined = drivers.pack("virtio+vmware-sata")
    assert joined.disks[0].bus is DiskBus.VIRTIO_BLK
    assert modules(joined) == {"virtio_pci", "virtio_blk", "vmw_pvscsi", "sd_mod"}
    # A kernel without PVSCSI still gets the best first bus, with the second's next best.
    assert joined.disks[1].bus is DiskBus.VIRTIO_BLK
    assert modules(joined, 1) == {"virtio_pci", "virtio_blk", "mptsas", "sd_mod"}
    for choice in joined.disks:
        wanted = set(choice.needed)
        for name in ("virtio", "vmware-sata"):
            assert any(set(each.needed) <= wanted for each in drivers.pack(name).disks)


def test_joining_keeps_the_first_ones_cards_and_loses_no_driver() -> None:
    packs = [drivers.pack(name) for name in ("vmware", "hyperv", "xen")]
    joined = drivers.join(packs)
    assert joined.nics == packs[0].nics
    assert len(joined.disks) == len(packs[0].disks) * len(packs[1].disks) * len(packs[2].disks)
    assert modules(joined) >= {"vmw_pvscsi", "hv_storvsc", "ata_piix", "xen_blkfront"}
    assert {"xen_netfront", "hv_netvsc", "vmxnet3"} <= {driver.module for driver in joined.welcome}


def test_joining_one_changes_nothing() -> None:
    pack = drivers.pack("virtio")
    assert drivers.join([pack]) is pack
    assert drivers.join([pack, pack]) is pack
    with pytest.raises(TargetError):
        drivers.join([])


@pytest.mark.parametrize("name", ["", "vmwar", "virtio+nothing"])
def test_unknown_packs(name: str) -> None:
    with pytest.raises(TargetError, match="no driver pack"):
        drivers.pack(name)
