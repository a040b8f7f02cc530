"""The table of digests: what is kept in runs reads as one piece, whatever was written where."""

from __future__ import annotations

import hashlib

import pytest

from p2v.disk.digests import DIGEST_SIZE, RUN, BlockSet, DigestTable, block_count, block_length
from p2v.errors import VerifyError
from p2v.model import BLOCK_SIZE

SIZE = (2 * RUN + 5) * BLOCK_SIZE + 512
DIGEST = hashlib.sha256(b"something").digest()
PLACES = (0, 7, RUN - 1, 2 * RUN, 2 * RUN + 5)


def plain(places: tuple[int, ...]) -> bytes:
    """The table of a disk that is zero but for these blocks, made the long way."""
    zeros = {length: hashlib.sha256(bytes(length)).digest() for length in (BLOCK_SIZE, 512)}
    return b"".join(
        DIGEST if index in places else zeros[block_length(index, SIZE)] for index in range(block_count(SIZE))
    )


@pytest.mark.parametrize("places", [(), *((place,) for place in PLACES), PLACES])
def test_a_table_is_what_the_long_way_makes(places: tuple[int, ...]) -> None:
    table = DigestTable(SIZE)
    for place in places:
        table[place] = DIGEST
    content = b"".join(table.pieces())
    assert content == plain(places)
    assert table.summary == hashlib.sha256(content).hexdigest()
    again = DigestTable(SIZE, content)
    assert [again[place] for place in range(block_count(SIZE))] == [
        content[at : at + DIGEST_SIZE] for at in range(0, len(content), DIGEST_SIZE)
    ]
    assert again.first_not_zero(0, block_count(SIZE)) == (places[0] if places else None)


def test_a_block_can_become_zero_again() -> None:
    table = DigestTable(SIZE)
    table[RUN] = DIGEST
    table[RUN] = hashlib.sha256(bytes(BLOCK_SIZE)).digest()
    assert b"".join(table.pieces()) == plain(())
    assert table.first_not_zero(0, block_count(SIZE)) is None


def test_only_what_is_asked_for_is_looked_at() -> None:
    table = DigestTable(SIZE)
    table[RUN + 3] = DIGEST
    assert table.first_not_zero(RUN, RUN + 3) is None
    assert table.first_not_zero(RUN + 3, RUN + 4) == RUN + 3
    assert table.first_not_zero(RUN + 4, block_count(SIZE)) is None


def test_a_table_of_another_size_is_refused() -> None:
    with pytest.raises(VerifyError):
        DigestTable(SIZE, plain(())[:-1])


def test_a_range_of_blocks_ends_with_the_image() -> None:
    blocks = BlockSet(4 * BLOCK_SIZE)
    blocks.add_range(BLOCK_SIZE - 1, 2)
    assert [index for index in range(4) if index in blocks] == [0, 1]
    blocks.add_range(3 * BLOCK_SIZE, 100 * BLOCK_SIZE)
    blocks.add_range(50 * BLOCK_SIZE, BLOCK_SIZE)
    assert [index for index in range(4) if index in blocks] == [0, 1, 3]
