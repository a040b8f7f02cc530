"""What cold disks tell of a Windows, on volumes that Windows itself made, and on damaged ones."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.command import FixtureError
from fixtures.windows import guests
from fixtures.windows.disks import write_disk
from fixtures.windows.spec import GUESTS
from fixtures.windows.volumes import BITLOCKER, NTFS, Source, volume
from p2v import command
from p2v import probe as probing
from p2v.accelerator import Accelerator
from p2v.disk.bitlocker import TO_GO_IDS, is_bitlocker, read_bitlocker
from p2v.disk.device import FileDevice
from p2v.disk.maps.errors import MapUnknown
from p2v.disk.maps.ntfs_state import NtfsState, read_state
from p2v.disk.superblock import identify
from p2v.disk.used import inspect_disk
from p2v.errors import GuestError
from p2v.guest import GuestDisk
from p2v.model import Disk, Filesystem, Finding, Goal, ImageFormat, MiB, Partition, Severity
from p2v.probe import look_at_images, look_into_image, probe
from p2v.transports import SshOptions, open_transport
from p2v.ui import UI, ProgressStyle
from p2v.windows_findings import VolumeState, findings, read_states
from tests.conftest import need_tools
from tests.disk.images import opened, partitioned, sparse
from tests.plans import make_machine

MUTATIONS = 1000
CLEAN = NtfsState(is_dirty=False, has_clean_log=True, is_hibernated=False, holds_windows=True)


def real(source: Source, name: str, folder: Path) -> Path:
    """A download that is missing fails in CI and skips elsewhere."""
    try:
        return volume(source, name, folder / f"{name}.raw")
    except FixtureError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@contextmanager
def mounted(image: Path, folder: Path) -> Iterator[Path]:
    """A volume made by mkntfs, mounted for writing by ntfs-3g."""
    need_tools("mkntfs", "ntfs-3g")
    folder.mkdir()
    command.check(["ntfs-3g", image, folder], timeout=60, reason="mount")
    try:
        yield folder
    finally:
        command.check(["umount", folder], timeout=60, reason="unmount")


def made(folder: Path, *, files: int = 0, hiberfil: bytes | None = None) -> Path:
    image = sparse(folder / "ntfs.raw", 16 * MiB)
    need_tools("mkntfs")
    command.check(["mkntfs", "-F", "-Q", "-q", image], timeout=60, reason="format")
    with mounted(image, folder / "mount") as mount:
        (mount / "WINDOWS").mkdir()
        for number in range(files):
            (mount / f"a file with a long name, number {number:04d}.txt").write_bytes(b"")
        if hiberfil is not None:
            (mount / "hiberfil.sys").write_bytes(hiberfil)
    return image


def state(image: Path) -> NtfsState:
    with opened(image) as device:
        return read_state(device, 0, device.size)


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(700)
class TestRealVolumes:
    @pytest.mark.parametrize(
        ("name", "clear"),
        [("suspended", True), ("aes-xts_256", False), ("aes_128_diffuser", False), ("vista", False)],
    )
    def test_bitlocker_is_seen_and_a_key_that_lies_open(
        self, name: str, tmp_path: Path, *, clear: bool
    ) -> None:
        with opened(real(BITLOCKER, name, tmp_path)) as device:
            found = identify(device, 0, device.size)
            assert found
            assert found.kind == "BitLocker"
            known = read_bitlocker(device, 0, device.size)
        assert known
        assert (known.is_to_go, known.has_clear_key) == (False, clear)

    def test_ntfs_by_windows(self, tmp_path: Path) -> None:
        assert state(real(NTFS, "ntfs", tmp_path)) == replace(CLEAN, holds_windows=False)
        assert not state(real(NTFS, "ntfs-cloud", tmp_path)).has_clean_log


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(os.geteuid() != 0, reason="FUSE mounts need root")
class TestMadeVolumes:
    @pytest.mark.parametrize("files", [0, 400], ids=["in the record", "in blocks of the index"])
    def test_a_hibernated_system(self, tmp_path: Path, files: int) -> None:
        """400 names do not fit into the record of the folder, nor into one block of its index."""
        image = made(tmp_path, files=files, hiberfil=b"HIBR" + bytes(8192))
        assert state(image) == replace(CLEAN, is_hibernated=True)

    @pytest.mark.parametrize(
        ("content", "asleep"),
        [(bytes(8192), False), (b"wake" + bytes(8192), False), (b"hibr" + bytes(8192), True), (b"", True)],
    )
    def test_ntfs_3g_agrees(self, tmp_path: Path, content: bytes, *, asleep: bool) -> None:
        """Nobody here wrote it, and it is what opens the volume later: it writes to none that is asleep."""
        image = made(tmp_path, hiberfil=content)
        with mounted(image, tmp_path / "again") as mount:
            if asleep:
                with pytest.raises(OSError, match="Read-only"):
                    (mount / "new").write_bytes(b"x")
            else:
                (mount / "new").write_bytes(b"x")
        assert state(image).is_hibernated is asleep

    def test_dirty(self, tmp_path: Path) -> None:
        need_tools("ntfsfix")
        image = made(tmp_path)
        assert not state(image).is_dirty
        command.check(["ntfsfix", image], timeout=60, reason="mark dirty")
        assert state(image).is_dirty

    @pytest.mark.parametrize("name", ["7", "2025"])
    def test_a_whole_disk_is_told_before_the_capture(self, tmp_path: Path, name: str) -> None:
        try:
            tree = shutil.copytree(guests.tree(name), tmp_path / "tree")
            (tree / "hiberfil.sys").write_bytes(b"HIBR" + bytes(8192))
            write_disk(GUESTS[name], tree, tmp_path / "disk.raw")
        except FixtureError as error:
            if os.environ.get("CI"):
                pytest.fail(str(error))
            pytest.skip(str(error))
        with open_transport(str(tmp_path / "disk.raw"), SshOptions()) as transport:
            seen = probe(transport, UI(style=ProgressStyle.NONE))
        (found,) = seen.findings
        assert (found.severity, "Fast Startup" in found.message) == (Severity.BLOCKER, True)
        with open_transport(str(tmp_path / "disk.raw"), SshOptions()) as transport:
            captured = probe(transport, UI(style=ProgressStyle.NONE), Goal.CAPTURE)
        assert [one.severity for one in captured.findings] == [Severity.WARNING]
        again = look_at_images(captured, [GuestDisk(tmp_path / "disk.raw", ImageFormat.RAW)])
        assert again.findings == (*captured.findings, found)

    def test_mutations_of_what_is_parsed(self, tmp_path: Path) -> None:
        image = made(tmp_path, files=60, hiberfil=b"HIBR" + bytes(8192))
        content = image.read_bytes()
        records = [at for at in range(0, len(content), 1024) if content[at : at + 4] in (b"FILE", b"INDX")]
        chance = random.Random(6)
        with image.open("r+b") as file:
            for _ in range(MUTATIONS):
                place = chance.choice([0, *records])
                at = place + chance.randrange(512)
                old = content[at : at + 4]
                file.seek(at)
                file.write(chance.choice([chance.randbytes(4), b"\xff" * 4, bytes(4)]))
                file.flush()
                answer(image)
                file.seek(at)
                file.write(old)


def answer(image: Path) -> None:
    """A state, or a refusal; nothing else."""
    with contextlib.suppress(MapUnknown):
        state(image)


def boot_sector(signature: bytes, *, places: tuple[int, int, int] = (0, 0, 0)) -> bytes:
    head = bytearray(512)
    head[3:11] = signature
    struct.pack_into("<3Q", head, 440 if signature == b"MSWIN4.1" else 176, *places)
    head[424:440] = TO_GO_IDS[0].bytes_le
    head[82:90] = b"FAT32   "
    head[510:512] = b"\x55\xaa"
    return bytes(head)


def metadata(*protections: int) -> bytes:
    keys = b"".join(
        struct.pack("<HHHH", 44, 2, 8, 1) + bytes(26) + struct.pack("<H", kind) + bytes(8)
        for kind in protections
    )
    header = b"-FVE-FS-" + bytes(56) + struct.pack("<III", 48 + len(keys), 1, 48) + bytes(36)
    return header + keys


def test_to_go_is_not_taken_for_fat(tmp_path: Path) -> None:
    """A map of its FAT would call most of what is encrypted free."""
    image = sparse(tmp_path / "stick.raw", 4 * MiB)
    with image.open("r+b") as file:
        file.write(boot_sector(b"MSWIN4.1", places=(MiB, 2 * MiB, 3 * MiB)))
        file.seek(2 * MiB)
        file.write(metadata(0x0800, 0x0000))
    with opened(image) as device:
        found = identify(device, 0, device.size)
        known = read_bitlocker(device, 0, device.size)
    assert found
    assert found.kind == "BitLocker"
    assert known
    assert (known.is_to_go, known.has_clear_key) == (True, True)
    assert not is_bitlocker(boot_sector(b"MSWIN4.1").replace(TO_GO_IDS[0].bytes_le, bytes(16)))


def test_mutations_of_bitlocker(tmp_path: Path) -> None:
    image = sparse(tmp_path / "disk.raw", 4 * MiB)
    content = boot_sector(b"-FVE-FS-", places=(MiB, 1 << 63, 4 * MiB - 60)), metadata(0x2000, 0x0000, 0x0100)
    chance = random.Random(6)
    for _ in range(MUTATIONS):
        head, keys = (bytearray(part) for part in content)
        head[176 + chance.randrange(24)] ^= chance.randrange(256)
        keys[chance.randrange(64, len(keys))] ^= chance.randrange(256)
        with image.open("r+b") as file:
            file.write(head)
            file.seek(MiB)
            file.write(keys)
        with opened(image) as device:
            assert read_bitlocker(device, 0, device.size) is not None


def disk(*kinds: str, types: tuple[str, ...] = (), path: str = "/dev/sda") -> Disk:
    parts = tuple(
        Partition(number, number * MiB, MiB, types[number - 1] if types else "07", filesystem=filesystem)
        for number, kind in enumerate(kinds, 1)
        for filesystem in [Filesystem(kind, MiB) if kind else None]
    )
    return Disk(path, 64 * MiB, partitions=parts)


def about(one: Disk, *states: NtfsState | None) -> list[Finding]:
    volumes = [VolumeState(one, part, ntfs=each) for part, each in zip(one.partitions, states, strict=False)]
    return list(findings([one], volumes))


def test_what_a_sleeping_windows_blocks() -> None:
    asleep = replace(CLEAN, is_hibernated=True, has_clean_log=False)
    (found,) = about(disk("ntfs"), asleep)
    assert found.severity is Severity.BLOCKER
    assert "shutdown /s /f /t 0" in found.hint
    (beside,) = about(disk("ntfs", "ext4"), asleep)
    assert beside.severity is Severity.WARNING


def test_an_unclean_log_blocks_where_the_conversion_writes() -> None:
    (system,) = about(disk("ntfs"), replace(CLEAN, has_clean_log=False))
    (data,) = about(disk("ntfs"), replace(CLEAN, has_clean_log=False, holds_windows=False))
    assert (system.severity, data.severity) == (Severity.BLOCKER, Severity.WARNING)
    assert about(disk("ntfs"), CLEAN) == []
    (dirty,) = about(disk("ntfs"), replace(CLEAN, is_dirty=True))
    assert (dirty.severity, "chkdsk" in dirty.hint) == (Severity.WARNING, True)


def test_encrypted_data_beside_a_readable_system_stays_encrypted(tmp_path: Path) -> None:
    image = sparse(tmp_path / "disk.raw", 4 * MiB)
    image.write_bytes(boot_sector(b"-FVE-FS-").ljust(4 * MiB, b"\0"))
    one = disk("BitLocker", "ntfs")
    with opened(image) as device:
        locked = read_bitlocker(device, 0, device.size)
    alone = VolumeState(one, one.partitions[0], bitlocker=locked)
    (blocks,) = findings([one], [alone])
    assert (blocks.severity, "manage-bde -off C:" in blocks.hint) == (Severity.BLOCKER, True)
    (stays,) = findings([one], [alone, VolumeState(one, one.partitions[1], ntfs=CLEAN)])
    assert (stays.severity, "recovery key" in stays.message) == (Severity.WARNING, True)


@pytest.mark.tools
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("label: dos\nstart=2048, type=42", "dynamic disk"),
        ("label: gpt\nstart=2048, type=AF9B60A0-1431-4F62-BC68-3311714A69AD", "dynamic disk"),
        ("label: gpt\nstart=2048, type=E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D", "Storage Spaces"),
    ],
)
def test_disks_that_hold_no_plain_volumes(tmp_path: Path, script: str, words: str) -> None:
    """The types are those that sfdisk wrote, not those of our own table."""
    image = partitioned(tmp_path / "disk.raw", script, 16 * MiB)
    with opened(image) as device:
        seen = inspect_disk(device, Disk(str(image), 16 * MiB))
    (found,) = findings([seen], [])
    assert words in found.message
    assert found.severity is (Severity.BLOCKER if "dynamic" in words else Severity.WARNING)
    other = disk("ntfs", path="/dev/sdb")
    both = findings([seen, other], [VolumeState(other, other.partitions[0], ntfs=CLEAN)])
    assert {one.severity for one in both} == {Severity.WARNING}


def test_a_disk_in_use_says_nothing(tmp_path: Path) -> None:
    """Its volumes are never at rest: every log is open, and Windows itself holds it still."""
    image = sparse(tmp_path / "disk.raw", 4 * MiB)
    with opened(image) as device:
        live = type("Live", (FileDevice,), {"live": True})
        device.__class__ = live
        assert list(read_states(device, disk("ntfs"))) == []


def test_a_blocker_that_was_seen_on_the_disks_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the appliance says of a locked volume is that there is no system on it."""

    def nothing(*_: object, **__: object) -> None:
        raise GuestError("No operating system was found")

    monkeypatch.setattr(probing, "open_guest", nothing)
    machine = replace(make_machine(), findings=())
    (told,) = look_into_image(machine, (), Accelerator.TCG).findings
    assert told.severity is Severity.BLOCKER
    locked = replace(machine, findings=(Finding(Severity.BLOCKER, "It is encrypted with BitLocker"),))
    assert look_into_image(locked, (), Accelerator.TCG) == locked
