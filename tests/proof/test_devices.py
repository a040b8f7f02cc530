"""QEMU arguments: the machine's own kind of devices, and nothing that a name could smuggle in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2v import command
from p2v.accelerator import Accelerator
from p2v.errors import TargetError
from p2v.model import DiskBus, GiB, MiB, NicModel, VirtualNic
from p2v.proof.devices import (
    ISOLATED,
    Forward,
    NetworkAccess,
    disk_arguments,
    machine_type,
    nic_arguments,
    proof_memory,
)
from p2v.proof.qemu import processor_arguments
from p2v.targets.base import UNPROVABLE
from tests.conftest import need_tools
from tests.proof.machines import machine

NOT_IN_QEMU = (NicModel.XEN_NET, NicModel.METAL)


def disks(bus: DiskBus, count: int, serial: str = "") -> str:
    vm = machine(*(f"disk{number}.qcow2" for number in range(count)), bus=bus, serial=serial)
    return " ".join(disk_arguments(vm.disks, [Path(f"/o/{number}") for number in range(count)]))


@pytest.mark.parametrize(
    ("bus", "devices"),
    [
        (DiskBus.VIRTIO_BLK, ["virtio-blk-pci,drive=disk0,bootindex=1", "virtio-blk-pci,drive=disk1"]),
        (DiskBus.VIRTIO_SCSI, ["virtio-scsi-pci,id=virtio-scsi0", "bus=virtio-scsi0.0,scsi-id=1"]),
        (DiskBus.PVSCSI, ["pvscsi,id=pvscsi0", "scsi-hd,drive=disk1,bus=pvscsi0.0,scsi-id=1"]),
        (DiskBus.LSI_SAS, ["mptsas1068,id=lsi-sas0", "bus=lsi-sas0.0,scsi-id=0,wwn=3458764513820540929"]),
        (DiskBus.SATA, ["ahci,id=sata0", "ide-hd,drive=disk1,bus=sata0.1"]),
        (DiskBus.IDE, ["ide-hd,drive=disk0,bus=ide.0,unit=0", "ide-hd,drive=disk1,bus=ide.0,unit=1"]),
        (DiskBus.NVME, ["nvme,drive=disk0,serial=p2v-disk0", "nvme,drive=disk1,serial=p2v-disk1"]),
    ],
)
def test_each_bus_has_its_own_devices(bus: DiskBus, devices: list[str]) -> None:
    words = disks(bus, 2)
    for device in devices:
        assert device in words
    assert words.count("bootindex=1") == 1


def test_seventh_sata_disk_gets_a_second_controller() -> None:
    words = disks(DiskBus.SATA, 7)
    assert words.count("ahci,") == 2
    assert "drive=disk6,bus=sata1.0" in words


def test_fifth_ide_disk_is_refused() -> None:
    with pytest.raises(TargetError, match="IDE"):
        disks(DiskBus.IDE, 5)


@pytest.mark.parametrize("bus", UNPROVABLE, ids=str)
def test_what_qemu_has_not_is_refused(bus: DiskBus) -> None:
    with pytest.raises(TargetError, match=bus.value):
        disks(bus, 1)


@pytest.mark.parametrize("bus", [bus for bus in DiskBus if bus not in UNPROVABLE], ids=str)
def test_every_other_bus_has_a_device(bus: DiskBus) -> None:
    assert "drive=disk0" in disks(bus, 1)


@pytest.mark.parametrize(
    ("model", "device"),
    [
        (NicModel.VMXNET3, "vmxnet3"),
        (NicModel.PCNET, "pcnet"),
        (NicModel.TULIP, "tulip"),
        (NicModel.NETVSC, "tulip"),
        (NicModel.E1000E, "e1000e"),
    ],
)
def test_cards(model: NicModel, device: str) -> None:
    words = nic_arguments([VirtualNic("52:54:00:00:00:01", model)], ISOLATED)
    assert words[3].startswith(f"{device},netdev=net0,")


@pytest.mark.parametrize("model", NOT_IN_QEMU, ids=str)
def test_a_card_that_qemu_has_not_is_refused(model: NicModel) -> None:
    with pytest.raises(TargetError, match=model):
        nic_arguments([VirtualNic("52:54:00:00:00:01", model)], ISOLATED)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("bus", "model"),
    [(bus, NicModel.VIRTIO) for bus in DiskBus if bus not in UNPROVABLE]
    + [(DiskBus.SATA, model) for model in NicModel if model not in NOT_IN_QEMU],
)
def test_qemu_takes_them(bus: DiskBus, model: NicModel, tmp_path: Path) -> None:
    """QEMU builds the machine and is asked to end before the first instruction."""
    need_tools("qemu-system-x86_64", "qemu-img")
    image = tmp_path / "a.qcow2"
    command.check(["qemu-img", "create", "-q", "-f", "qcow2", image, "1M"], timeout=30, reason="make a disk")
    vm = machine("a", bus=bus, nic=model)
    words = ["qemu-system-x86_64", "-nodefaults", "-machine", machine_type(vm), "-m", "64", "-accel", "tcg"]
    words += [*disk_arguments(vm.disks, [image]), *nic_arguments(vm.nics, ISOLATED)]
    words += ["-display", "none", "-S", "-monitor", "stdio"]
    said = command.check(words, timeout=30, reason="build the machine", input_text="info block\nquit\n")
    assert "disk0" in said


def test_board_follows_the_disks() -> None:
    assert machine_type(machine("a", bus=DiskBus.IDE)) == "pc"
    assert machine_type(machine("a")).startswith("q35")


def test_serial_and_path_smuggle_nothing() -> None:
    vm = machine("a", serial="x,readonly=on \n" + "9" * 40)
    words = disk_arguments(vm.disks, [Path('/o/a",b=c')])
    assert "serial=xreadonlyon999999999," in words[3]
    assert json.loads(words[1])["file"]["filename"] == '/o/a",b=c'


def test_every_card_is_isolated() -> None:
    words = nic_arguments([VirtualNic(f"52:54:00:00:00:0{n}", NicModel.E1000) for n in range(2)], ISOLATED)
    netdevs = [word for word in words if word.startswith("user,")]
    assert netdevs == ["user,id=net0,restrict=on", "user,id=net1,restrict=on"]
    assert "e1000,netdev=net1,mac=52:54:00:00:00:01,romfile=" in words


def test_forwards_stay_on_the_loopback_and_the_first_card() -> None:
    access = NetworkAccess(net="10.77.0.0/24", forwards=(Forward(2222, 22, "10.77.0.15"),))
    words = nic_arguments([VirtualNic("52:54:00:00:00:01", NicModel.TULIP)] * 2, access)
    expected = "user,id=net0,restrict=on,net=10.77.0.0/24,hostfwd=tcp:127.0.0.1:2222-10.77.0.15:22"
    assert [word for word in words if "hostfwd" in word] == [expected]


@pytest.mark.parametrize(
    "mac", ["", "52:54:00:12:34", "52:54:00:12:34:56,x=y", "5254.0012.3456", "52:54:00:12:34:56\n"]
)
def test_bad_mac_is_refused(mac: str) -> None:
    with pytest.raises(TargetError, match="MAC"):
        nic_arguments([VirtualNic(mac, NicModel.VIRTIO)], ISOLATED)


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [
        (GiB, 8 * GiB, GiB),
        (64 * GiB, 8 * GiB, 2 * GiB),
        (8 * GiB, GiB + 12345, GiB),
        (128 * MiB, 8 * GiB, 512 * MiB),
        (GiB, 100 * MiB, 512 * MiB),
    ],
)
def test_memory(wanted: int, available: int, expected: int) -> None:
    assert proof_memory(wanted, available) == expected


def test_emulation_uses_one_thread() -> None:
    words = " ".join(processor_arguments(machine("a"), Accelerator.TCG))
    assert words == "-accel tcg,thread=single -cpu max -smp 1"
    assert "-cpu host -smp 2" in " ".join(processor_arguments(machine("a"), Accelerator.KVM))
