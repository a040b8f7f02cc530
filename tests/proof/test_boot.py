"""Real boots in QEMU: boot sectors that show a text, as any system might, and a real Debian."""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fixtures.build import SPECS, build
from p2v import command
from p2v.accelerator import Accelerator
from p2v.errors import TargetError
from p2v.model import DiskBus, Firmware, ImageFormat, MiB, NicModel, Proof, Verdict, VirtualMachine
from p2v.proof import ISOLATED, NetworkAccess, prove
from p2v.ui import UI
from tests.conftest import need_tools
from tests.proof.machines import machine

pytestmark = [pytest.mark.boot, pytest.mark.timeout(240)]

# 16-bit code at 0x7C00: clear ax, ds and es.
CLEAR = bytes.fromhex("31c0 8ed8 8ec0 fc")
# int 13h, function 3: write what is at 0x7C00 to the second sector of the first disk; stop where that fails.
WRITE = bytes.fromhex("b80103 b90200 ba8000 bb007c cd13 7303 f4 ebfd")
# int 10h, function 0Eh: show the text behind the code, letter by letter.
SHOW = bytes.fromhex("be0000 ac 84c0 7408 b40e 31db cd10 ebf3 f4 ebfd")
# Ask the keyboard controller for a reset.
RESET = bytes.fromhex("b0fe e664 f4 ebfd")


def show(text: str) -> bytes:
    code = bytearray(SHOW)
    code[1:3] = (0x7C00 + len(CLEAR) + len(SHOW)).to_bytes(2, "little")
    return CLEAR + bytes(code) + text.encode() + b"\0"


def write_and_show(text: str) -> bytes:
    code = bytearray(SHOW)
    code[1:3] = (0x7C00 + len(CLEAR) + len(WRITE) + len(SHOW)).to_bytes(2, "little")
    return CLEAR + WRITE + bytes(code) + text.encode() + b"\0"


def boot_disk(path: Path, code: bytes) -> Path:
    path.write_bytes(code.ljust(510, b"\0") + b"\x55\xaa" + bytes(8 * MiB))
    return path


@pytest.fixture(autouse=True)
def tools() -> None:
    need_tools("qemu-system-x86_64", "qemu-img")


@pytest.fixture
def boot(tmp_path: Path) -> Callable[..., Proof]:
    def run(vm: VirtualMachine, *, timeout: float = 60, network: NetworkAccess = ISOLATED) -> Proof:
        return prove(
            vm,
            tmp_path,
            tmp_path / "proof",
            accelerator=Accelerator.TCG,
            timeout=timeout,
            ui=UI(stderr=io.StringIO()),
            network=network,
        )

    return run


@pytest.mark.parametrize(
    ("bus", "nic"),
    [
        (DiskBus.VIRTIO_BLK, NicModel.VIRTIO),
        (DiskBus.VIRTIO_SCSI, NicModel.VIRTIO),
        (DiskBus.SATA, NicModel.E1000E),
        (DiskBus.IDE, NicModel.TULIP),
        (DiskBus.LSI_SAS, NicModel.E1000),
        (DiskBus.PVSCSI, NicModel.VMXNET3),
        (DiskBus.NVME, NicModel.VIRTIO),
    ],
)
def test_every_kind_of_device_boots(
    bus: DiskBus, nic: NicModel, tmp_path: Path, boot: Callable[..., Proof]
) -> None:
    boot_disk(tmp_path / "a.raw", show("\r\nDebian GNU/Linux 12 metal12 tty1\r\n\r\nmetal12 login: "))
    result = boot(machine("a.raw", bus=bus, nic=nic))
    assert (result.verdict, result.hostname) == (Verdict.BOOTED, "metal12")
    assert (tmp_path / "proof" / result.screenshot).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("ALERT!  /dev/sda1 does not exist.  Dropping to a shell!\r\n(initramfs) ", Verdict.INITRAMFS_SHELL),
        ("error: no such device: 12-34.\r\nEntering rescue mode...\r\ngrub rescue> ", Verdict.BOOTLOADER),
        ("Give root password for maintenance\r\n", Verdict.EMERGENCY),
        ("[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n", Verdict.KERNEL_PANIC),
    ],
)
def test_failures_are_read_off_the_screen(
    text: str, verdict: Verdict, tmp_path: Path, boot: Callable[..., Proof]
) -> None:
    boot_disk(tmp_path / "a.raw", show(text))
    assert boot(machine("a.raw")).verdict is verdict


