"""What a receipt says of the registry: each key and value once, from what it was to what it became."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.paths import WindowsPaths
from conversions.nt.registry import dword, sz
from p2v.model import ChangeKind
from tests.conversions.nt.memory_hives import MemoryHive
from tests.tree_guest import TreeGuest

PATH = "/Windows/System32/config/SYSTEM"


@pytest.fixture
def hive() -> MemoryHive:
    hive = MemoryHive()
    hive.set("Set\\Services\\disk", dword("Start", 3))
    hive.set("Set\\Services\\disk\\StartOverride", dword("0", 3))
    hive.set("Set\\Services\\disk\\StartOverride\\Deeper", sz("x", "y"))
    return hive


@pytest.fixture
def record() -> RegistryRecord:
    return RegistryRecord()


@pytest.fixture
def edits(hive: MemoryHive, record: RegistryRecord) -> RegistryEdits:
    return RegistryEdits(hive, PATH, record)


def test_a_value_that_is_right_is_left_alone(
    hive: MemoryHive, edits: RegistryEdits, record: RegistryRecord
) -> None:
    writes = hive.writes
    edits.set("set\\services\\DISK", dword("START", 3), "no reason")
    edits.remove_value("Set\\Services\\disk", "Nothing", "no reason")
    edits.remove_key("Set\\Services\\nothing", "no reason")
    assert hive.writes == writes
    assert record.changes == ()


def test_a_value_keeps_the_case_that_the_guest_gave_its_name(
    edits: RegistryEdits, record: RegistryRecord
) -> None:
    edits.set("Set\\Services\\disk", dword("START", 0), "to start")
    (change,) = record.changes
    assert (change.name, change.before, change.after) == ("Start", "dword:00000003", "dword:00000000")
    assert (change.kind, change.hive, change.reason) == (ChangeKind.EDITED, PATH, "to start")


def test_keys_that_are_made_on_the_way_are_named(edits: RegistryEdits, record: RegistryRecord) -> None:
    edits.set("Set\\New\\Newer", sz("", "text"), "new")
    assert [(change.key, change.name, change.kind) for change in record.changes] == [
        ("Set\\New", None, ChangeKind.CREATED),
        ("Set\\New\\Newer", None, ChangeKind.CREATED),
        ("Set\\New\\Newer", "", ChangeKind.CREATED),
    ]


def test_a_key_that_goes_is_named_with_all_that_was_in_it(
    hive: MemoryHive, edits: RegistryEdits, record: RegistryRecord
) -> None:
    edits.remove_key("Set\\Services\\disk\\StartOverride", "starts again")
    assert not hive.has("Set\\Services\\disk\\StartOverride")
    assert {(change.key.rsplit("\\", 1)[-1], change.name, change.before) for change in record.changes} == {
        ("StartOverride", "0", "dword:00000003"),
        ("Deeper", "x", "sz:y"),
        ("Deeper", None, ""),
        ("StartOverride", None, ""),
    }
    assert {change.kind for change in record.changes} == {ChangeKind.REMOVED}


def test_what_came_out_as_it_was_is_no_change(edits: RegistryEdits, record: RegistryRecord) -> None:
    edits.set("Set\\Services\\disk", dword("Start", 0), "first")
    edits.set("Set\\Services\\disk", dword("Start", 3), "second")
    edits.set("Set\\Passing", sz("x", "y"), "first")
    edits.remove_key("Set\\Passing", "second")
    assert record.changes == ()


def test_two_changes_of_one_value_are_one_with_both_reasons(
    edits: RegistryEdits, record: RegistryRecord
) -> None:
    edits.set("Set\\Services\\disk", dword("Start", 1), "first")
    edits.set("Set\\Services\\Disk", dword("start", 0), "second")
    (change,) = record.changes
    assert (change.before, change.after) == ("dword:00000003", "dword:00000000")
    assert change.reason == "first; second"


def test_values_of_other_types_that_look_alike_differ(edits: RegistryEdits, record: RegistryRecord) -> None:
    edits.set("Set\\Services\\disk", sz("Start", "3"), "a text now")
    assert record.changes[0].after == "sz:3"


@pytest.fixture
def tree(tmp_path: Path) -> TreeGuest:
    for name in ("WINDOWS/system32/drivers/ATAPI.SYS", "Windows.old/x", "Büro [1]/Datei", "ÜBER/y"):
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"")
    return TreeGuest(tmp_path)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("/Windows/System32/Drivers/atapi.sys", "/WINDOWS/system32/drivers/ATAPI.SYS"),
        ("Windows\\System32\\drivers\\new.sys", "/WINDOWS/system32/drivers/new.sys"),
        ("/büro [1]/DATEI", "/Büro [1]/Datei"),
        ("/über/Y", "/ÜBER/y"),
        ("/Windows/../../../windows.OLD/X", "/Windows.old/x"),
        ("/nothing/Here/*", "/nothing/Here/*"),
    ],
)
def test_paths_are_found_in_any_case_and_stay_in_the_guest(tree: TreeGuest, asked: str, found: str) -> None:
    paths = WindowsPaths(tree)
    assert paths.find(asked) == found
    assert paths.find(asked) == found  # the second time from memory


def test_what_is_made_later_is_found(tree: TreeGuest) -> None:
    paths = WindowsPaths(tree)
    assert paths.find("/Windows/inf/oem0.inf") == "/WINDOWS/inf/oem0.inf"
    tree.mkdir("/WINDOWS/INF")
    assert paths.find("/Windows/inf/oem0.inf") == "/WINDOWS/INF/oem0.inf"
