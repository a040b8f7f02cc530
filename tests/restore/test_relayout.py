"""Where partitions go on a disk of another size: decisions on values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v.errors import PlanRefused
from p2v.model import Disk, Filesystem, GiB, ImageFormat, MiB, TableKind
from p2v.restore.model import DiskMove, Resize, SourceDisk
from p2v.restore.relayout import BIOS_BOOT, fits, relayout
from tests.restore.moves import move, partition

ROOT_AND_SWAP = (partition(1, 1, 700), partition(2, 701, 200, "swap"))


def places(one: DiskMove) -> dict[int, tuple[int, int]]:
    return {place.number: (place.start // MiB, place.length // MiB) for place in relayout(one).places}


def test_the_last_that_can_grow_takes_it_all_and_swap_moves_behind_it() -> None:
    assert places(move(*ROOT_AND_SWAP)) == {1: (1, 700 + 2048 - 901), 2: (2048 - 200, 200)}


def test_a_chosen_partition_grows_and_all_behind_it_moves() -> None:
    three = (partition(1, 1, 200), partition(2, 201, 200), partition(3, 401, 200))
    assert places(move(*three, number=1)) == {1: (1, 1647), 2: (1648, 200), 3: (1848, 200)}


def test_a_gpt_leaves_room_for_its_backup() -> None:
    (place,) = relayout(move(partition(1, 1, 1000), table=TableKind.GPT)).places
    assert place.start + place.length <= 2 * GiB - 33 * 512
    assert 2 * GiB - place.start - place.length <= 2 * MiB


def test_an_mbr_ends_where_its_numbers_end() -> None:
    (place,) = relayout(move(partition(1, 1, 1000), target=8192 * GiB)).places
    assert (place.start + place.length) // 512 <= 0xFFFFFFFF


def test_kept_as_it_is_nothing_moves_on_a_larger_disk() -> None:
    layout = relayout(move(*ROOT_AND_SWAP, resize=Resize.KEEP))
    assert layout.changed is None
    assert not any(place.moved for place in layout.places)


def test_a_smaller_disk_takes_it_from_what_has_space() -> None:
    one = move(
        partition(1, 1, 700, used=100), partition(2, 701, 300, "swap"), target=600 * MiB, resize=Resize.SHRINK
    )
    assert places(one) == {1: (1, 299), 2: (300, 300)}


def test_free_space_at_the_end_goes_first() -> None:
    one = move(partition(1, 1, 200), target=512 * MiB, resize=Resize.SHRINK)
    assert relayout(one).changed is None


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (move(partition(1, 1, 900, used=800), target=512 * MiB, resize=Resize.SHRINK), "can spare 0"),
        (move(partition(1, 1, 900, "xfs"), target=512 * MiB, resize=Resize.SHRINK), "XFS cannot be made"),
        (move(partition(1, 1, 900, "ntfs", used=None), target=512 * MiB, resize=Resize.SHRINK), "not known"),
        (move(partition(1, 1, 900, ""), target=512 * MiB, resize=Resize.SHRINK), "unknown content"),
        (move(partition(1, 1, 900, used=1), target=512 * MiB, resize=Resize.KEEP), "too small"),
        (move(partition(1, 1, 900, used=1), target=512 * MiB, resize=Resize.GROW), "too small"),
        (move(partition(1, 1, 900), number=7), "no partition 7"),
        (move(*ROOT_AND_SWAP, number=2), "cannot be made larger"),
        (move(partition(1, 1, 900), sectors=4096), "sectors of 4096"),
        (
            move(partition(1, 1, 900), partition(2, 901, 1, "", type_id=BIOS_BOOT), table=TableKind.GPT),
            "second stage of a boot loader",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_the_plan(one: DiskMove, words: str) -> None:
    with pytest.raises(PlanRefused, match=words):
        relayout(one)
    finding = fits(one)
    assert finding is not None
    assert words in finding.message


def test_a_small_partition_before_a_large_one_does_not_grow_unasked() -> None:
    boot, system = partition(1, 1, 100), partition(2, 101, 800, "unknown")
    assert relayout(move(boot, system)).changed is None
    assert relayout(move(boot, system, number=1)).changed is not None


def test_what_is_encrypted_gets_a_larger_partition() -> None:
    layout = relayout(move(partition(1, 1, 100), partition(5, 101, 800, "crypto_LUKS")))
    assert layout.changed is not None
    assert layout.changed.number == 5


def test_the_recovery_of_a_windows_moves_and_does_not_grow() -> None:
    recovery = partition(4, 801, 100, "ntfs", type_id="27")
    assert places(move(partition(3, 1, 800, "ntfs"), recovery)) == {3: (1, 1947), 4: (1948, 100)}


def test_what_fits_is_no_finding() -> None:
    assert fits(move(*ROOT_AND_SWAP)) is None


def test_a_filesystem_without_a_table_is_one_place() -> None:
    disk = Disk("d", GiB, filesystem=Filesystem("ext4", GiB, 0))
    one = DiskMove(0, SourceDisk(Path("d"), ImageFormat.RAW, disk), move().target, Resize.GROW)
    (place,) = relayout(one).places
    assert (place.start, place.length) == (0, 2 * GiB)


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    used=st.lists(st.integers(0, 300), min_size=6, max_size=6),
    target=st.integers(64, 4096),
    resize=st.sampled_from(Resize),
    table=st.sampled_from([TableKind.GPT, TableKind.MBR]),
)
def test_nothing_overlaps_leaves_the_disk_or_loses_its_data(
    lengths: list[int], used: list[int], target: int, resize: Resize, table: TableKind
) -> None:
    """Whatever is asked for, it is refused or it is right."""
    parts, start = [], 1
    for number, length in enumerate(lengths, start=1):
        parts.append(partition(number, start, length, used=min(used[number - 1], length)))
        start += length
    one = move(*parts, size=(start + 1) * MiB, target=target * MiB, resize=resize, table=table)
    try:
        layout = relayout(one)
    except PlanRefused:
        return
    end = 0
    for place in sorted(layout.places, key=lambda place: place.start):
        assert place.start >= max(end, MiB)
        end = place.start + place.length
        space = place.partition.filesystem
        assert space is not None
        assert place.length >= (space.used or 0)
        assert place is layout.changed or place.length == place.partition.length
    assert end <= target * MiB - (33 * 512 if table is TableKind.GPT else 0)
