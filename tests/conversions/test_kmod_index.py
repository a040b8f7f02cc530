"""The indexes of kmod: as depmod itself writes them, read back by modprobe, and hostile ones."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversions.kmod_index import Entry, read_index, write_index
from p2v.errors import GuestError
from tests.conftest import need_tools

NAMES = ("modules.dep.bin", "modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin")
KEYS = st.text(st.characters(min_codepoint=1, max_codepoint=127), min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=1, max_codepoint=0x2FF), max_size=12)
ENTRIES = st.lists(st.builds(Entry, KEYS, VALUES, st.integers(0, 2**32 - 1)), max_size=30)


@pytest.mark.tools
@pytest.mark.parametrize("name", NAMES)
def test_what_depmod_wrote_comes_out_byte_for_byte(name: str) -> None:
    need_tools("depmod")
    found = sorted(Path("/lib/modules").glob(f"*/{name}"))
    if not found:
        pytest.skip("this host has no kernel modules")
    data = found[-1].read_bytes()
    entries = read_index(data)
    assert len(entries) > 100
    assert write_index(entries) == data


@given(ENTRIES)
def test_all_entries_come_back(entries: list[Entry]) -> None:
    found = read_index(write_index(entries))
    assert sorted(found, key=repr) == sorted(entries, key=repr)


@given(ENTRIES)
def test_values_of_a_key_come_by_priority(entries: list[Entry]) -> None:
    for key in {entry.key for entry in entries}:
        found = [entry.priority for entry in read_index(write_index(entries)) if entry.key == key]
        assert found == sorted(found)


@settings(max_examples=200)
@given(st.data())
def test_damage_is_an_error_of_the_guest(data: st.DataObject) -> None:
    bad = bytearray(
        write_index([Entry("virtio_blk", "kernel/a.ko: kernel/b.ko", 3), Entry("virtio", "x", 1)])
    )
    for _ in range(data.draw(st.integers(1, 6))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(GuestError):
        read_index(bytes(bad[: data.draw(st.integers(0, len(bad)))]))


def test_a_node_that_leads_to_itself_ends() -> None:
    looped = bytearray(write_index([Entry("a", "x"), Entry("b", "y")]))
    root = int.from_bytes(looped[8:12], "big")
    start = root & 0x0FFFFFFF
    looped[start + 2 : start + 6] = root.to_bytes(4, "big")
    with pytest.raises(GuestError, match="damaged"):
        read_index(bytes(looped))


@pytest.mark.parametrize("data", [b"", b"\xb0\x07\xf4\x57", bytes(64)])
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(GuestError):
        read_index(data)


def test_a_name_that_is_not_ascii_is_refused() -> None:
    with pytest.raises(GuestError, match="ASCII"):
        write_index([Entry("straße", "x")])
