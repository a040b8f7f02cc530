"""Drivers added to an initramfs: what modprobe finds in it afterwards, and when nothing is added."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.cpio import archive
from conversions.initramfs import read_initramfs
from conversions.kernels import Kernel, installed_kernels
from conversions.supplement import Unsure, fitting, supplement, supports_modules
from conversions.unpack import Compression, lz4_block, unpack_whole
from p2v.command import check
from p2v.errors import GuestError
from tests.conftest import need_tools
from tests.tree_guest import TreeGuest

KERNELS = sorted(Path("/lib/modules").glob("*/kernel/drivers/block/virtio_blk.ko*"))
OLD = ("ahci", "sd_mod", "ext4")
NEW = ("virtio", "virtio_ring", "virtio_pci", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_blk")
VIRTIO_DISK = "pci:v00001AF4d00001042sv00001AF4sd00001100bc01sc00i00"
"""What the kernel says of a virtio disk: MODALIAS in its uevent."""
PACKERS = {
    "gzip": ["gzip", "-c"],
    "xz": ["xz", "--check=crc32", "-c"],
    "zstd": ["zstd", "-q", "-3", "-c"],
    "lz4": ["lz4", "-l", "-c"],
    "plain": ["cat"],
}


@dataclass(frozen=True, slots=True)
class Machine:
    """A guest with modules of this host, and an initramfs with a few of them, made by this host's tools."""

    guest: TreeGuest
    version: str
    initramfs: str

    def kernel(self) -> Kernel:
        return installed_kernels(Changes(self.guest), ())[0]

    def supplemented(self, names: tuple[str, ...], settings: Mapping[str, bytes] | None = None) -> bytes:
        data = self.guest.read(self.initramfs)
        return supplement(Changes(self.guest), self.kernel(), data, names, settings or {})


def host_version() -> str:
    need_tools("depmod", "modprobe", "cpio")
    if not KERNELS:
        pytest.skip("this host has no kernel modules")
    return KERNELS[-1].parents[3].name


def make(
    folder: Path, *, packer: str = "gzip", marks: tuple[str, ...] = ("udev", "initramfs-tools")
) -> Machine:
    version = host_version()
    need_tools(PACKERS[packer][0])
    guest = TreeGuest(folder / "guest")
    host, base = Path("/lib/modules") / version, guest.root / "lib/modules" / version
    added = [path for path in host.glob("kernel/drivers/*/virtio*.ko*") if path.name.split(".")[0] in NEW]
    for source in (*host.glob("modules.*"), *added):
        place = base / source.relative_to(host)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    initramfs = f"/boot/initrd.img-{version}"
    guest.mkdir("/boot")
    guest.write(f"/boot/vmlinuz-{version}", b"kernel")
    packed = pack(folder / "tree", version, packer, marks)
    guest.write(initramfs, packed)
    return Machine(guest, version, initramfs)


