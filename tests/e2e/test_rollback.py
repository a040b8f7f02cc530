"""A machine of metal in the rescue system: captured, spoiled, interrupted, taken back, and started again.

What is refused leaves the disk as it was, which its hash shows. Ten minutes in emulation: for `make matrix`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.build import BuiltDisk
from fixtures.metal import DEFAULT_HARDWARE, Metal, start_metal
from fixtures.rescue import Plugged, blank_disk, boot_rescue, filled_disk
from p2v import command
from p2v.accelerator import Accelerator
from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.model import Disk, KiB, LicenseUse, MiB
from p2v.run import open_run
from tests.conftest import need_tools
from tests.e2e.cli import Answer, kill_in, p2v, started, wait_for_phase
from tests.lines import Proxy

pytestmark = [pytest.mark.boot, pytest.mark.tools, pytest.mark.matrix, pytest.mark.timeout(2400)]

SERIAL, SPARE = "S3Z8NB0K123456", "SPARE0001"
SPARE_SIZE = 64 * MiB
PIECE = 64 * KiB


@dataclass(frozen=True, slots=True)
class Rescued:
    """The machine in its rescue system, with a run that was captured from it."""

    metal: Metal
    folder: Path
    source: BuiltDisk

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "metal12"

    def to(self, port: int) -> list[str | Path]:
        known_hosts = self.folder / f"known_hosts.{port}"
        known_hosts.write_text(f"[127.0.0.1]:{port} {self.metal.host_key}\n")
        assert self.metal.key
        return [
            "--to",
            f"ssh://root@127.0.0.1:{port}",
            "--identity",
            self.metal.key,
            "--known-hosts",
            known_hosts,
        ]

    def rollback(self, *words: str | Path, port: int = 0) -> list[str | Path]:
        return ["rollback", self.run, *self.to(port or self.metal.port), *words]

    def restore(self, image: Path, *words: str) -> Answer:
        arguments: list[str | Path] = ["restore", image, "--as-is", "--output", self.folder / "restores"]
        return p2v(*arguments, *self.to(self.metal.port), *words, home=self.home)

    def hash(self, path: str) -> str:
        return self.metal.ssh(["sha256sum", path], timeout=600).split()[0]

    def path_of(self, serial: str) -> str:
        said = json.loads(self.metal.ssh(["lsblk", "--json", "--nodeps", "-o", "PATH,SERIAL"]))
        return str(next(one["path"] for one in said["blockdevices"] if one["serial"] == serial))


@contextmanager
def rescued(disk: Path, source: BuiltDisk, folder: Path) -> Iterator[Rescued]:
    spare = blank_disk(folder / "spare.disk", SPARE_SIZE)
    spare.write_bytes(random.Random(1).randbytes(SPARE_SIZE))
    with boot_rescue([Plugged(disk, SERIAL), Plugged(spare, SPARE)]) as metal:
        yield Rescued(metal, folder, source)


def test_there_and_back(disk: BuiltDisk, accelerator: Accelerator, tmp_path: Path) -> None:
    need_tools("ssh-keyscan", "sfdisk", "mkfs.vfat")
    own = filled_disk(disk.image, tmp_path / "own.disk")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with rescued(own, disk, tmp_path) as machine:
            capture(machine)
            nothing_is_touched(machine)
            changed = spoil(machine)
            only_that_goes_back(machine, changed)
            interrupted_and_repeated(machine)
            machine.metal.ssh(["sync"])
        hardware = replace(DEFAULT_HARDWARE, disk_serial=SERIAL)
        with start_metal(
            own, in_place=True, key=disk.key, host_key=disk.host_key, hardware=hardware
        ) as metal:
            metal.wait_for_ssh()
            assert metal.ssh(["hostname"]).strip() == disk.hostname
            assert metal.ssh(["systemctl", "--failed", "--no-legend"]).strip() == ""


def capture(machine: Rescued) -> None:
    """Offline, and then paid for as by a conversion, whose own images nobody needs here."""
    login = machine.to(machine.metal.port)[1:]
    words: list[str | Path] = [
        "--output",
        machine.run.parent,
        "--name",
        machine.run.name,
        "--disk",
        SERIAL,
        "--json",
    ]
    done = p2v("capture", *login, *words, home=machine.home)
    assert done.code == 0, done.stderr
    assert done.json()["capture"]["reached"]["grade"] == "offline"
    with open_run(machine.run) as held:
        receipt = held.receipt()
        assert receipt is not None
        held.write_receipt(replace(receipt, license=LicenseUse("committed", "evaluation", 1, 4)))


def spoil(machine: Rescued) -> int:
    """Write into 1 % of what is used, all over the disk; bytes."""
    with open_file_device(machine.run / "capture" / "disk0.raw") as device:
        used = disk_map(device, Disk("disk", device.size))
    places = [
        at for one in used.extents for at in range(-(-one.start // PIECE) * PIECE, one.end - PIECE, PIECE)
    ]
    chosen = random.Random(2).sample(places, used.data_size // 100 // PIECE)
    script = (
        "import os, json, sys\n"
        "disk = os.open(sys.argv[1], os.O_WRONLY)\n"
        f"for at in json.load(sys.stdin): os.pwrite(disk, os.urandom({PIECE}), at)\n"
        "os.fsync(disk)\n"
    )
    path = machine.path_of(SERIAL)
    file = machine.folder / "places.json"
    file.write_text(json.dumps(chosen))
    argv = [
        *machine.metal.ssh_command(),
        "--",
        f"cat > /run/places; python3 -c '{script}' {path} < /run/places",
    ]
    command.check(argv, timeout=300, reason="spoil the disk", input_text=json.dumps(chosen))
    return len(chosen) * PIECE


def only_that_goes_back(machine: Rescued, changed: int) -> None:
    forecast = p2v(*machine.rollback("--check", "--json"), home=machine.home)
    assert forecast.code == 0, forecast.stderr
    assert forecast.json()["differing_size"] == changed
    done = p2v(*machine.rollback("--yes", "--json"), home=machine.home)
    assert done.code == 0, done.stderr
    receipt = done.json()
    print(f"changed {changed}, sent {receipt['disks'][0]}, forecast {forecast.json()['seconds']} s")
    assert receipt["disks"][0]["sent_size"] == changed
    assert receipt["disks"][0]["wire_size"] <= 1.1 * changed
    assert receipt["license"]["units"] == 0


def interrupted_and_repeated(machine: Rescued) -> None:
    """Killed while it writes; then the line breaks; at the end nothing differs any more."""
    changed = spoil(machine)
    journal = machine.run.parent / "metal12-rollback-2" / "write" / "disk0.written"
    kill_in(
        "Writing", *machine.rollback("--yes"), home=machine.home,
        when=lambda: journal.exists() and journal.stat().st_size > 0,
    )  # fmt: skip
    with (
        closing(Proxy(machine.metal.port)) as proxy,
        started(*machine.rollback("--yes", port=proxy.port), home=machine.home) as child,
    ):
        wait_for_phase(child, "Writing", after=1)
        proxy.reset()
        _, said = child.communicate(timeout=600)
        assert child.returncode == 0, said
        assert "trying again" in said
    left = p2v(*machine.rollback("--check", "--json"), home=machine.home)
    assert left.json()["differing_size"] == 0
    assert changed > 0


def nothing_is_touched(machine: Rescued) -> None:
    """Every refusal, with the hash of the disk that it is about."""
    image = small_image(machine.folder / "small.img", "83")
    uefi = small_image(machine.folder / "uefi.img", "uefi", label="gpt")
    cut = machine.folder / "cut.img"
    cut.write_bytes(image.read_bytes()[: 20 * MiB])
    chosen = ["--disk", f"0={SPARE}"]
    confirmed = [*chosen, "--erase", SPARE]
    path = machine.path_of(SPARE)
    before = machine.hash(path)
    for case, words, said in (
        (image, ["--disk", "0=WRONG", "--erase", "WRONG"], "No disk of the machine"),
        (image, chosen, "nobody has confirmed"),
        (machine.source.image, confirmed, "too small"),
        (uefi, confirmed, "UEFI"),
        (cut, confirmed, "cut short"),
    ):
        refused(machine.restore(case, *words), said)
    assert machine.hash(path) == before
    machine.metal.ssh(["sh", "-c", f"mkfs.ext4 -q -F {path} && mount -o ro {path} /mnt"])
    before = machine.hash(path)
    refused(machine.restore(image, *confirmed), "in use")
    assert machine.hash(path) == before
    machine.metal.ssh(["umount", "/mnt"])


def refused(answer: Answer, said: str) -> Any:
    assert answer.code == 3, answer.stderr
    assert said in answer.stderr


def small_image(path: Path, kind: str, *, label: str = "dos") -> Path:
    """32 MiB with one partition."""
    blank_disk(path, 32 * MiB)
    words = f"label: {label}\nstart=2048,size=40960,type={'U' if kind == 'uefi' else kind}\n"
    tool = command.need_tool("sfdisk", reason="make a disk", package="fdisk")
    command.check([tool, "--quiet", path], timeout=30, reason="partition", input_text=words)
    return path
