"""Images that are whole, and those that are not; with tables that tools made which nobody here wrote."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.device import open_file_device
from p2v.disk.nbd import serve_image
from p2v.disk.used import inspect_disk
from p2v.errors import PlanRefused, UsageError
from p2v.model import Disk, ImageFormat, MiB
from p2v.restore.job import Kind, RestoreJob, restore_job_from_json
from p2v.restore.model import SourceDisk
from p2v.restore.sources import missing_end, require_unused, require_whole
from tests.conftest import need_tools

SIZE = 64 * MiB


def make_disk(path: Path, label: str) -> Path:
    need_tools("sfdisk", "mke2fs")
    with path.open("wb") as file:
        file.truncate(SIZE)
    if label == "ext4":
        tool(["mke2fs", "-q", "-F", "-t", "ext4", str(path)])
    else:
        tool(
            ["sfdisk", "--quiet", str(path)],
            f"label: {label}\nstart=2048,size=65536\nstart=67584,size=20480\n",
        )
    return path


def tool(words: list[str], text: str | None = None) -> None:
    found = command.need_tool(words[0], reason="make a disk", package="fdisk e2fsprogs")
    command.check([found, *words[1:]], timeout=30, reason="make a disk", input_text=text)


def reason(path: Path) -> str:
    with open_file_device(path) as device:
        return missing_end(device, Disk(str(path), device.size))


@pytest.mark.tools
@pytest.mark.parametrize("label", ["gpt", "dos", "ext4"])
def test_a_whole_disk_is_whole_and_any_cut_is_noticed(tmp_path: Path, label: str) -> None:
    path = make_disk(tmp_path / "disk.raw", label)
    assert reason(path) == ""
    # GPT reaches to the last sector; the table of a BIOS only as far as its partitions.
    last = SIZE - 512 if label != "dos" else 43 * MiB - 512
    for size in (last, 40 * MiB, 8 * MiB):
        with path.open("r+b") as file:
            file.truncate(size)
        assert reason(path), size


@pytest.mark.tools
def test_an_image_shorter_than_its_disk_is_refused(tmp_path: Path) -> None:
    path = make_disk(tmp_path / "disk.raw", "dos")
    with open_file_device(path) as device:
        disk = inspect_disk(device, Disk(str(path), SIZE))
    require_whole(SourceDisk(path, ImageFormat.RAW, disk))
    with path.open("r+b") as file:
        file.truncate(SIZE - 512)
    with pytest.raises(PlanRefused, match="cut short"):
        require_whole(SourceDisk(path, ImageFormat.RAW, disk))


def test_a_job_survives_its_journal(tmp_path: Path) -> None:
    job = RestoreJob(
        Kind.RESTORE, "sda=/a,sdb=/b", "ssh://rescue", tmp_path, disks=("0=S3",), erase=("S3",), shrink=True
    )
    assert restore_job_from_json(job.to_json(), where=tmp_path) == job
    with pytest.raises(UsageError):
        restore_job_from_json({"kind": "conversion"}, where=tmp_path)


@pytest.mark.tools
@pytest.mark.parametrize("kind", [ImageFormat.RAW, ImageFormat.QCOW2])
def test_an_image_that_a_virtual_machine_writes_to_is_refused(tmp_path: Path, kind: ImageFormat) -> None:
    need_tools("qemu-img", "qemu-nbd", "qemu-system-x86_64")
    image = tmp_path / f"disk.{kind}"
    tool(["qemu-img", "create", "-q", "-f", kind.value, str(image), str(SIZE)])
    require_unused(image)
    with switched_on(image, kind), pytest.raises(PlanRefused, match="is in use") as refused:
        require_unused(image)
    assert "Shut the virtual machine down" in refused.value.hint
    with serve_image(image, kind):
        require_unused(image)


@contextmanager
def switched_on(image: Path, kind: ImageFormat) -> Iterator[None]:
    """A machine with this disk, whose processor never starts."""
    drive = f"file={image},format={kind},if=none,id=disk"
    words = ["-S", "-nodefaults", "-display", "none", "-M", "q35,accel=tcg", "-m", "16"]
    words += ["-drive", drive, "-device", "virtio-blk-pci,drive=disk", "-monitor", "stdio"]
    argv = [command.need_tool("qemu-system-x86_64", reason="run", package="qemu-system-x86"), *words]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        try:
            assert machine.stdin
            assert machine.stdout
            machine.stdin.write(b"info status\n")
            machine.stdin.flush()
            assert any(b"VM status" in line for line in machine.stdout)
            yield
        finally:
            machine.kill()