def pack(tree: Path, version: str, packer: str, marks: tuple[str, ...]) -> bytes:
    """An initramfs as mkinitramfs makes it: modules with all that they need, depmod, cpio, compression."""
    base = tree / "usr/lib/modules" / version
    base.mkdir(parents=True)
    (tree / "lib").symlink_to("usr/lib")
    needed = check(
        ["modprobe", "-S", version, "--show-depends", "--all", "--ignore-install", *OLD],
        timeout=20,
        reason="list modules",
    )
    for line in needed.splitlines():
        if line.startswith("insmod "):
            source = Path(line.split()[1])
            place = base / source.relative_to(f"/lib/modules/{version}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)
    for name in ("modules.order", "modules.builtin"):
        shutil.copy(Path("/lib/modules") / version / name, base)
    check(["depmod", "-a", "-b", tree, version], timeout=20, reason="index modules")
    if "udev" in marks:
        (tree / "usr/bin").mkdir()
        (tree / "usr/bin/udevadm").write_bytes(b"\x7fELF")
    if "initramfs-tools" in marks:
        for name in ("scripts/functions", "conf/modules"):
            (tree / name).parent.mkdir()
            (tree / name).write_text("# the guest's own\nmy_module\n")
    script = f"find . | LC_ALL=C sort | cpio -o -H newc --quiet | {' '.join(PACKERS[packer])} > ../packed"
    check(["sh", "-c", script], timeout=60, reason="pack", cwd=tree)
    return (tree.parent / "packed").read_bytes()


def unpack(original: bytes, result: bytes, folder: Path, packer: str) -> Path:
    """As the kernel does it: one archive after the other, a later file over an earlier one."""
    folder.mkdir()
    first = plain(original, folder, packer)
    if packer == "lz4":
        rest = plain(result, folder, packer)[len(first) :]
    else:
        assert result.startswith(original)
        rest = result[len(original) :]
    # The kernel makes no folder that is not in an archive, so neither does the second cpio.
    for part, options in ((first, "-idu"), (rest.lstrip(b"\0"), "-iu")):
        (folder / ".part").write_bytes(part)
        check(["sh", "-c", f"cpio {options} --quiet < .part"], timeout=60, reason="unpack", cwd=folder)
    return folder


def plain(data: bytes, folder: Path, packer: str) -> bytes:
    (folder / ".packed").write_bytes(data)
    tool = PACKERS[packer][0]
    script = "cp .packed .plain" if packer == "plain" else f"{tool} -dc < .packed > .plain"
    check(["sh", "-c", script], timeout=60, reason="unpack", cwd=folder)
    return (folder / ".plain").read_bytes()


def loaded(tree: Path, version: str, wanted: str) -> list[str]:
    """The modules that modprobe of the initramfs would load for a module or for a device, in their order."""
    argv: list[str | Path] = ["modprobe", "-d", tree, "-S", version, "--show-depends", wanted]
    lines = check(argv, timeout=20, reason="ask modprobe").splitlines()
    paths = [Path(line.split()[1]) for line in lines if line.startswith("insmod ")]
    assert all(path.is_file() for path in paths)
    return [path.name.split(".")[0].replace("-", "_") for path in paths]


@pytest.mark.tools
@pytest.mark.parametrize("packer", PACKERS)
def test_modprobe_loads_what_was_added_and_what_was_there(tmp_path: Path, packer: str) -> None:
    machine = make(tmp_path, packer=packer)
    original = machine.guest.read(machine.initramfs)
    result = machine.supplemented(NEW)
    tree = unpack(original, result, tmp_path / "unpacked", packer)
    assert loaded(tree, machine.version, "virtio_blk")[-1] == "virtio_blk"
    assert set(loaded(tree, machine.version, "virtio_blk")) == {"virtio", "virtio_ring", "virtio_blk"}
    assert loaded(tree, machine.version, VIRTIO_DISK)[-1] == "virtio_pci"
    assert {"ahci", "libahci", "libata", "scsi_mod"} <= set(loaded(tree, machine.version, "ahci"))
    assert loaded(tree, machine.version, "scsi:t-0x00")[-1] == "sd_mod"
    modules = (tree / "conf/modules").read_text()
    assert modules == "# the guest's own\nmy_module\n" + "".join(f"{name}\n" for name in NEW)
    text = (tree / f"usr/lib/modules/{machine.version}/modules.alias").read_text()
    assert "virtio_pci" in text
    assert " ahci" in text
    assert read_initramfs(result).modules(machine.version) >= set(NEW) | set(OLD)


@pytest.mark.tools
def test_added_modules_are_those_of_the_guest_and_the_rest_stays(tmp_path: Path) -> None:
    machine = make(tmp_path)
    original = machine.guest.read(machine.initramfs)
    tree = unpack(
        original, machine.supplemented(("virtio", "virtio_ring", "virtio_blk")), tmp_path / "u", "gzip"
    )
    base = tree / f"usr/lib/modules/{machine.version}"
    path = next(base.rglob("virtio_blk.ko"))
    source = Path("/lib/modules") / machine.version / path.relative_to(base)
    assert path.read_bytes() == source.read_bytes()
    before = {str(file.relative_to(tmp_path / "tree")) for file in (tmp_path / "tree").rglob("*")}
    after = {str(file.relative_to(tree)) for file in tree.rglob("*") if not file.name.startswith(".p")}
    assert before <= after
    assert len([name for name in after - before if name.endswith(".ko")]) == 3


@pytest.mark.tools
@pytest.mark.parametrize(("suffix", "pack_it"), [(".xz", ["xz", "-z"]), (".zst", ["zstd", "-q", "--rm"])])
def test_packed_modules_are_added_plain(tmp_path: Path, suffix: str, pack_it: list[str]) -> None:
    machine = make(tmp_path)
    need_tools(pack_it[0])
    base = machine.guest.root / "lib/modules" / machine.version
    (place,) = base.rglob("virtio_blk.ko")
    content = place.read_bytes()
    check([*pack_it, place], timeout=20, reason="pack")
    dep = (base / "modules.dep").read_text()
    (base / "modules.dep").write_text(dep.replace("virtio_blk.ko:", f"virtio_blk.ko{suffix}:"))
    original = machine.guest.read(machine.initramfs)
    tree = unpack(
        original, machine.supplemented(("virtio", "virtio_ring", "virtio_blk")), tmp_path / "u", "gzip"
    )
    assert loaded(tree, machine.version, "virtio_blk")[-1] == "virtio_blk"
    assert next(tree.rglob("virtio_blk.ko")).read_bytes() == content


@pytest.mark.tools
def test_a_second_time_adds_to_the_first(tmp_path: Path) -> None:
    machine = make(tmp_path)
    original = machine.guest.read(machine.initramfs)
    machine.guest.write(machine.initramfs, machine.supplemented(("virtio", "virtio_ring", "virtio_blk")))
    tree = unpack(original, machine.supplemented(("virtio_pci_legacy_dev",)), tmp_path / "u", "gzip")
    assert loaded(tree, machine.version, "virtio_blk")[-1] == "virtio_blk"


@pytest.mark.tools
def test_settings_are_replaced_without_any_module(tmp_path: Path) -> None:
    machine = make(tmp_path, marks=())
    original = machine.guest.read(machine.initramfs)
    result = machine.supplemented((), {"conf/conf.d/resume": b"RESUME=none\n"})
    files = {file.path: file.content for file in read_initramfs(result).configuration}
    assert files["conf/conf.d/resume"] == b"RESUME=none\n"
    assert result.startswith(original)


@pytest.mark.tools
@pytest.mark.parametrize("marks", [(), ("udev",), ("initramfs-tools",)])
def test_nothing_is_added_where_nothing_would_load_it(tmp_path: Path, marks: tuple[str, ...]) -> None:
    machine = make(tmp_path, marks=marks)
    assert not supports_modules(machine.kernel())
    with pytest.raises(Unsure, match="load modules"):
        machine.supplemented(NEW)


@pytest.mark.tools
def test_a_module_that_needs_firmware_is_left_to_the_guests_tool(tmp_path: Path) -> None:
    machine = make(tmp_path)
    (place,) = (machine.guest.root / "lib/modules" / machine.version).rglob("virtio_blk.ko")
    place.write_bytes(place.read_bytes() + b"\0firmware=some.bin\0")
    with pytest.raises(Unsure, match="virtio_blk needs more"):
        machine.supplemented(NEW)


@pytest.mark.tools
def test_a_module_that_wants_others_first_is_left_to_the_guests_tool(tmp_path: Path) -> None:
    machine = make(tmp_path)
    path = f"/lib/modules/{machine.version}/modules.softdep"
    machine.guest.write(path, b"# soft\nsoftdep virtio-blk pre: crc32c\n")
    with pytest.raises(Unsure, match="virtio_blk needs more"):
        machine.supplemented(NEW)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("line", "name"),
    [("../../../etc/shadow:", "shadow"), ("/etc/shadow:", "shadow"), ("kernel/none.ko:", "none")],
)
def test_a_path_that_leads_elsewhere_adds_nothing(tmp_path: Path, line: str, name: str) -> None:
    machine = make(tmp_path)
    machine.guest.mkdir("/etc")
    machine.guest.write("/etc/shadow", b"\x7fELF, as far as it shows")
    machine.guest.write(f"/lib/modules/{machine.version}/modules.dep", f"{line}\n".encode())
    with pytest.raises(GuestError):
        machine.supplemented((name,))


