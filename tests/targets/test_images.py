"""Images as others read them: qemu-img, libvhdi, tar; and what happens when they cannot be written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import resource
import stat
import struct
import tarfile
import time
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.digests import DigestTable
from p2v.errors import TargetError, VerifyError
from p2v.model import BLOCK_SIZE, DiskBus, Image, ImageFormat, KiB, MiB, TiB, VirtualDisk
from p2v.proof.qemu import Scratch, make_overlays
from p2v.targets import find_target, images
from p2v.targets.images import ImageJob, make_overlay, write_image, write_images
from p2v.targets.overlay_reader import OverlayReader, Piece, open_overlay
from p2v.targets.packages import write_packages
from p2v.targets.readback import compare_used
from p2v.targets.virtualbox import disk_uuid
from p2v.targets.vmdk_stream import write_stream
from tests.conftest import need_tools
from tests.targets.machines import machine, target_for

pytestmark = [pytest.mark.tools, pytest.mark.timeout(120)]

SIZE = 200 * MiB + 17 * 512
"""Odd: not on a cluster, a grain or a cylinder of any format."""

KINDS = [
    (ImageFormat.RAW, ""),
    (ImageFormat.QCOW2, ""),
    (ImageFormat.VMDK, "monolithicSparse"),
    (ImageFormat.VMDK, "monolithicFlat"),
    (ImageFormat.VMDK, "vmfs"),
    (ImageFormat.VMDK, "streamOptimized"),
    (ImageFormat.VHD, "dynamic"),
    (ImageFormat.VHD, "fixed"),
    (ImageFormat.VHD, "dynamic-chs"),
    (ImageFormat.VHD, "fixed-chs"),
    (ImageFormat.VHDX, "dynamic"),
    (ImageFormat.VHDX, "fixed"),
    (ImageFormat.VDI, ""),
    (ImageFormat.VDI, "fixed"),
]


@pytest.fixture(scope="module")
def content() -> bytes:
    """What is on the disk, by place; all else is zero. The last sector is used."""
    return random.Random(7).randbytes(3 * MiB)


@pytest.fixture(scope="module")
def overlay(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    """A disk as it is after a conversion: a capture with holes, and changes in an overlay."""
    need_tools("qemu-img", "qemu-io")
    folder = tmp_path_factory.mktemp("disk")
    capture = folder / "disk0.raw"
    with capture.open("wb") as file:
        file.truncate(SIZE)
        os.pwrite(file.fileno(), content[: 2 * MiB], 0)
        os.pwrite(file.fileno(), content[: 300 * KiB], 77 * MiB + 512)
        os.pwrite(file.fileno(), content[-512:], SIZE - 512)
    made = folder / "overlay.qcow2"
    make_overlay(capture, made)
    changes = ["write -P 0x5a 1M 70k", "write -z 1536k 64k", "write -P 0x33 150M 4k"]
    words = [word for change in changes for word in ("-c", change)]
    command.check(["qemu-io", *words, made], timeout=30, reason="change the disk")
    return made


@pytest.fixture(scope="module")
def expected(overlay: Path) -> bytes:
    """The whole disk, flattened by qemu-img."""
    flat = overlay.with_name("flat.raw")
    command.check(["qemu-img", "convert", "-O", "raw", overlay, flat], timeout=60, reason="flatten")
    return flat.read_bytes()


def disk_of(image_format: ImageFormat, subformat: str) -> VirtualDisk:
    return VirtualDisk(f"disk0.{image_format.suffix}", image_format, SIZE, DiskBus.SATA, "", subformat)


def write(overlay: Path, folder: Path, image_format: ImageFormat, subformat: str) -> tuple[Image, ...]:
    return write_images([ImageJob(overlay, folder, disk_of(image_format, subformat))])


@pytest.mark.parametrize(("image_format", "subformat"), KINDS)
def test_qemu_img_reads_the_same(
    image_format: ImageFormat, subformat: str, overlay: Path, expected: bytes, tmp_path: Path
) -> None:
    written = write(overlay, tmp_path, image_format, subformat)
    image = tmp_path / written[0].path
    back = tmp_path / "back.raw"
    convert = ["qemu-img", "convert", "-f", image_format.value, "-O", "raw", str(image), str(back)]
    command.check(convert, timeout=60, reason="read it")
    read = back.read_bytes()
    assert read[:SIZE] == expected
    assert not any(read[SIZE:])
    if image_format not in (ImageFormat.RAW, ImageFormat.VHD):
        said = command.check(["qemu-img", "check", "--output=json", image], timeout=60, reason="check")
        assert not {"corruptions", "leaks"} & {key for key, value in json.loads(said).items() if value}
    assert {path.name for path in tmp_path.iterdir()} == {each.path for each in written} | {"back.raw"}
    for each in written:
        assert stat.S_IMODE((tmp_path / each.path).stat().st_mode) == 0o600
        assert (tmp_path / each.path).stat().st_size == each.size


@pytest.mark.parametrize(("image_format", "subformat"), KINDS)
def test_digests(image_format: ImageFormat, subformat: str, overlay: Path, tmp_path: Path) -> None:
    """That of the file; of a file that is mostly holes, that over its blocks, as a capture has it."""
    sparse = image_format is ImageFormat.RAW or subformat.startswith(("fixed", "monolithicFlat", "vmfs"))
    for number, each in enumerate(write(overlay, tmp_path, image_format, subformat)):
        data = (tmp_path / each.path).read_bytes()
        is_descriptor = number == 0 and subformat in ("monolithicFlat", "vmfs")
        wanted = by_blocks(data) if sparse and not is_descriptor else hashlib.sha256(data).hexdigest()
        assert each.digest == wanted


def by_blocks(data: bytes) -> str:
    table = DigestTable(len(data))
    for index, digest in enumerate(block_digests(data)):
        table[index] = digest
    return table.summary


def block_digests(data: bytes) -> list[bytes]:
    return [hashlib.sha256(data[at : at + BLOCK_SIZE]).digest() for at in range(0, len(data), BLOCK_SIZE)]


@pytest.mark.parametrize("subformat", ["", "fixed"])
def test_holes_stay_holes(subformat: str, overlay: Path, tmp_path: Path) -> None:
    image_format = ImageFormat.VHD if subformat else ImageFormat.RAW
    (image,) = write(overlay, tmp_path, image_format, subformat)
    assert (tmp_path / image.path).stat().st_blocks * 512 < 10 * MiB
    assert image.size >= SIZE


@pytest.mark.parametrize(
    ("image_format", "subformat"),
    [each for each in KINDS if each[0] in (ImageFormat.VHD, ImageFormat.VHDX) and each[1] != "fixed-chs"],
)
def test_libvhdi_reads_the_same(
    image_format: ImageFormat, subformat: str, overlay: Path, expected: bytes, tmp_path: Path
) -> None:
    import pyvhdi

    (image,) = write(overlay, tmp_path, image_format, subformat)
    file = pyvhdi.file()
    file.open(str(tmp_path / image.path))
    try:
        size = file.get_media_size()
        assert size >= SIZE
        if not subformat.endswith("-chs"):
            assert size == SIZE
        data = b"".join(file.read_buffer(min(4 * MiB, SIZE - at)) for at in range(0, SIZE, 4 * MiB))
        assert data == expected
        kinds = {"dynamic": 3, "fixed": 2}
        assert file.get_disk_type() == kinds[subformat.removesuffix("-chs")]
    finally:
        file.close()


@pytest.mark.parametrize("subformat", ["dynamic-chs", "fixed-chs"])
def test_size_follows_from_the_geometry(subformat: str, overlay: Path, tmp_path: Path) -> None:
    """Virtual Server takes cylinders x heads x sectors for the size of the disk: none may be cut off."""
    (image,) = write(overlay, tmp_path, ImageFormat.VHD, subformat)
    footer = (tmp_path / image.path).read_bytes()[-512:]
    assert footer[:8] == b"conectix"
    size = struct.unpack_from(">Q", footer, 48)[0]
    cylinders, heads, sectors = struct.unpack_from(">HBB", footer, 56)
    assert cylinders * heads * sectors * 512 == size >= SIZE
    checksum = struct.unpack_from(">I", footer, 64)[0]
    assert checksum == ~sum(footer[:64] + footer[68:]) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("subformat", "kind", "extent"),
    [
        ("vmfs", 'createType="vmfs"', f'RW {SIZE // 512} VMFS "disk0-flat.vmdk"'),
        ("monolithicFlat", 'createType="monolithicFlat"', f'RW {SIZE // 512} FLAT "disk0-flat.vmdk" 0'),
    ],
)
def test_flat_descriptor(subformat: str, kind: str, extent: str, overlay: Path, tmp_path: Path) -> None:
    descriptor, data = write(overlay, tmp_path, ImageFormat.VMDK, subformat)
    lines = (tmp_path / descriptor.path).read_text().splitlines()
    assert kind in lines
    assert extent in lines
    assert 'ddb.adapterType = "lsilogic"' in lines
    assert (data.path, data.size) == ("disk0-flat.vmdk", SIZE)


def test_ide_disks_say_so(overlay: Path, tmp_path: Path) -> None:
    for kind in ("monolithicSparse", "monolithicFlat"):
        disk = VirtualDisk("disk0.vmdk", ImageFormat.VMDK, SIZE, DiskBus.IDE, "", kind)
        write_images([ImageJob(overlay, tmp_path, disk)])
        assert b'ddb.adapterType = "ide"' in (tmp_path / "disk0.vmdk").read_bytes()[:65536]


def test_several_at_once(overlay: Path, tmp_path: Path) -> None:
    jobs = []
    for name, image_format in (("a", ImageFormat.QCOW2), ("b", ImageFormat.VHDX), ("c", ImageFormat.RAW)):
        (tmp_path / name).mkdir()
        jobs.append(ImageJob(overlay, tmp_path / name, disk_of(image_format, "")))
    written = write_images(jobs)
    assert [image.path for image in written] == ["disk0.qcow2", "disk0.vhdx", "disk0.raw"]
    for job, image in zip(jobs, written, strict=True):
        assert (job.folder / image.path).is_file()


def write_together(
    names: Sequence[str], folders: Sequence[Path], overlays: Sequence[Path]
) -> tuple[tuple[Image, ...], ...]:
    """The same machine for each target, into a folder for each."""
    with ExitStack() as stack:
        packages = []
        for words, folder in zip(names, folders, strict=True):
            target = target_for(words)
            vm = machine(target, disks=len(overlays), size=SIZE)
            packages.append(stack.enter_context(target.begin(vm, folder)))
        return write_packages(packages, overlays)


def test_a_disk_is_read_once_for_all_targets(
    overlay: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Side by side: an OVA, an OVF, raw, flat and fixed images out of one pass; a process for qcow2."""
    names = ("vmware:ova", "vmware:ovf", "libvirt:raw", "vmware", "hyperv:vhd,fixed", "proxmox")
    read = 0
    fill = OverlayReader._fill

    def counted(self: OverlayReader, view: memoryview, piece: Piece, at: int) -> None:
        nonlocal read
        read += len(view)
        fill(self, view, piece, at)

    monkeypatch.setattr(OverlayReader, "_fill", counted)
    folders = [tmp_path / str(number) for number in range(len(names))]
    for folder in folders:
        folder.mkdir()
    written = write_together(names, folders, [overlay, overlay])
    with open_overlay(overlay) as reader:
        assert read == 2 * reader.used
    assert [len(images) for images in written] == [1, 2, 2, 4, 2, 2]
    with tarfile.open(folders[0] / "web01.ova") as tar:
        (folders[0] / "disk1.vmdk").write_bytes(read_member(tar, tar.getmember("disk1.vmdk")))
    for folder, disk in zip(
        folders,
        ("disk1.vmdk", "disk1.vmdk", "disk1.raw", "disk1-flat.vmdk", "disk1.vhd", "disk1.qcow2"),
        strict=True,
    ):
        kind = {"vmdk": "vmdk", "raw": "raw", "vhd": "vpc", "qcow2": "qcow2"}[disk.partition(".")[2]]
        argv = ["qemu-img", "convert", "-f", "raw" if "flat" in disk else kind, "-O", "raw"]
        command.check([*argv, folder / disk, folder / "back"], timeout=60, reason="read it")
        assert (folder / "back").read_bytes()[:SIZE] == expected