@pytest.mark.parametrize("image_format", [ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VMDK])
def test_what_the_guest_writes_never_reaches_the_image(
    image_format: ImageFormat, tmp_path: Path, boot: Callable[..., Proof]
) -> None:
    raw = boot_disk(tmp_path / "a.raw", write_and_show("metal12 login: "))
    image = tmp_path / f"image.{image_format.value}"
    words = ["qemu-img", "convert", "-f", "raw", "-O", image_format.value, raw, image]
    command.check(words, timeout=60, reason="make an image")
    image.chmod(0o444)
    before = (hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_mtime_ns)
    assert boot(machine(image.name, image_format=image_format)).verdict is Verdict.BOOTED
    assert (hashlib.sha256(image.read_bytes()).hexdigest(), image.stat().st_mtime_ns) == before
    assert sorted(path.name for path in (tmp_path / "proof").iterdir()) == [
        "screen.png",
        "serial.log",
        "verdict.json",
    ]


@pytest.mark.parametrize("firmware", list(Firmware))
def test_empty_disk(firmware: Firmware, tmp_path: Path, boot: Callable[..., Proof]) -> None:
    (tmp_path / "a.raw").write_bytes(bytes(8 * MiB))
    assert boot(machine("a.raw", firmware=firmware)).verdict is Verdict.NO_BOOT_DEVICE


def test_guest_that_restarts_for_ever(tmp_path: Path, boot: Callable[..., Proof]) -> None:
    boot_disk(tmp_path / "a.raw", CLEAR + RESET)
    result = boot(machine("a.raw"))
    assert result.verdict is Verdict.GUEST_CRASHED
    assert "restarted itself 3 times" in result.evidence
    assert "second try" in result.evidence


def test_silent_guest_runs_into_the_time_limit(tmp_path: Path, boot: Callable[..., Proof]) -> None:
    boot_disk(tmp_path / "a.raw", show("Loading, please wait"))
    started = time.monotonic()
    result = boot(machine("a.raw"), timeout=8)
    assert result.verdict is Verdict.TIMEOUT
    assert "Loading, please wait" in result.evidence
    assert time.monotonic() - started < 30


def test_emulator_that_refuses_tells_why(tmp_path: Path, boot: Callable[..., Proof]) -> None:
    boot_disk(tmp_path / "a.raw", show("metal12 login: "))
    result = boot(machine("a.raw"), network=NetworkAccess(net="nonsense"))
    assert result.verdict is Verdict.EMULATOR_FAILED
    assert "nonsense" in result.evidence or "network" in result.evidence
    assert json.loads((tmp_path / "proof/verdict.json").read_text())["verdict"] == "emulator-failed"


def test_missing_image_is_no_verdict(tmp_path: Path, boot: Callable[..., Proof]) -> None:
    with pytest.raises(TargetError, match="is not there"):
        boot(machine("nothing.raw"))


def test_no_emulator_survives(tmp_path: Path, boot: Callable[..., Proof]) -> None:
    boot_disk(tmp_path / "a.raw", show("metal12 login: "))
    boot(machine("a.raw"))
    assert not [line for line in running() if str(tmp_path) in line]


@pytest.fixture(scope="module")
def debian() -> Path:
    """A Debian whose initramfs knows only AHCI, with no serial console: all must be read off the screen."""
    need_tools("mmdebstrap", "mke2fs", "sfdisk")
    if os.geteuid() != 0:
        pytest.skip("building the disk needs root")
    return build(SPECS["debian12-bios"]).image


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("devices", "verdicts", "evidence"),
    [
        # Its network card has another name here; whether we look while systemd says so is chance.
        ((DiskBus.SATA, NicModel.E1000E), {Verdict.BOOTED, Verdict.DEGRADED}, "metal12 login:"),
        ((DiskBus.VIRTIO_BLK, NicModel.VIRTIO), {Verdict.INITRAMFS_SHELL}, "/dev/sda1 does not exist"),
    ],
)
def test_debian_that_was_not_converted(
    devices: tuple[DiskBus, NicModel], verdicts: set[Verdict], evidence: str, debian: Path, tmp_path: Path
) -> None:
    before = debian.stat()
    result = prove(
        machine(debian.name, bus=devices[0], nic=devices[1]),
        debian.parent,
        tmp_path,
        accelerator=Accelerator.TCG,
        timeout=600,
        ui=UI(stderr=io.StringIO()),
    )
    assert result.verdict in verdicts
    assert set(result.failed_units) <= {"networking.service"}
    assert evidence in result.evidence
    assert (debian.stat().st_mtime_ns, debian.stat().st_blocks) == (before.st_mtime_ns, before.st_blocks)


def running() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        except OSError:
            continue
