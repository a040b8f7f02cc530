"""One guest for every hypervisor: converted once, written in every format, booted on each one's own devices.

Two of them boot in `make test`, all with `make matrix`. As it was, the machine finds its disk on none of the
two: what makes the difference is the driver in its initramfs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from fixtures.matrix import HOSTS, build_host
from p2v.accelerator import Accelerator
from p2v.journal import RECEIPT
from p2v.model import (
    DiskBus,
    Firmware,
    GiB,
    ImageFormat,
    NicModel,
    Output,
    Verdict,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.proof import prove
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.e2e.cli import p2v
from tests.e2e.trial import source_of

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.timeout(1800)]

QUIET = UI(style=ProgressStyle.NONE)
BOOT_SECONDS = 900.0
MAC = "00:1b:21:3a:4f:15"

EVERY = (
    "libvirt",
    "libvirt:raw,sata,e1000e",
    "vmware:ova",
    "vmware:workstation",
    "hyperv",
    "virtualbox",
    "proxmox",
    "openstack:raw",
    "kubevirt",
)
IN_EVERY_RUN = ("vmware:ova", "proxmox")
DEVICES = {
    "libvirt": (DiskBus.VIRTIO_BLK, NicModel.VIRTIO),
    "libvirt:raw,sata,e1000e": (DiskBus.SATA, NicModel.E1000E),
    "vmware:ova": (DiskBus.PVSCSI, NicModel.VMXNET3),
    "vmware:workstation": (DiskBus.LSI_SAS, NicModel.E1000),
    "hyperv": (DiskBus.IDE, NicModel.NETVSC),
    "virtualbox": (DiskBus.SATA, NicModel.E1000),
    "proxmox": (DiskBus.VIRTIO_SCSI, NicModel.VIRTIO),
    "openstack:raw": (DiskBus.VIRTIO_SCSI, NicModel.VIRTIO),
    "kubevirt": (DiskBus.VIRTIO_BLK, NicModel.VIRTIO),
}


@dataclass(frozen=True, slots=True)
class Made:
    """The outputs of one run, by what was typed for them."""

    run: Path
    outputs: dict[str, Output]

    def folder(self, words: str) -> Path:
        return self.run / "vm" / self.outputs[words].platform.label


@pytest.fixture(scope="module")
def made(disk: BuiltDisk, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """One capture, one conversion, everything that can be made of it."""
    folder = tmp_path_factory.mktemp("targets")
    words = [word for target in EVERY for word in ("--to", target)]
    answer = p2v("convert", disk.image, *words, "--output", folder / "runs", "--json", home=folder / "home")
    assert answer.code == 0, answer.stderr
    outputs = RECEIPT.validate_json(answer.stdout).outputs
    return Made(folder / "runs" / "metal12", dict(zip(EVERY, outputs, strict=True)))


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    """Lines for the README's table, written to the file that P2V_TARGETS names."""
    lines: list[str] = []
    yield lines
    if name := os.environ.get("P2V_TARGETS"):
        Path(name).write_text("\n".join(["| target | proof |", "| --- | --- |", *lines]) + "\n")


@pytest.mark.parametrize("words", EVERY)
def test_each_has_its_own_devices_and_files(words: str, made: Made) -> None:
    output = made.outputs[words]
    (disk,), (nic,) = output.vm.disks, output.vm.nics
    assert (disk.bus, nic.model) == DEVICES[words]
    assert nic.mac == made.outputs["libvirt"].vm.nics[0].mac
    there = {path.name for path in made.folder(words).iterdir()}
    assert {file.path for file in output.files} <= there
    assert not {name for name in there if name.endswith(".part")}


@pytest.mark.parametrize(
    "words", [pytest.param(each, marks=() if each in IN_EVERY_RUN else pytest.mark.matrix) for each in EVERY]
)
def test_it_boots_on_its_devices(
    words: str, made: Made, rows: list[str], accelerator: Accelerator, tmp_path: Path
) -> None:
    vm = made.outputs[words].vm
    proof = prove(vm, made.folder(words), tmp_path, accelerator=accelerator, timeout=BOOT_SECONDS, ui=QUIET)
    devices = f"{vm.disks[0].bus}, {vm.nics[0].model}, {made.outputs[words].platform.image_format.suffix}"
    rows.append(f"| `{words}` | {devices}: {proof.verdict}, {proof.seconds:.0f} s |")
    assert proof.verdict is Verdict.BOOTED, proof
    assert proof.hostname == "metal12"


@pytest.mark.matrix
def test_a_machine_with_uefi_boots_as_kubevirt_gives_it(
    rows: list[str], accelerator: Accelerator, tmp_path: Path
) -> None:
    """Another machine, since the first one boots by BIOS: its firmware is what the target has to offer."""
    need_tools("mcopy", "pvcreate", "vgcfgrestore")
    source = source_of(build_host(HOSTS["debian12-uefi-lvm"]))
    home, runs = tmp_path / "home", tmp_path / "runs"
    answer = p2v("convert", source, "--to", "kubevirt", "--prove", "--output", runs, "--json", home=home)
    assert answer.code == 0, answer.stderr
    (output,) = RECEIPT.validate_json(answer.stdout).outputs
    assert (output.vm.firmware, output.vm.disks[0].bus) == (Firmware.UEFI, DiskBus.VIRTIO_BLK)
    assert output.proof is not None
    seconds = output.proof.seconds
    rows.append(f"| `kubevirt`, UEFI | virtio-blk, virtio, qcow2: {output.proof.verdict}, {seconds:.0f} s |")
    assert output.proof.verdict is Verdict.BOOTED, output.proof


@pytest.mark.matrix
def test_it_boots_on_virtual_servers_devices(
    made: Made, rows: list[str], accelerator: Accelerator, tmp_path: Path
) -> None:
    """Virtual Server runs no 64-bit guest, so p2v refuses this one; its devices are shown all the same."""
    vm = made.outputs["hyperv"].vm
    # The same address: by it the guest gives the card the name that its network is configured under.
    vm = dataclasses.replace(vm, nics=(dataclasses.replace(vm.nics[0], model=NicModel.TULIP),))
    folder = made.folder("hyperv")
    proof = prove(vm, folder, tmp_path, accelerator=accelerator, timeout=BOOT_SECONDS, ui=QUIET)
    rows.append(f"| `virtualserver`'s devices | ide, tulip: {proof.verdict}, {proof.seconds:.0f} s |")
    assert proof.verdict is Verdict.BOOTED, proof


@pytest.mark.parametrize(
    ("bus", "model"), [(DiskBus.PVSCSI, NicModel.VMXNET3), (DiskBus.VIRTIO_SCSI, NicModel.VIRTIO)]
)
def test_without_its_driver_it_would_not(
    bus: DiskBus, model: NicModel, disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    vm = VirtualMachine(
        name="trial",
        uuid="6a1f2f10-9d3c-11e6-8f4b-001b213a4f15",
        cpus=1,
        memory=GiB,
        firmware=Firmware.BIOS,
        disks=(VirtualDisk(disk.image.name, ImageFormat.RAW, 4 * GiB, bus),),
        nics=(VirtualNic(MAC, model),),
    )
    folder = disk.image.parent
    proof = prove(vm, folder, tmp_path, accelerator=accelerator, timeout=BOOT_SECONDS, ui=QUIET)
    assert proof.verdict is Verdict.INITRAMFS_SHELL, proof
