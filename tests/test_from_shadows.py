"""Captures of a Windows that goes on writing, over a real sshd with an emulator behind it: one moment or
not?
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import command, rooms
from p2v.capture import capture
from p2v.errors import TransportError
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import CapturePass, Consistency, ConsistencyWish, MiB, PassKind, PlannedDisk, Reached
from p2v.passes import Passes
from p2v.probe import probe
from p2v.run import create_run
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.plans import make_plan
from tests.transports.mono_host import build_host
from tests.transports.windows_source import (
    FAT_SIZE,
    FAT_START,
    NTFS_SIZE,
    NTFS_START,
    SYSTEM,
    WindowsSource,
    windows_source,
)

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]

CLUSTER = 4096
FREE = 9000
"""A cluster of the volume that nothing of it uses: its files end far before."""
LATER = b"written after the moment"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WindowsSource]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with windows_source(tmp_path) as made:
        made.change(bitmap=str(bitmap(tmp_path / "bits", used=())))
        yield made


def bitmap(path: Path, *, used: tuple[int, ...]) -> Path:
    """What Windows would say: its clusters, of which these are used (beside those that the volume says)."""
    clusters = (NTFS_SIZE - 512) // CLUSTER
    bits = bytearray(-(-clusters // 8))
    for cluster in used:
        bits[cluster // 8] |= 1 << cluster % 8
    path.write_bytes(struct.pack("<QQ", CLUSTER, clusters) + bits)
    return path


@contextmanager
def opened(source: WindowsSource) -> Iterator[tuple[Source, House]]:
    house = House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), source.folder / "home")
    sshd = source.sshd
    job = Job(
        sshd.url,
        ("libvirt",),
        source.folder,
        identity=sshd.identity,
        known_hosts=sshd.known_hosts,
        retry_for="20s",
    )
    with Source(job, house) as reached:
        yield reached, house


def capture_from(
    source: WindowsSource, *, wish: str = "auto", grade: str = "snapshot"
) -> tuple[Path, Reached]:
    """The image, which was read back and compared, and what the receipt says of it."""
    with opened(source) as (reached, house):
        machine = probe(reached.transport(), house.ui)
        plan = replace(
            make_plan(),
            machine=machine,
            disks=(PlannedDisk(0, machine.disks[0], machine.disks[0].data_size),),
            prove=False,
            consistency=Consistency(grade),
            consistency_wish=ConsistencyWish(wish),
        )
        with create_run(source.folder / "runs", "windows", plan, job={}, order=rooms.order(plan)) as held:
            stats = capture(held, plan, reached, house)[1]
            assert stats.reached
            return held.capture_dir / "disk0.raw", stats.reached


def before_the_pass(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    """Between the snapshots and the pass over them."""
    real = Passes.run_on

    def run_on(passes: Passes, kind: PassKind, *words: object, **named: object) -> CapturePass:
        if kind is PassKind.SNAPSHOT:
            action()
        return real(passes, kind, *words, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Passes, "run_on", run_on)


def write(source: WindowsSource, offset: int, content: bytes) -> None:
    with source.image.open("r+b") as disk:
        disk.seek(offset)
        disk.write(content)


def volume_of(image: Path, folder: Path) -> Path:
    path = folder / "volume.img"
    with image.open("rb") as disk:
        disk.seek(NTFS_START)
        path.write_bytes(disk.read(NTFS_SIZE))
    return path


def test_the_copy_is_of_the_moment_of_the_snapshot(
    source: WindowsSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NTFS from its snapshot, whatever is written meanwhile; everything else as it is on the disk."""
    need_tools("ntfsfix", "ntfscat")
    before = source.image.read_bytes()
    files = before.index(b"A" * 4096, NTFS_START)

    def go_on() -> None:
        write(source, files, LATER)
        write(source, NTFS_START, bytes(512))
        write(source, FAT_START + FAT_SIZE - 512, LATER)

    before_the_pass(monkeypatch, go_on)
    image, reached = capture_from(source)
    assert (reached.grade, reached.warnings, reached.span_seconds) == (Consistency.SNAPSHOT, (), 0.0)
    assert [one.kind for one in reached.passes] == [PassKind.SNAPSHOT]
    copy = image.read_bytes()
    assert LATER not in copy[NTFS_START : NTFS_START + NTFS_SIZE]
    assert copy[FAT_START + FAT_SIZE - 512 :].startswith(LATER)
    assert copy[:MiB] == before[:MiB]
    volume = volume_of(image, tmp_path)
    command.check(["ntfsfix", "-n", volume], timeout=30, reason="check a copy")
    said = command.check(["ntfscat", volume, "/file0.txt"], timeout=30, reason="read a copy")
    assert said == "A" * (3 * MiB) + "end"
    source.wait_until_clean()


def test_what_only_windows_calls_used_is_copied_too(source: WindowsSource, tmp_path: Path) -> None:
    """And what neither calls used is not."""
    for cluster in (FREE, FREE + 50):
        write(source, NTFS_START + cluster * CLUSTER, bytes([cluster % 251]) * CLUSTER)
    bitmap(tmp_path / "bits", used=(FREE,))
    image, _ = capture_from(source)
    copy = volume_of(image, tmp_path).read_bytes()
    assert copy[FREE * CLUSTER : (FREE + 1) * CLUSTER] == bytes([FREE % 251]) * CLUSTER
    assert not any(copy[(FREE + 50) * CLUSTER : (FREE + 51) * CLUSTER])


