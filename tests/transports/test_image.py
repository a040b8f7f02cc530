"""Images as sources: every format gives the bytes of the raw one, and what is no image is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.copy import ImageFiles, capture_disk
from p2v.disk.used import disk_map
from p2v.errors import P2VError, TransportError, UsageError
from p2v.model import Firmware, ImageFormat, MiB
from p2v.transports import SshOptions, open_transport
from p2v.transports.image import image_format
from tests.conftest import need_tools
from tests.disk.images import partitioned

pytestmark = pytest.mark.tools

FORMATS = [each for each in ImageFormat if each is not ImageFormat.RAW]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A GPT disk with an EFI system partition, and random bytes in it."""
    need_tools("sfdisk", "qemu-img", "qemu-nbd")
    path = partitioned(tmp_path / "disk.raw", "label: gpt\n,20M,U\n,,L\n", 64 * MiB)
    with path.open("r+b") as handle:
        handle.seek(2 * MiB)
        handle.write(os.urandom(3 * MiB))
    return path


def converted(raw: Path, kind: ImageFormat) -> Path:
    path = raw.with_suffix(f".{kind.name.lower()}")
    words = ["qemu-img", "convert", "-f", "raw", "-O", kind.value, raw, path]
    command.check(words, timeout=60, reason="convert")
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_bytes(raw: Path, kind: ImageFormat) -> None:
    need_tools("qemu-img")
    image = converted(raw, kind)
    assert image_format(image) is kind
    files = ImageFiles(raw.with_name("copy.raw"), raw.with_name("copy.digest"))
    with open_transport(str(image), SshOptions()) as transport:
        machine = transport.survey().machine
        (disk,) = machine.disks
        with transport.open_disk(disk) as device:
            whole = device.read(0, 64 * MiB)
            capture_disk(device, disk_map(device, disk).extents, files, progress=lambda _: None)
            with pytest.raises(TransportError, match="outside"):
                device.read(device.size, 1)
    assert whole == raw.read_bytes()
    assert machine.firmware is Firmware.UEFI
    assert not machine.live
    assert files.partial_image.read_bytes()[: 22 * MiB] == raw.read_bytes()[: 22 * MiB]


def test_an_overlay_is_refused_because_it_names_files_of_this_machine(raw: Path) -> None:
    overlay = raw.with_name("overlay.qcow2")
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(raw), str(overlay)]
    command.check(words, timeout=60, reason="make an overlay")
    with pytest.raises(UsageError, match="overlay") as refused:
        image_format(overlay)
    assert "qemu-img convert" in refused.value.hint


@pytest.mark.parametrize("name", ["missing.img", "."])
def test_what_is_no_image(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        image_format(tmp_path / name)


def test_a_damaged_image_is_an_error_with_words(raw: Path) -> None:
    image = converted(raw, ImageFormat.QCOW2)
    with image.open("r+b") as handle:
        handle.seek(24)
        handle.write(b"\xff" * 40)
    with pytest.raises(P2VError), open_transport(str(image), SshOptions()) as transport:
        transport.survey()


def test_the_images_of_one_machine_keep_their_order_and_their_names(raw: Path) -> None:
    second = partitioned(raw.with_name("second.raw"), "label: dos\n,,L\n", 32 * MiB)
    with open_transport(f"sdb={second},/dev/sda={raw}", SshOptions()) as transport:
        machine = transport.survey().machine
        first, other = machine.disks
        with transport.open_disks((other, first)) as (whole, small):
            assert (whole.size, small.size) == (64 * MiB, 32 * MiB)
            assert whole.read(2 * MiB, MiB) == raw.read_bytes()[2 * MiB : 3 * MiB]
    assert [disk.names for disk in machine.disks] == [("/dev/sdb",), ("/dev/sda",)]
    assert (machine.firmware, machine.hostname) == (Firmware.UEFI, "second")


def test_commas_and_equal_signs_in_the_name_of_a_file(tmp_path: Path) -> None:
    odd = partitioned(tmp_path / "sda=one,two.raw", "label: dos\n,,L\n", 32 * MiB)
    with open_transport(str(odd), SshOptions()) as transport:
        (disk,) = transport.survey().machine.disks
    assert (disk.path, disk.names) == (str(odd), ())


@pytest.mark.parametrize("source", ["{0},{0}", "sda={0},sda={0}.other"])
def test_a_disk_that_stands_twice(raw: Path, source: str) -> None:
    with pytest.raises(UsageError, match="twice"), open_transport(source.format(raw), SshOptions()):
        pass