def test_one_that_cannot_be_written_is_named(overlay: Path, tmp_path: Path) -> None:
    """And leaves none of the others half made under its name."""
    folders = [tmp_path / "good", tmp_path / "bad"]
    for folder in folders:
        folder.mkdir()
    (tmp_path / "bad" / "web01.ova.part").mkdir()
    with pytest.raises(TargetError, match=r"bad/web01\.ova\.part"):
        write_together(("libvirt:raw", "vmware:ova"), folders, [overlay])
    assert not list(folders[0].iterdir())


def test_the_short_way(overlay: Path, tmp_path: Path) -> None:
    image = write_image(overlay, tmp_path / "disk0.qcow2", ImageFormat.QCOW2)
    assert image.digest == hashlib.sha256((tmp_path / "disk0.qcow2").read_bytes()).hexdigest()


@pytest.mark.parametrize("image_format", [ImageFormat.QCOW2, ImageFormat.VHDX, ImageFormat.VDI])
def test_an_image_that_differs_gets_no_name(image_format: ImageFormat, overlay: Path, tmp_path: Path) -> None:
    def damage(disk: VirtualDisk, path: Path) -> None:
        with path.open("r+b") as file:
            at = file.read().index(b"\x33" * 4096)
            os.pwrite(file.fileno(), b"\x34", at + 100)

    job = ImageJob(overlay, tmp_path, disk_of(image_format, ""))
    with pytest.raises(VerifyError, match="differs"):
        write_images([job], mark=damage)
    assert not (tmp_path / job.disk.file).exists()