@pytest.mark.parametrize("zeros", range(4))
def test_what_is_added_to_lz4_begins_at_a_multiple_of_four_once_unpacked(zeros: int) -> None:
    first = archive({"conf/x": b"1"}) + bytes(zeros)
    content = b"\x02\x21\x4c\x18" + lz4_block(first)
    added = fitting(archive({"conf/y": b"2"}), read_initramfs(content).end, len(content))
    whole = unpack_whole(content + added, Compression.LZ4, limit=4096)
    assert whole.index(b"070701", len(first)) % 4 == 0


def test_garbage_behind_the_end_is_not_built_upon() -> None:
    data = gzip.compress(archive({"conf/x": b"1"}), mtime=0) + b"garbage!"
    with pytest.raises(Unsure, match="no archive"):
        fitting(b"070701", read_initramfs(data).end, len(data))


@pytest.mark.parametrize("length", range(1, 9))
def test_archives_begin_at_a_multiple_of_four(length: int) -> None:
    content = gzip.compress(archive({"conf/x": b"1" * length}), mtime=0)
    added = fitting(archive({"conf/y": b"2"}), read_initramfs(content).end, len(content))
    assert (len(content) + added.index(b"070701")) % 4 == 0
    assert {file.path for file in read_initramfs(content + added).files} == {"conf/x", "conf/y"}
