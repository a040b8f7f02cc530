"""Machines that are switched off, captured through the rescue system: nothing on their disks is in use.

`make test` starts one from CD on a BIOS; all other ways to start it belong to `make matrix`.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fixtures.build import BuiltDisk
from fixtures.matrix import HOSTS, build_host
from fixtures.metal import DEFAULT_HARDWARE, Metal
from fixtures.rescue import BuiltRescue, Firmware, Medium, Plugged, blank_disk, boot_rescue, rescue_build
from p2v import command
from p2v.accelerator import Accelerator
from p2v.errors import ExitCode
from p2v.journal import RECEIPT
from p2v.model import Consistency, MiB, Receipt, Verdict
from tests.conftest import need_tools
from tests.e2e.cli import p2v

pytestmark = [pytest.mark.boot, pytest.mark.timeout(2400)]

LARGEST = 400 * 10**6
MEMORY = 1024
STATIC = "10.77.0.15"


@dataclass(frozen=True, slots=True)
class Source:
    """How p2v reaches the machine."""

    url: str
    identity: Path
    known_hosts: Path

    @property
    def login(self) -> tuple[str | Path, ...]:
        return ("--identity", self.identity, "--known-hosts", self.known_hosts)


@pytest.fixture(scope="session")
def rescue() -> BuiltRescue:
    need_tools("mmdebstrap", "mksquashfs", "xorriso", "mkfs.vfat", "mcopy", "ssh-keyscan")
    return rescue_build()


def overlays(images: Sequence[Path], serials: Sequence[str], folder: Path) -> list[Plugged]:
    """Disks that tell afterwards whether anything was written to them."""
    made = []
    for image, serial in zip(images, serials, strict=True):
        file = folder / f"{image.stem}.qcow2"
        argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(image), str(file)]
        command.check(argv, timeout=60, reason="make an overlay")
        made.append(Plugged(file, serial, "qcow2"))
    return made


def untouched(disk: Plugged) -> bool:
    """No cluster was ever written, not even with what was there before."""
    argv = ["qemu-img", "check", "--output=json", str(disk.file)]
    found = json.loads(command.check(argv, timeout=120, reason="look at the overlay"))
    return int(found.get("allocated-clusters", 0)) == 0


def same(image: Path, other: Path) -> bool:
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "raw", image, other],
        capture_output=True,
        timeout=300,
        check=False,
    )
    return done.returncode == 0


@contextmanager
def started(
    disks: Sequence[Plugged],
    rescue: BuiltRescue,
    accelerator: Accelerator,
    folder: Path,
    *,
    firmware: Firmware = "bios",
    medium: Medium = "pxe",
    controller: str = "ahci",
    nic: str = "e1000e",
    arguments: str = "",
) -> Iterator[tuple[Metal, Source]]:
    """Nothing is known of the machine yet: its key is accepted as a person would, who sees it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with boot_rescue(
            disks,
            firmware=firmware,
            medium=medium,
            controller=controller,
            nic=nic,
            memory=MEMORY,
            arguments=arguments,
            rescue=rescue,
        ) as metal:
            yield metal, Source(f"ssh://root@127.0.0.1:{metal.port}", rescue.key, folder / "known_hosts")


def first_look(reached: Source, metal: Metal, home: Path) -> dict[str, Any]:
    """What the console says, word by word: the key is shown, compared, accepted, and it is that key."""
    shown = p2v("scan", reached.url, *reached.login, home=home)
    assert shown.code == ExitCode.TRANSPORT
    (fingerprint,) = set(re.findall(r"SHA256:\S+", shown.stderr))
    assert f"host key  ssh-ed25519 {fingerprint}" in metal.serial_log.read_text(errors="replace")
    looked = p2v("scan", reached.url, *reached.login, "--accept-new-host-key", "--json", home=home)
    assert looked.code == 0, looked.stderr
    machine: dict[str, Any] = looked.json()["machine"]
    return machine


def receipt_of(run: Path) -> Receipt:
    return RECEIPT.validate_json((run / "receipt.json").read_bytes())


def test_it_fits_on_a_small_stick(rescue: BuiltRescue) -> None:
    assert 50 * 10**6 < rescue.iso.stat().st_size < LARGEST
    assert rescue.kernel.stat().st_size + rescue.initrd.stat().st_size < LARGEST


@pytest.mark.matrix
@pytest.mark.parametrize(("firmware", "medium"), [("bios", "usb"), ("bios", "network"), ("uefi", "cd")])
def test_it_starts_from_every_medium(
    firmware: Firmware, medium: Medium, rescue: BuiltRescue, accelerator: Accelerator, tmp_path: Path
) -> None:
    """What the tests of captures do not start from. There is nothing else in the machine to start."""
    empty = Plugged(blank_disk(tmp_path / "empty.disk", 64 * MiB), "EMPTY0001")
    with started([empty], rescue, accelerator, tmp_path, firmware=firmware, medium=medium) as (
        metal,
        reached,
    ):
        machine = first_look(reached, metal, tmp_path / "home")
        failed = metal.ssh(["systemctl", "--failed", "--no-legend", "--plain"])
        metal.power_off()
    assert failed == ""
    assert machine["firmware"] == firmware
    assert [one["serial"] for one in machine["disks"]] == [empty.serial]


