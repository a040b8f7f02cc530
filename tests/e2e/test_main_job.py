"""The main job: a running Debian on physical hardware becomes a virtual machine that is still itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from fixtures.metal import free_port
from p2v import command
from p2v.accelerator import Accelerator
from p2v.errors import ExitCode
from p2v.journal import RECEIPT
from p2v.model import (
    Consistency,
    DiskBus,
    Firmware,
    GiB,
    ImageFormat,
    NicModel,
    Verdict,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.proof import Forward, NetworkAccess, boot, prove
from p2v.targets.libvirt import render
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.e2e.cli import p2v, until
from tests.e2e.conftest import IDENTITY, Converted, Facts, sha256
from tests.targets.test_libvirt import start_in

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.ssh, pytest.mark.timeout(2400)]

QUIET = UI(style=ProgressStyle.NONE)


def test_scan_shows_the_machine(converted: Converted) -> None:
    assert converted.scan.code == 0, converted.scan.stderr
    machine = converted.scan.json()["machine"]
    (disk,) = machine["disks"]
    assert disk["serial"] == "S3Z8NB0K123456"
    assert disk["size"] == 4 * GiB
    assert [part["filesystem"]["kind"] for part in disk["partitions"]] == ["ext4", "swap"]
    assert [part["mountpoint"] for part in disk["partitions"]] == ["/", "[swap]"]
    assert (machine["firmware"], machine["os"]["family"]) == ("bios", "debian")
    assert machine["memory"] == GiB
    assert machine["nics"][0]["addresses"][0] == "10.77.0.15/24"
    assert converted.scan.json()["estimate"]["rate"] > 0


def test_sudo_is_as_good_as_root_and_neither_is_refused(converted: Converted) -> None:
    assert converted.scan_sudo.code == 0, converted.scan_sudo.stderr
    ours, theirs = (answer.json()["machine"] for answer in (converted.scan_sudo, converted.scan))
    assert [disk["serial"] for disk in ours["disks"]] == [disk["serial"] for disk in theirs["disks"]]
    assert (ours["uuid"], ours["nics"]) == (theirs["uuid"], theirs["nics"])
    assert converted.scan_nobody.code == ExitCode.TRANSPORT
    assert "sudo" in converted.scan_nobody.stderr
    assert converted.scan_nobody.stdout == ""


def test_memory_stays_small(converted: Converted) -> None:
    log = (converted.folder / "log.jsonl").read_text()
    (peak,) = re.findall(r"peak memory of p2v: (\d+) kB", log)
    assert 10_000 < int(peak) < 300 * 1024


def test_the_proof_says_that_it_booted(converted: Converted) -> None:
    proof = converted.output.proof
    assert proof is not None
    assert proof.verdict is Verdict.BOOTED, proof
    assert proof.hostname == converted.before.hostname == "metal12"
    folder = converted.folder / "proof" / "libvirt"
    assert (folder / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert "metal12 login:" in (folder / "serial.log").read_text(errors="replace")


def test_only_used_blocks_travelled(converted: Converted) -> None:
    stats = converted.receipt.capture
    assert stats.size == 4 * GiB
    assert stats.data_size < 1.3 * GiB
    assert 0 < stats.wire_size < stats.data_size
    assert converted.receipt.plan.consistency is Consistency.FROZEN
    assert stats.reached is not None
    assert stats.reached.grade is Consistency.FROZEN
    assert 0 < stats.reached.frozen_seconds < 600


def test_the_second_time_costs_nothing(converted: Converted) -> None:
    assert converted.again.code == 0, converted.again.stderr
    assert "nothing to do" in converted.again.stderr
    assert RECEIPT.validate_json(converted.again.stdout) == converted.receipt
    status = p2v("license", "show", "--json", home=converted.home).json()
    assert (status["used"], status["left"]) == (1, 4)


def test_every_change_is_in_the_receipt(converted: Converted) -> None:
    paths = {change.path for change in converted.output.conversion.changes}
    assert {"/etc/fstab", "/etc/default/grub", "/boot/grub/grub.cfg"} <= paths
    assert any(path.startswith("/boot/initrd.img-") for path in paths)
    assert all(change.after and change.reason for change in converted.output.conversion.changes)


def virtio_machine(image: str, image_format: ImageFormat, mac: str) -> VirtualMachine:
    return VirtualMachine(
        name="trial",
        uuid="6a1f2f10-9d3c-11e6-8f4b-001b213a4f15",
        cpus=1,
        memory=GiB,
        firmware=Firmware.BIOS,
        disks=(VirtualDisk(image, image_format, 4 * GiB, DiskBus.VIRTIO_BLK),),
        nics=(VirtualNic(mac, NicModel.VIRTIO),),
    )


def test_unconverted_it_does_not_boot_on_virtio(
    disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    before = sha256(disk.image)
    vm = virtio_machine(disk.image.name, ImageFormat.RAW, "00:1b:21:3a:4f:15")
    proof = prove(vm, disk.image.parent, tmp_path, accelerator=accelerator, timeout=600, ui=QUIET)
    assert proof.verdict is Verdict.INITRAMFS_SHELL, proof
    assert sha256(disk.image) == before


def test_converted_it_is_the_same_machine(
    converted: Converted, disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    """Same name, machine-id, host keys and static address, on virtio; seen from outside, over its own
    address.
    """
    image = converted.folder / "vm" / "libvirt" / converted.output.vm.disks[0].file
    before = sha256(image)
    port = free_port()
    network = NetworkAccess("10.77.0.0/24", (Forward(port, 22, "10.77.0.15"),))
    login = ssh_command(disk, port, tmp_path)
    with boot(
        converted.output.vm,
        image.parent,
        _folder(tmp_path / "boot"),
        accelerator=accelerator,
        network=network,
    ):
        until(lambda: subprocess.run([*login, "true"], check=False, timeout=120).returncode == 0, seconds=900)
        after = Facts(*(_ask(login, words) for words in IDENTITY))
        failed = _ask(login, ("systemctl", "--failed", "--no-legend", "--plain"))
        root = _ask(login, ("findmnt", "-no", "SOURCE", "/"))
        swap = _ask(login, ("swapon", "--show=NAME", "--noheadings"))
    assert after == converted.before
    assert after.addresses == "enp0s4 10.77.0.15/24"
    assert failed == ""
    assert root == "/dev/vda1"
    assert swap == "/dev/vda2"
    assert sha256(image) == before


def ssh_command(disk: BuiltDisk, port: int, folder: Path) -> list[str]:
    """The VM must have the host key of the metal: anything else is refused by ssh itself."""
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {disk.host_key}\n")
    options = [
        "-o",
        f"UserKnownHostsFile={known_hosts}",
        "-o",
        "StrictHostKeyChecking=yes",
        "-o",
        "BatchMode=yes",
    ]
    options += ["-o", "ConnectTimeout=30", "-o", "IdentitiesOnly=yes", "-o", "LogLevel=ERROR"]
    return ["ssh", "-F", "none", "-i", str(disk.key), "-p", str(port), *options, "root@127.0.0.1", "--"]


def _ask(login: list[str], words: tuple[str, ...]) -> str:
    return command.check([*login, shlex.join(words)], timeout=120, reason="ask the machine").strip()


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_qemu_img_finds_nothing_wrong(converted: Converted) -> None:
    need_tools("qemu-img")
    for file in converted.output.files:
        image = converted.folder / "vm" / "libvirt" / file.path
        said = json.loads(
            command.check(["qemu-img", "check", "--output=json", image], timeout=120, reason="check")
        )
        assert not said.get("corruptions")
        assert not said.get("leaks")
        assert not said["check-errors"]
        assert sha256(image) == file.digest


def test_libvirt_accepts_and_starts_what_was_written(converted: Converted, accelerator: Accelerator) -> None:
    need_tools("virt-xml-validate", "virsh", "qemu-system-x86_64", "setpriv")
    images = converted.folder / "vm" / "libvirt"
    written = images / "metal12.xml"
    command.check(["virt-xml-validate", written, "domain"], timeout=60, reason="accept the domain")
    vm = converted.output.vm
    assert written.read_text() == render(vm, images)[0].text
    # libvirt's QEMU runs as nobody and cannot come through pytest's folders: the same XML in another place.
    folder = Path(f"/tmp/p2v-e2e-{os.getpid()}")
    folder.mkdir(mode=0o755)
    try:
        shutil.copyfile(images / vm.disks[0].file, folder / vm.disks[0].file)
        start_in(folder, vm, accelerator)
    finally:
        shutil.rmtree(folder)


def test_nothing_half_made_is_left(converted: Converted) -> None:
    names = {path.name for path in converted.folder.rglob("*")}
    assert not {name for name in names if name.endswith((".part", ".tmp")) or "overlay" in name}
    assert {"disk0.raw", "disk0.digest", "disk0.qcow2", "metal12.xml", "receipt.json", "run.json"} <= names


def test_prove_again_from_the_receipt(converted: Converted) -> None:
    """And what a person types to look at a run."""
    listed = p2v("runs", "--output", converted.folder.parent, "--json", home=converted.home).json()
    assert [(run["name"], run["state"]) for run in listed] == [("metal12", "finished")]
    shown = p2v("show", converted.folder, home=converted.home)
    assert "metal12 is now the virtual machine metal12" in shown.stdout
    assert p2v("resume", converted.folder, home=converted.home).code == 0