def test_a_windows_that_does_not_say_what_is_used_is_told_of(source: WindowsSource) -> None:
    source.change(bitmap="")
    _, reached = capture_from(source)
    assert reached.grade is Consistency.SNAPSHOT
    assert ["does not say what is used" in one for one in reached.warnings] == [True]


def test_without_a_snapshot_it_is_fuzzy_and_says_why(source: WindowsSource) -> None:
    source.change(vss={SYSTEM: 6})
    image, reached = capture_from(source)
    assert reached.grade is Consistency.FUZZY
    (warning,) = reached.warnings
    assert "no snapshot of C:\\" in warning
    assert "vssadmin resize shadowstorage" in warning
    assert image.read_bytes()[NTFS_START + 3 : NTFS_START + 7] == b"NTFS"


def test_who_wants_a_snapshot_gets_nothing_less(source: WindowsSource) -> None:
    source.change(vss={SYSTEM: 10})
    with pytest.raises(TransportError, match="a program refuses") as caught:
        capture_from(source, wish="snapshot")
    assert "vssadmin list writers" in caught.value.hint


def test_a_keeper_that_does_not_start_makes_it_fuzzy(source: WindowsSource) -> None:
    source.change(fault="no keeper")
    _, reached = capture_from(source)
    assert reached.grade is Consistency.FUZZY
    assert "WMI does not start a process" in reached.warnings[0]


def test_a_snapshot_that_windows_gave_up_does_not_count(source: WindowsSource) -> None:
    source.change(gone=["{1}"])
    _, reached = capture_from(source)
    assert reached.grade is Consistency.FUZZY
    assert "gave up" in reached.warnings[0]


def test_a_snapshot_that_stays_is_told_with_the_command(source: WindowsSource) -> None:
    source.change(left=["{3808876b-c176-4e48-b7ae-04046e6cc752}"])
    _, reached = capture_from(source)
    assert reached.warnings == (
        "A snapshot could not be removed: vssadmin delete shadows "
        "/shadow={3808876b-c176-4e48-b7ae-04046e6cc752}",
    )


def test_a_volume_that_is_encrypted_by_now_is_not_copied(
    source: WindowsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its snapshot would be plaintext; the scan says so before, where it was so then."""
    real = Passes.guard

    def guard(passes: Passes) -> object:
        write(source, NTFS_START + 3, b"-FVE-FS-")
        return real(passes)

    monkeypatch.setattr(Passes, "guard", guard)
    with pytest.raises(TransportError, match=r"C:\\ is encrypted with BitLocker") as caught:
        capture_from(source)
    assert caught.value.hint == "On the source: manage-bde -off C:"


def test_a_line_that_is_cut_is_tried_again_with_new_snapshots(
    source: WindowsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts: list[int] = []

    def cut_once() -> None:
        if not cuts:
            cuts.append(1)
            source.sshd.cut()

    before_the_pass(monkeypatch, cut_once)
    _, reached = capture_from(source)
    assert reached.grade is Consistency.SNAPSHOT
    assert source.log().count("created ") == 2


def test_the_real_reader_of_the_script_makes_the_same_copy(source: WindowsSource, tmp_path: Path) -> None:
    """The C# that Windows compiles, under Mono, behind the whole way from ssh to the image read back."""
    before = source.image.read_bytes()
    (tmp_path / "mono").mkdir()
    source.change(mono=str(build_host(tmp_path / "mono")), tail=512)
    bits = (tmp_path / "bits").read_bytes()[16:]
    Path(source.folder / "shadows" / "shadow1.img.bits").write_bytes(bits)
    image, reached = capture_from(source)
    assert (reached.grade, reached.warnings) == (Consistency.SNAPSHOT, ())
    copy = image.read_bytes()
    for start in range(0, len(copy), 65536):
        piece = copy[start : start + 65536]
        assert piece == before[start : start + 65536] or not any(piece)
    assert "the real reader" in source.log()
    volume = volume_of(image, tmp_path)
    command.check(["ntfsfix", "-n", volume], timeout=30, reason="check a copy")
    said = command.check(["ntfscat", volume, "/file2.txt"], timeout=30, reason="read a copy")
    assert said == "C" * (3 * MiB) + "end"


def test_a_reader_that_is_killed_in_the_middle(
    source: WindowsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source.image.read_bytes()
    fail_in_the_pass(source, monkeypatch, "killed")
    image, reached = capture_from(source)
    assert reached.grade is Consistency.SNAPSHOT
    assert image.read_bytes()[:FAT_START] == before[:FAT_START]


def test_nonsense_in_the_middle_is_an_error_and_no_copy(
    source: WindowsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in_the_pass(source, monkeypatch, "nonsense")
    with pytest.raises(TransportError):
        capture_from(source)
    assert not list(source.folder.glob("runs/**/disk0.raw"))
    source.wait_until_clean()


def fail_in_the_pass(source: WindowsSource, monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    faults = [fault]

    def arm() -> None:
        if faults:
            (source.folder / "log.now").write_text(faults.pop())

    before_the_pass(monkeypatch, arm)