def test_a_bios_machine_that_is_off_is_captured_from_cd(
    rescue: BuiltRescue, disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path
) -> None:
    (plugged,) = overlays([disk.image], [DEFAULT_HARDWARE.disk_serial], tmp_path)
    home = tmp_path / "home"
    with started([plugged], rescue, accelerator, tmp_path, medium="cd") as (metal, reached):
        machine = first_look(reached, metal, home)
        failed = metal.ssh(["systemctl", "--failed", "--no-legend", "--plain"])
        where = ("--output", tmp_path / "runs", "--name", "cold")
        done = p2v("capture", reached.url, *where, *reached.login, "--json", home=home)
        metal.power_off()
    assert done.code == 0, done.stderr
    assert failed == ""
    assert (machine["firmware"], machine["uuid"]) == ("bios", DEFAULT_HARDWARE.uuid)
    assert [one["serial"] for one in machine["disks"]] == [DEFAULT_HARDWARE.disk_serial]
    assert machine["disks"][0]["idle"]
    receipt = receipt_of(tmp_path / "runs/cold")
    assert receipt.plan.consistency is Consistency.OFFLINE
    assert receipt.plan.machine.os is None
    assert same(disk.image, tmp_path / "runs/cold/capture/disk0.raw")
    assert untouched(plugged)


@pytest.mark.matrix
@pytest.mark.guestfs
def test_a_uefi_machine_on_lvm_is_captured_from_a_usb_stick_and_converted(
    rescue: BuiltRescue, accelerator: Accelerator, tmp_path: Path
) -> None:
    """The volume group and the swap space on its disk stay out of use, which makes it offline."""
    host = build_host(HOSTS["debian12-uefi-lvm"])
    plugged = overlays(host.images, host.serials, tmp_path)
    home = tmp_path / "home"
    with started(plugged, rescue, accelerator, tmp_path, firmware="uefi", medium="usb") as (metal, reached):
        machine = first_look(reached, metal, home)
        mapped = metal.ssh(["dmsetup", "ls"])
        where = ("--output", tmp_path / "runs", "--name", "cold")
        done = p2v("capture", reached.url, *where, *reached.login, "--json", home=home)
    assert done.code == 0, done.stderr
    made = p2v("emit", tmp_path / "runs/cold", "--to", "libvirt", "--prove", "--json", home=home)
    assert made.code == 0, made.stderr
    assert "No devices found" in mapped
    assert machine["firmware"] == "uefi"
    # The stick that it runs from is no disk of the machine.
    assert [one["serial"] for one in machine["disks"]] == list(host.serials)
    receipt = receipt_of(tmp_path / "runs/cold")
    assert receipt.plan.consistency is Consistency.OFFLINE
    proof = receipt.outputs[0].proof
    assert proof is not None
    assert (proof.verdict, proof.hostname) == (Verdict.BOOTED, host.hostname)
    assert same(host.images[0], tmp_path / "runs/cold/capture/disk0.raw")
    assert all(untouched(one) for one in plugged)


@pytest.mark.matrix
def test_halves_of_a_mirror_stay_apart_and_the_address_is_as_given(
    rescue: BuiltRescue, accelerator: Accelerator, tmp_path: Path
) -> None:
    """From the network, on another controller and card."""
    host = build_host(HOSTS["debian12-md"])
    plugged = overlays(host.images, host.serials, tmp_path)
    home = tmp_path / "home"
    arguments = f"ip={STATIC}/24,10.77.0.2,10.77.0.3"
    with started(
        plugged, rescue, accelerator, tmp_path, controller="megasas", nic="vmxnet3", arguments=arguments
    ) as (metal, reached):
        machine = first_look(reached, metal, home)
        network = metal.ssh(["ip", "-4", "-o", "addr", "show", "scope", "global"])
        resolver = metal.ssh(["cat", "/etc/resolv.conf"])
        arrays = metal.ssh(["cat", "/proc/mdstat"]) if "md_mod" in metal.ssh(["lsmod"]) else ""
        where = ("--output", tmp_path / "runs", "--name", "cold", "--dry-run", "--json")
        planned = p2v("capture", reached.url, *where, *reached.login, home=home)
    assert f"{STATIC}/24" in network
    assert "dynamic" not in network
    assert "10.77.0.3" in resolver
    assert "md" not in arrays.partition("\n")[2].split("unused")[0]
    assert sorted(one["serial"] for one in machine["disks"]) == sorted(host.serials)
    assert planned.code == 0, planned.stderr
    assert planned.json()["consistency"] == Consistency.OFFLINE
    assert all(untouched(one) for one in plugged)