def test_what_cannot_be_written(overlay: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.qcow2"
    with pytest.raises(TargetError, match="missing"):
        write_images([ImageJob(missing, tmp_path, disk_of(ImageFormat.QCOW2, ""))])
    stream = disk_of(ImageFormat.VMDK, "streamOptimized")
    with pytest.raises(TargetError, match="missing"):
        write_images([ImageJob(missing, tmp_path, stream)])
    assert not (tmp_path / "disk0.qcow2").exists()
    assert not (tmp_path / "disk0.vmdk").exists()


@pytest.mark.parametrize(("image_format", "subformat"), KINDS)
def test_no_space(image_format: ImageFormat, subformat: str, overlay: Path, tmp_path: Path) -> None:
    """As on a full disk: no file may become larger than the limit, and none is left under its name."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MiB, hard))
    try:
        with pytest.raises(TargetError, match=r"disk0"):
            write(overlay, tmp_path, image_format, subformat)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert all(path.name.endswith(".part") for path in tmp_path.iterdir())


def test_no_space_for_an_ova(overlay: Path, tmp_path: Path) -> None:
    target = target_for("vmware:ova")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MiB, hard))
    try:
        with pytest.raises(TargetError, match=r"web01\.ova"):
            target.write(machine(target, size=SIZE), [overlay], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "web01.ova").exists()


def test_a_child_that_fails_is_heard(overlay: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "format_options", lambda disk: ["no_such_option=1"])
    with pytest.raises(TargetError, match="no_such_option"):
        write(overlay, tmp_path, ImageFormat.QCOW2, "")


def test_virtualbox_finds_its_disk_by_uuid(overlay: Path, tmp_path: Path) -> None:
    """VirtualBox refuses a disk whose header has another UUID than its settings."""
    target = target_for("virtualbox")
    vm = machine(target, size=SIZE)
    (image,) = target.write(vm, [overlay], tmp_path)
    header = (tmp_path / image.path).read_bytes()[:512]
    assert struct.unpack_from("<I", header, 0x40)[0] == 0xBEDA107F
    assert uuid.UUID(bytes_le=header[0x188:0x198]) == disk_uuid(vm, vm.disks[0])
    assert image.digest == hashlib.sha256((tmp_path / image.path).read_bytes()).hexdigest()
    assert f"{{{disk_uuid(vm, vm.disks[0])}}}" in target.render(vm, tmp_path)[0].text


@pytest.mark.parametrize("words", ["vmware:ova", "virtualbox:ova"])
def test_ova_is_one_tar(words: str, overlay: Path, expected: bytes, tmp_path: Path) -> None:
    target = target_for(words)
    vm = machine(target, disks=2, size=SIZE)
    (image,) = target.write(vm, [overlay, overlay], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"web01.ova"} == {image.path}
    with tarfile.open(tmp_path / "web01.ova") as tar:
        members = tar.getmembers()
        assert [each.name for each in members] == ["web01.ovf", "web01.mf", "disk0.vmdk", "disk1.vmdk"]
        files = {each.name: read_member(tar, each) for each in members}
    lines = files["web01.mf"].decode().splitlines()
    listed = dict(line.removeprefix("SHA256(").split(")= ") for line in lines)
    assert listed == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != "web01.mf"
    }
    assert f'size="{len(files["disk0.vmdk"])}"' in files["web01.ovf"].decode()
    (tmp_path / "disk1.vmdk").write_bytes(files["disk1.vmdk"])
    command.check(
        ["qemu-img", "compare", "-f", "qcow2", "-F", "vmdk", overlay, tmp_path / "disk1.vmdk"],
        timeout=60,
        reason="compare",
    )


def read_member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None
    return file.read()


def test_the_proof_reads_a_disk_in_its_ova(overlay: Path, expected: bytes, tmp_path: Path) -> None:
    target = target_for("vmware:ova")
    vm = machine(target, disks=2, size=SIZE)
    target.write(vm, [overlay, overlay], tmp_path)
    scratch = Scratch(tmp_path / "scratch")
    scratch.folder.mkdir()
    make_overlays(vm, tmp_path, scratch)
    back = tmp_path / "back.raw"
    words = ["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(scratch.overlay(1)), str(back)]
    command.check(words, timeout=60, reason="read it")
    assert back.read_bytes() == expected
    (tmp_path / "web01.ova").write_bytes(b"no tar" * 1000)
    with pytest.raises(TargetError, match=r"web01\.ova"):
        make_overlays(vm, tmp_path, scratch)
    (tmp_path / "web01.ova").unlink()
    with pytest.raises(TargetError, match=r"disk0\.vmdk is not there"):
        make_overlays(vm, tmp_path, scratch)


def test_ovf_in_pieces(overlay: Path, tmp_path: Path) -> None:
    target = target_for("vmware:ovf")
    vm = machine(target, size=SIZE)
    (image,) = target.write(vm, [overlay], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"web01.ovf", "web01.mf", "disk0.vmdk"}
    assert image.digest == hashlib.sha256((tmp_path / "disk0.vmdk").read_bytes()).hexdigest()
    assert f"SHA256(disk0.vmdk)= {image.digest}" in (tmp_path / "web01.mf").read_text().splitlines()
    # What is not zero, in grains: the three places of the capture, and what the conversion changed.
    (filled,) = re.findall('ovf:populatedSize="(\\d+)"', (tmp_path / "web01.ovf").read_text())
    assert 2 * MiB + 300 * KiB < int(filled) < 4 * MiB


def test_a_broken_ova_has_no_name(tmp_path: Path) -> None:
    target = target_for("vmware:ova")
    with pytest.raises(TargetError):
        target.write(machine(target, size=SIZE), [tmp_path / "missing.qcow2"], tmp_path)
    assert not (tmp_path / "web01.ova").exists()


@pytest.mark.parametrize("words", ["vmware:ova", "vmware", "vmware:esx3", "vsphere"])
def test_virt_v2v_reads_it(words: str, overlay: Path, tmp_path: Path) -> None:
    """What virt-v2v makes of our configuration, disks included; `--print-source` opens no guest."""
    need_tools("virt-v2v")
    target = target_for(words)
    vm = machine(target, disks=2, nics=2, size=SIZE)
    target.write(vm, [overlay, overlay], tmp_path)
    for config in target.render(vm, tmp_path):
        (tmp_path / config.name).write_bytes(config.content)
    kind = "ova" if words in ("vmware:ova", "vsphere") else "vmx"
    # What goes into vSphere is an OVF in pieces, which is read as a folder.
    place = tmp_path if words == "vsphere" else tmp_path / f"web01.{kind}"
    argv = ["virt-v2v", "--print-source", "-i", kind, str(place), "-o", "null"]
    said = command.check(argv, timeout=100, reason="read it", env={"LIBGUESTFS_BACKEND": "direct"})
    lines = [line.strip().partition(": ") for line in said.splitlines()]
    found = {key: value for key, _, value in lines}
    assert found["source name"] == "web01"
    assert (found["nr vCPUs"], found["memory"], found["firmware"]) == ("2", "2147483648 (bytes)", "bios")
    assert [said.count(f"\t{index} [scsi]\n") for index in range(3)] == [1, 1, 0]
    assert said.count(f"[{vm.nics[0].model}]") == 2
    # Of a .vmx, virt-v2v 2.2 reads addresses that VMware made itself, no others.
    assert kind == "vmx" or [said.count(f"mac: {nic.mac} ") for nic in vm.nics] == [1, 1]


def test_virt_v2v_would_notice_damage(overlay: Path, tmp_path: Path) -> None:
    """That the check above sees the manifest: one changed byte, and virt-v2v refuses the package."""
    need_tools("virt-v2v")
    target = target_for("vmware:ova")
    target.write(machine(target, size=SIZE), [overlay], tmp_path)
    with tarfile.open(tmp_path / "web01.ova") as tar:
        at = tar.getmember("disk0.vmdk").offset_data + 70000
    with (tmp_path / "web01.ova").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        os.pwrite(file.fileno(), bytes([byte[0] ^ 1]), at)
    argv = ["virt-v2v", "--print-source", "-i", "ova", str(tmp_path / "web01.ova"), "-o", "null"]
    result = command.run(argv, timeout=100, env={"LIBGUESTFS_BACKEND": "direct"})
    assert result.code != 0
    assert "checksum" in result.stderr


def test_stream_of_an_empty_disk_is_small(tmp_path: Path) -> None:
    out = io.BytesIO()
    written = write_stream([], 10 * MiB, "disk0.vmdk", out)
    assert written.size == len(out.getvalue()) < 128 * KiB
    assert written.digest == hashlib.sha256(out.getvalue()).hexdigest()


def test_reader_leaves_holes_out(overlay: Path, expected: bytes) -> None:
    with open_overlay(overlay) as reader:
        assert reader.size == SIZE
        read = bytearray(SIZE)
        total = 0
        last = 0
        for offset, piece in reader.blocks():
            assert offset >= last
            last = offset + len(piece)
            read[offset:last] = piece
            total += len(piece)
    assert bytes(read) == expected
    assert total < 20 * MiB


def test_a_terabyte_of_nothing_takes_no_time(tmp_path: Path) -> None:
    """`qemu-img compare` reads all of a VHDX: 1 TiB with little in it would take minutes."""
    capture = tmp_path / "disk0.raw"
    with capture.open("wb") as file:
        file.truncate(TiB)
        os.pwrite(file.fileno(), b"x" * MiB, 700 * 1024 * MiB)
    overlay = tmp_path / "overlay.qcow2"
    make_overlay(capture, overlay)
    for image_format in (ImageFormat.RAW, ImageFormat.QCOW2, ImageFormat.VHDX, ImageFormat.VDI):
        started = time.monotonic()
        write(overlay, tmp_path, image_format, "")
        assert time.monotonic() - started < 20


@pytest.mark.parametrize("place", [0, 77 * MiB + 1024, 80 * MiB, 127 * MiB, 140 * MiB, SIZE - 512])
def test_a_vhdx_is_compared_where_it_has_data(
    place: int, overlay: Path, expected: bytes, tmp_path: Path
) -> None:
    """And around it, where the driver has made room for more."""
    other = tmp_path / "other.vhdx"
    command.check(["qemu-img", "convert", "-O", "vhdx", overlay, other], timeout=60, reason="write it")
    changed = bytes([expected[place] ^ 0xFF])
    words = ["qemu-io", "-f", "vhdx", "-c", f"write -P {changed[0]} {place} 512", str(other)]
    command.check(words, timeout=30, reason="change it")
    with open_overlay(overlay) as reader, pytest.raises(VerifyError, match="differs"):
        compare_used(reader, other, ImageFormat.VHDX)


@pytest.mark.parametrize("size", [512, 65536, 3 * BLOCK_SIZE, 3 * BLOCK_SIZE + 512])
@pytest.mark.parametrize("subformat", ["", "fixed"])
def test_digests_of_odd_sizes(size: int, subformat: str, tmp_path: Path) -> None:
    """Where the last block is not full, and where a footer lies behind the disk, in it or beyond it."""
    need_tools("qemu-img")
    capture = tmp_path / "disk0.raw"
    capture.write_bytes(random.Random(size).randbytes(size))
    overlay = tmp_path / "overlay.qcow2"
    make_overlay(capture, overlay)
    image_format = ImageFormat.VHD if subformat else ImageFormat.RAW
    disk = VirtualDisk("image", image_format, size, DiskBus.SATA, "", subformat)
    (image,) = write_images([ImageJob(overlay, tmp_path, disk)])
    data = (tmp_path / "image").read_bytes()
    assert data[:size] == capture.read_bytes()
    assert image.digest == by_blocks(data)


def test_every_platform_names_a_kind_that_can_be_written() -> None:
    known = {(each, subformat) for each, subformat in KINDS}
    for words in (
        "libvirt",
        "vmware",
        "vmware:ova",
        "vmware:gsx",
        "hyperv",
        "hyperv:vhd,fixed",
        "raw:vdi,fixed",
    ):
        platform = find_target(words).platform
        assert (platform.image_format, platform.subformat) in known


@pytest.mark.parametrize("subformat", ["", "fixed"])
def test_blocks_left_alone_keep_the_digest_of_the_capture(
    subformat: str, overlay: Path, expected: bytes, tmp_path: Path
) -> None:
    """The digest is that of the file; but if the capture changed since, it is that of what was captured."""
    capture = tmp_path / "disk0.raw"
    with capture.open("wb") as file:
        file.truncate(SIZE)
        for start in (0, 76 * MiB, 148 * MiB, SIZE - 512):
            os.pwrite(file.fileno(), expected[start : start + 4 * MiB], start)
    (tmp_path / "disk0.digest").write_bytes(b"".join(block_digests(capture.read_bytes())))
    mine = tmp_path / "overlay.qcow2"
    make_overlay(capture, mine)
    words = [word for change in ("write -P 0x5a 1M 70k", "write -z 148M 1M") for word in ("-c", change)]
    command.check(["qemu-io", *words, mine], timeout=30, reason="change the disk")
    image_format = ImageFormat.VHD if subformat else ImageFormat.RAW
    folder = tmp_path / "out"
    folder.mkdir()

    (image,) = write(mine, folder, image_format, subformat)
    sound = by_blocks((folder / image.path).read_bytes())
    assert image.digest == sound

    with capture.open("r+b") as file:
        os.pwrite(file.fileno(), b"rotten", 77 * MiB)
    (image,) = write(mine, folder, image_format, subformat)
    assert image.digest != by_blocks((folder / image.path).read_bytes())
    assert image.digest == sound or subformat  # the footer of a VHD holds the time
