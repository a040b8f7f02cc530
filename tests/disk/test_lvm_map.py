"""The LVM map against LVM's own tools: allocated extents are there, free ones are not, and plain volumes are
mapped by what is in them.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from p2v import command
from p2v.disk.device import BlockDevice
from p2v.disk.maps import lvm, lvm_metadata, lvm_text, used_map
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.superblock import identify
from p2v.disk.view import LinearView
from p2v.errors import TransportError
from p2v.model import Extent, KiB, MiB
from tests.disk import volumes
from tests.disk.images import fill_folder, opened, sparse
from tests.disk.lvm_tools import GROUP, LAYERS, PE, lvm_on
from tests.disk.volumes import START, Patched, peek, poke, run

pytestmark = pytest.mark.tools


@dataclass(frozen=True)
class Made:
    """Two physical volumes; `allocated` are the first one's extents (first, count) by logical volume, in
    LVM's own words.
    """

    first: Path
    second: Path
    allocated: dict[str, list[tuple[int, int]]]
    pe_start: int
    digests: dict[str, str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Made]:
    return cache(lambda: _build(tmp_path_factory.mktemp("lvm")))


def _build(folder: Path) -> Made:
    first, second = sparse(folder / "one.img", 260 * MiB + 700 * KiB), sparse(folder / "two.img", 64 * MiB)
    _noise(first)
    with lvm_on(first, second) as tool:
        one, two = tool.devices
        tool("pvcreate", "-ff", "-y", "--metadatacopies", "2", one)
        tool("pvcreate", "-ff", "-y", two)
        tool("vgcreate", "-s", "1m", GROUP, one, two)
        tool.make("-l", "40", "-n", "root")
        tool.make("-l", "32", "-n", "small")
        tool.make("-l", "8", "-n", "gone")
        tool("lvextend", "-l", "100", f"{GROUP}/root", one)
        tool("lvremove", "-y", f"{GROUP}/gone")
        tool.make("-l", "10", "-n", "swap")
        tool.make("-l", "5", "-n", "opaque")
        tool.make("-l", "16", "-i", "2", "-I", "64", "-n", "stripes")
        tool.make("-l", "20", "-n", "spanned")
        tool("lvextend", "-l", "+30", f"{GROUP}/spanned", two)
        said = tool("pvs", "--noheadings", "--segments", "-o", "pvseg_start,pvseg_size,lv_name", one)
        start = tool("pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start", one)
    allocated: dict[str, list[tuple[int, int]]] = {}
    for begin, count, *name in (line.split() for line in said.splitlines()):
        if name:
            allocated.setdefault(name[0], []).append((int(begin), int(count)))
    assert len(allocated["root"]) == 2
    result = Made(first, second, allocated, int(start), {})
    return _fill(result, folder)


def _noise(image: Path) -> None:
    """What is not zero must be copied or be free for a reason."""
    block = os.urandom(MiB)
    with image.open("r+b") as handle:
        for _ in range(image.stat().st_size // MiB):
            handle.write(block)


def _fill(made: Made, folder: Path) -> Made:
    digests = fill_folder(folder / "source", seed=4, files=200)
    ext = sparse(folder / "ext.img", 100 * PE)
    run("mkfs.ext4", "-q", "-F", "-b", "4096", "-d", folder / "source", ext)
    script = "".join(f"rm {name}\n" for name in sorted(digests)[::2])
    found = command.need_tool("debugfs", reason="edit", package="e2fsprogs")
    command.check([found, "-w", "-f", "-", ext], timeout=60, reason="edit", input_text=script)
    put(made, "root", ext)
    small = sparse(folder / "fat.img", 30 * PE)  # smaller than its volume
    run("mkfs.fat", "-F", "16", small)
    run("mcopy", "-i", small, folder / "source" / "file001", "::")
    put(made, "small", small)
    # Filesystems that are not there: what begins like one on a stripe, or goes on elsewhere, is no map.
    run("mkfs.ext4", "-q", "-F", sparse(folder / "stripe.img", 7 * PE))
    put(made, "stripes", folder / "stripe.img")
    run("mkfs.ext4", "-q", "-F", sparse(folder / "span.img", 50 * PE))
    poke(made.first, places(made, "spanned")[0][0], peek(folder / "span.img", 0, MiB))
    header = bytearray(4096)
    header[4086:4096] = b"SWAPSPACE2"
    (folder / "swap").write_bytes(header)
    put(made, "swap", folder / "swap")
    kept = {name: digest for name, digest in digests.items() if name not in sorted(digests)[::2]}
    return Made(made.first, made.second, made.allocated, made.pe_start, kept)


def places(made: Made, name: str) -> list[tuple[int, int]]:
    """Where a logical volume stands on the first physical volume, bytes."""
    return [(made.pe_start + begin * PE, count * PE) for begin, count in made.allocated[name]]


def put(made: Made, name: str, content: Path) -> None:
    done = 0
    for offset, length in places(made, name):
        poke(made.first, offset, peek(content, done, length))
        done += length


def take(made: Made, image: Path, name: str, target: Path) -> Path:
    target.write_bytes(b"".join(peek(image, offset, length) for offset, length in places(made, name)))
    return target


def mapped(image: Path) -> tuple[list[Extent], tuple[str, ...]]:
    with opened(image) as device:
        found = used_map(device, 0, device.size, identify(device, 0, device.size), name="sda2")
    return sorted(found.extents, key=lambda part: part.start), found.warnings


def uncovered(extents: list[Extent], places: list[tuple[int, int]], size: int) -> int:
    return volumes.outside([Extent(*place) for place in places], extents, size)


def test_allocated_extents_are_mapped_and_free_ones_are_not(made: Callable[[], Made]) -> None:
    volume = made()
    size = volume.first.stat().st_size
    extents, warnings = mapped(volume.first)
    assert not warnings
    assert uncovered(extents, [(0, volume.pe_start)], size) == 0
    last = volume.pe_start + (size - volume.pe_start) // PE * PE
    assert uncovered(extents, [(last - PE, size - last + PE)], size) == 0  # second copy of the metadata
    for name in ("opaque", "stripes", "spanned"):
        assert uncovered(extents, places(volume, name), size) == 0, name
    [(swap, length)] = places(volume, "swap")
    assert uncovered(extents, [(swap, 64 * KiB)], size) == 0
    assert uncovered(extents, [(swap + 80 * KiB, length - 80 * KiB)], size) == length - 80 * KiB
    allocated = sum(length for name in volume.allocated for _, length in places(volume, name))
    assert sum(part.length for part in extents) < allocated * 2 // 3
    # Nothing but the allocated extents, the head and the tail.
    inside = [Extent(*place) for name in volume.allocated for place in places(volume, name)]
    around = [Extent(0, volume.pe_start), Extent(last - PE, size - last + PE)]
    assert volumes.outside(extents, inside + around, size) <= 32 * KiB


def test_the_copy_holds_every_volume(made: Callable[[], Made], tmp_path: Path) -> None:
    volume = made()
    copy, copied = volumes.copied(volume.first, tmp_path)
    assert copied < volume.first.stat().st_size // 2
    root = take(volume, copy, "root", tmp_path / "root")
    assert volumes.code("e2fsck", "-fn", root) == 0
    (tmp_path / "out").mkdir()
    run("debugfs", "-R", f"rdump / {tmp_path / 'out'}", root)
    names = {path.name for path in (tmp_path / "out").iterdir()} - {"lost+found"}
    assert names == set(volume.digests)
    for name, digest in volume.digests.items():
        assert run("sha256sum", tmp_path / "out" / name).split()[0] == digest
    small = take(volume, copy, "small", tmp_path / "small")
    assert volumes.code("fsck.fat", "-n", small) == 0
    for name in ("opaque", "stripes", "spanned"):
        original = take(volume, volume.first, name, tmp_path / "original").read_bytes()
        assert take(volume, copy, name, tmp_path / "copied").read_bytes() == original, name
    with lvm_on(copy, volume.second) as tool:
        tool("vgck", GROUP)
        assert "100.00m" in tool("lvs", "--units", "m", GROUP)


def test_the_second_physical_volume_has_its_part_only(made: Callable[[], Made]) -> None:
    volume = made()
    extents, warnings = mapped(volume.second)
    assert not warnings
    total = sum(part.length for part in extents)
    assert 38 * PE <= total <= 38 * PE + 3 * MiB


def test_an_inner_journal_that_was_not_replayed_copies_that_volume_alone(
    made: Callable[[], Made], tmp_path: Path
) -> None:
    volume = made()
    image = Path(shutil.copy(volume.first, tmp_path / "own.img"))
    root = places(volume, "root")
    at = root[0][0] + 1024 + 96
    poke(image, at, struct.pack("<I", struct.unpack("<I", peek(image, at, 4))[0] | 0x4))
    extents, warnings = mapped(image)
    assert len(warnings) == 1
    assert "sda2, volume root" in warnings[0]
    size = image.stat().st_size
    assert uncovered(extents, root, size) == 0
    assert uncovered(extents, places(volume, "small"), size) > 20 * MiB


@pytest.mark.parametrize("name", LAYERS)
def test_what_other_volumes_stand_on_is_copied_whole(tmp_path: Path, name: str) -> None:
    """The volume below is linear and even shows a filesystem, but its free blocks may be another one's
    data.
    """
    layer = LAYERS[name]
    image = sparse(tmp_path / "pv.img", 240 * MiB)
    with lvm_on(image) as tool:
        tool("pvcreate", "-ff", "-y", tool.devices[0])
        tool("vgcreate", "-s", "1m", GROUP, tool.devices[0])
        tool.make("-l", "60", "-n", "below")
        tool.make("-l", "60", "-n", "plain")

        def change(text: str) -> str:
            head, marker, tail = text.partition("logical_volumes {\n")
            tail = tail.replace("below {", f"{layer.below} {{", 1)
            if layer.hidden:
                tail = tail.replace('["READ", "WRITE", "VISIBLE"]', '["READ", "WRITE"]', 1)
            return head + marker + layer.text + tail

        tool.restore(tmp_path, change)
        said = tool("lvs", "-a", "--noheadings", "-o", "lv_name,segtype", GROUP)
    assert layer.segment_type in said
    ext = sparse(tmp_path / "ext.img", 60 * MiB)
    run("mkfs.ext4", "-q", "-F", ext)
    for begin in (0, 60):
        with image.open("r+b") as handle:
            handle.seek((1 + begin) * MiB)
            handle.write(ext.read_bytes())
    extents, warnings = mapped(image)
    assert not warnings
    size = image.stat().st_size
    below = uncovered(extents, [(MiB, 60 * MiB)], size)
    assert below == 0 if layer.whole else below > 40 * MiB
    assert uncovered(extents, [((1 + begin) * MiB, count * MiB) for begin, count in layer.own], size) == 0
    # The plain one beside it is mapped by its filesystem, and free extents are free.
    assert uncovered(extents, [(61 * MiB, 60 * MiB)], size) > 40 * MiB
    assert uncovered(extents, [(215 * MiB, 20 * MiB)], size) == 20 * MiB


def test_an_exported_group_has_no_inner_maps(tmp_path: Path) -> None:
    image = sparse(tmp_path / "pv.img", 100 * MiB + 300 * KiB)
    with lvm_on(image) as tool:
        tool("pvcreate", "-ff", "-y", tool.devices[0])
        tool("vgcreate", "-s", "1m", GROUP, tool.devices[0])
        tool.make("-l", "40", "-n", "root")
        run("mkfs.ext4", "-q", "-F", "-E", f"offset={MiB}", tool.devices[0], "40m")
        before, _ = mapped(image)
        tool("vgexport", GROUP)
    after, warnings = mapped(image)
    assert not warnings
    size = image.stat().st_size
    assert uncovered(before, [(100 * MiB, 300 * KiB)], size) == 0  # what makes no whole extent
    assert uncovered(before, [(MiB, 40 * MiB)], size) > 20 * MiB
    assert uncovered(after, [(MiB, 40 * MiB)], size) == 0
    assert uncovered(after, [(45 * MiB, 40 * MiB)], size) == 40 * MiB


def test_a_ring_that_wraps_is_read(tmp_path: Path) -> None:
    """Texts stand behind one another in a small area until they start again at its front."""
    image = sparse(tmp_path / "pv.img", 64 * MiB)
    with lvm_on(image) as tool:
        tool("pvcreate", "-ff", "-y", "--dataalignment", "64k", "--metadatasize", "60k", tool.devices[0])
        tool("vgcreate", "-s", "1m", GROUP, tool.devices[0])
        tool.make("-l", "4", "-n", "root")
        tags = [part for number in range(60) for part in ("--addtag", f"{'t' * 100}{number}")]
        tool("lvchange", *tags, f"{GROUP}/root")
        area = struct.unpack("<Q", peek(image, 4096 + 32, 8))[0]
        assert area < 128 * KiB
        for number in range(30):
            tool("lvchange", "--addtag", f"tag{number}", f"{GROUP}/root")
            at, length = struct.unpack("<QQ", peek(image, 4096 + 40, 16))
            extents, warnings = mapped(image)
            assert not warnings
            assert sum(part.length for part in extents) < 8 * MiB
            if at + length > area:
                return
    pytest.fail("the ring did not wrap: this tests nothing")


def test_a_group_without_metadata_here_is_copied_whole(tmp_path: Path) -> None:
    images = [sparse(tmp_path / name, 40 * MiB) for name in ("one", "two", "three")]
    with lvm_on(*images) as tool:
        one, two, three = tool.devices
        tool("pvcreate", "-ff", "-y", one, two)
        tool("pvcreate", "-ff", "-y", "--metadatacopies", "0", three)
        tool("vgcreate", "-s", "1m", GROUP, one, two, three)
        tool("pvchange", "--metadataignore", "y", "-f", "-y", two)
    extents, warnings = mapped(images[0])
    assert not warnings
    assert sum(part.length for part in extents) < 4 * MiB
    assert "up to date" in volumes.warning_of(images[1])
    assert "no metadata" in volumes.warning_of(images[2])


def edited(image: Path, folder: Path, change: Callable[[str], str]) -> Path:
    """The image with another text in its metadata area, checksums made right."""
    copy = Path(shutil.copy(image, folder / "edited.img"))
    _rewrite(lambda at, size: peek(copy, at, size), lambda at, raw: poke(copy, at, raw), change)
    return copy


def _rewrite(
    read: Callable[[int, int], bytes], write: Callable[[int, bytes], None], change: Callable[[str], str]
) -> None:
    at, size = struct.unpack("<QQ", read(4096 + 40, 16))
    text = change(read(4096 + at, size).decode()).encode()
    write(4096 + at, text)
    header = bytearray(read(4096, 512))
    struct.pack_into("<QQI", header, 40, at, len(text), lvm_metadata.checksum(text))
    struct.pack_into("<I", header, 0, lvm_metadata.checksum(bytes(header[4:])))
    write(4096, bytes(header))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = sparse(tmp_path_factory.mktemp("lvm") / "pv.img", 64 * MiB)
    with lvm_on(image) as tool:
        tool("pvcreate", "-ff", "-y", tool.devices[0])
        tool("vgcreate", "-s", "1m", GROUP, tool.devices[0])
        tool.make("-l", "10", "-n", "root")
        tool.make("-l", "10", "-n", "home")
    return image


@pytest.fixture
def simple(pristine: Path, tmp_path: Path) -> Path:
    """A group of two linear volumes, to be changed."""
    return Path(shutil.copy(pristine, tmp_path / "simple.img"))


UNKNOWN: dict[str, tuple[str, str]] = {
    "an unknown type": ('type = "striped"', 'type = "quantum"'),
    "a type with a feature": ('type = "striped"', 'type = "striped+NEW"'),
    "a segment outside": ('"pv0", 10', '"pv0", 60'),
    "an overlap": ('"pv0", 10', '"pv0", 9'),
    "a missing segment": ("segment_count = 1", "segment_count = 2"),
    "a gap": ("start_extent = 0", "start_extent = 1"),
    "no such stripe": ("stripe_count = 1", "stripe_count = 3"),
    "no stripes": ("stripe_count = 1", "stripe_count = 0"),
    "a negative extent": ('"pv0", 10', '"pv0", -1'),
    "extents of nothing": ("extent_size = 2048", "extent_size = 0"),
    "extents too large": ("extent_size = 2048", "extent_size = 204800"),
    "a head of nothing": ("pe_start = 2048", "pe_start = 0"),
    "another physical volume": ('pv0 {\nid = "', 'pv0 {\nid = "x'),
    "a name twice": ("home {", "root {"),
    "no end": ("\n}\n", "\n\n"),
    "no value": ("extent_size = 2048", "extent_size ="),
    "a value of another kind": ("extent_size = 2048", 'extent_size = "2048"'),
    "depth": ("flags = []", "flags = []\n" + "x {\n" * 30 + "}\n" * 30),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_metadata_that_does_not_add_up_is_unknown(simple: Path, name: str, tmp_path: Path) -> None:
    before, after = UNKNOWN[name]
    image = edited(simple, tmp_path, lambda text: text.replace(before, after))
    warning = volumes.warning_of(image)
    assert "checksum" not in warning


def test_a_physical_volume_that_is_listed_twice_is_unknown(simple: Path, tmp_path: Path) -> None:
    def twice(text: str) -> str:
        [entry] = re.findall(r"\npv0 \{.*?\n\}\n", text, re.DOTALL)
        return text.replace(entry, entry + entry.replace("pv0", "pv1"))

    assert "twice" in volumes.warning_of(edited(simple, tmp_path, twice))


def test_torn_metadata_is_unknown(simple: Path) -> None:
    at = struct.unpack("<Q", peek(simple, 4096 + 40, 8))[0]
    poke(simple, 4096 + at + 100, b"?")
    assert "checksum" in volumes.warning_of(simple)


def test_a_group_inside_a_volume_is_copied_whole(made: Callable[[], Made], tmp_path: Path) -> None:
    outer = sparse(tmp_path / "outer.img", 340 * MiB)
    with lvm_on(outer) as tool:
        tool("pvcreate", "-ff", "-y", tool.devices[0])
        tool("vgcreate", "-s", "1m", "outside", tool.devices[0])
        tool("lvcreate", "-y", "-an", "-Zn", "-Wn", "-l", "261", "-n", "inside", "outside")
    with outer.open("r+b") as handle:
        handle.seek(MiB)
        handle.write(made().first.read_bytes())
    extents, warnings = mapped(outer)
    assert "within a logical volume" in warnings[0]
    assert uncovered(extents, [(MiB, 261 * MiB)], outer.stat().st_size) == 0


def test_a_view_reads_across_its_pieces(tmp_path: Path) -> None:
    image = tmp_path / "bytes"
    image.write_bytes(bytes(range(256)) * 64)
    with opened(image) as device:
        view = LinearView(device, [(1000, 10), (0, 5), (300, 20)], name="v")
        whole = image.read_bytes()
        content = whole[1000:1010] + whole[0:5] + whole[300:320]
        assert view.size == 35
        assert view.read(0, 35) == content
        assert list(view.read_many([(8, 10), (34, 1), (3, 0)])) == [content[8:18], content[34:35], b""]
        assert list(view.on_device([Extent(8, 10), Extent(30, 100)])) == [
            Extent(1008, 2),
            Extent(0, 5),
            Extent(300, 3),
            Extent(315, 5),
        ]
        for offset, length in ((30, 6), (-1, 2), (36, 0)):
            with pytest.raises(TransportError):
                view.read(offset, length)


def test_the_text_is_parsed_as_lvm_writes_it() -> None:
    root = lvm_text.parse(
        '# comment {\na = 1 # more\nb = "x\\"y\\\\"\nc = [ "p", -3 ,"q" ]\nd=[]\n s-1.x+ {\n e = 0.5 }\n'
    )
    assert root.values == {"a": 1, "b": 'x"y\\', "c": ["p", -3, "q"], "d": []}
    assert root.sections["s-1.x+"].values == {"e": "0.5"}
    for damaged in (
        "a",
        "a =",
        "a = [1",
        "a = {",
        "}",
        "a {",
        'a = "x',
        "a = 1 a = 2",
        "a { } a { }",
        "a = ]",
    ):
        with pytest.raises(MapUnknown):
            lvm_text.parse(damaged)


def no_inner(view: BlockDevice, name: str) -> list[Extent]:
    return [Extent(0, view.size), Extent(-5, 3), Extent(view.size - 1, 1 << 60)]


def test_mutations_never_leave_the_partition(simple: Path) -> None:
    at, size = struct.unpack("<QQ", peek(simple, 4096 + 40, 16))
    regions = [(512, 160), (4096, 128), *[(4096 + at, size)] * 3]

    def repair(device: Patched) -> None:
        try:
            _rewrite(
                lambda at, size: device.read(START + at, size),
                lambda at, raw: device.patches.append((START + at, raw)),
                lambda text: text,
            )
        except (TransportError, UnicodeDecodeError, struct.error, MemoryError):
            return
        label = device.read(START + 512, 512)
        fixed = struct.pack("<I", lvm_metadata.checksum(label[20:]))
        device.patches.append((START + 512 + 16, fixed))

    volumes.survive(
        simple,
        lambda device, start, length: lvm.used_extents(device, start, length, no_inner),
        regions,
        rounds=1500,
        repair=repair,
    )
