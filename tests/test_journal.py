"""What is read back from a run equals what was written, and nonsense is refused in words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2v.errors import UsageError
from p2v.journal import (
    JOURNAL,
    RECEIPT,
    Difference,
    Journal,
    differences,
    read_journal_text,
    read_receipt_text,
    to_json,
)
from p2v.model import Disk, Firmware, Nic, Plan, Receipt, Step
from tests.plans import make_journal, make_plan

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=st.from_type(Plan),
    steps=st.lists(st.from_type(Step), max_size=3),
    job=st.dictionaries(st.text(), JSON),
)
def test_any_journal_comes_back_as_it_was(plan: Plan, steps: list[Step], job: dict[str, object]) -> None:
    journal = Journal(1, "id", "name", "now", "0", job=job, plan=plan, order=("a",), steps=tuple(steps))  # type: ignore[arg-type]
    assert read_journal_text(to_json(JOURNAL, journal), where="run.json") == journal
    assert differences(plan, plan) == ()


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(receipt=st.from_type(Receipt))
def test_any_receipt_comes_back_as_it_was(receipt: Receipt) -> None:
    back = read_receipt_text(to_json(RECEIPT, receipt), where="receipt.json")
    assert back == receipt
    assert hash(back) == hash(receipt), "tuples must come back as tuples, choices as choices"


def test_the_file_is_readable_json_with_plain_values() -> None:
    value = json.loads(to_json(JOURNAL, make_journal()))
    assert value["format"] == 1
    assert value["plan"]["firmware"] == "uefi"
    assert value["plan"]["machine"]["disks"][0]["serial"] == "WD-1"


def test_a_journal_cut_at_any_place_is_refused() -> None:
    whole = to_json(JOURNAL, make_journal())
    for length in range(0, len(whole.rstrip()), 97):
        with pytest.raises(UsageError, match=r"run\.json is damaged") as caught:
            read_journal_text(whole[:length], where="run.json")
        assert caught.value.hint


def test_a_newer_journal_is_called_newer_whatever_else_it_holds() -> None:
    with pytest.raises(UsageError, match="newer p2v") as caught:
        read_journal_text(b'{"format": 2, "everything": "else"}', where="run.json")
    assert "Upgrade" in caught.value.hint


@pytest.mark.parametrize(
    "nonsense",
    [
        b"",
        b"\0" * 100,
        b"[]",
        b"null",
        b"42",
        b"[" * 100_000,
        b'{"format": "1"}',
        b'{"format": 1}',
        b"\xff\xfe{}",
    ],
)
def test_nonsense_is_refused(nonsense: bytes) -> None:
    with pytest.raises(UsageError, match="damaged"):
        read_journal_text(nonsense, where="run.json")


@pytest.mark.parametrize(
    ("field", "value"),
    [("plan", {}), ("steps", [{}]), ("steps", None), ("job", 3), ("id", 7), ("order", [[]]), ("format", 0)],
)
def test_a_field_edited_by_hand_is_named(field: str, value: object) -> None:
    edited = json.loads(to_json(JOURNAL, make_journal())) | {field: value}
    with pytest.raises(UsageError, match=f"damaged: {field}"):
        read_journal_text(json.dumps(edited).encode(), where="run.json")


def test_a_name_that_is_no_text_is_refused_before_it_is_written() -> None:
    with pytest.raises(UsageError, match="Cannot keep"):
        to_json(JOURNAL, replace(make_journal(), name="\udc80"))


def test_the_next_step_is_the_first_that_is_not_done() -> None:
    journal = make_journal()
    assert journal.next_step == "capture"
    journal = replace(journal, steps=(Step("capture", "d", 1.0, "t"),))
    assert journal.next_step == "convert"
    journal = replace(journal, steps=tuple(Step(name, "d", 1.0, "t") for name in journal.order))
    assert journal.next_step == ""


def test_a_changed_plan_is_named_field_by_field() -> None:
    old = make_plan()
    new = replace(old, memory=2, firmware=Firmware.BIOS, nics=())
    assert differences(old, new) == (
        Difference("nics[0].mac", "52:54:00:00:00:01", "absent"),
        Difference("nics[0].source_name", "eth0", "absent"),
        Difference("memory", str(old.memory), "2"),
        Difference("firmware", "uefi", "bios"),
    )


@pytest.mark.parametrize("field", ["name", "cpus", "prove", "platform"])
def test_each_decision_of_a_plan_counts(field: str) -> None:
    old = make_plan()
    other = {
        "name": "x",
        "cpus": 9,
        "prove": False,
        "platform": replace(old.platform, name="x"),
    }[field]
    found = differences(old, replace(old, **{field: other}))  # type: ignore[arg-type]
    assert [item.path.split(".")[0] for item in found] == [field]


def with_disk(plan: Plan, disk: Disk) -> Plan:
    machine = replace(plan.machine, disks=(disk,))
    return replace(plan, machine=machine, disks=(replace(plan.disks[0], disk=disk),))


def test_what_a_living_source_measures_anew_does_not_count() -> None:
    old = make_plan()
    disk = old.machine.disks[0]
    part = disk.partitions[0]
    assert part.filesystem is not None
    part = replace(part, filesystem=replace(part.filesystem, used=999))
    new = with_disk(old, replace(disk, path="/dev/sdz", names=("/dev/sdz",), partitions=(part,)))
    nics = (Nic("eth0", "52:54:00:00:00:01", "igb", addresses=("fe80::99/64",)),)
    new = replace(
        new, machine=replace(new.machine, nics=nics), units=0, warnings=("new",), source="ssh://new"
    )
    new = replace(new, disks=(replace(new.disks[0], data_size=1),))
    assert differences(old, new) == ()


def test_another_disk_counts_by_whatever_names_it() -> None:
    old = make_plan()
    disk = old.machine.disks[0]
    assert differences(old, with_disk(old, replace(disk, serial="WD-2")))
    assert differences(old, with_disk(old, replace(disk, size=disk.size + 512)))
    nameless = with_disk(old, replace(disk, serial="", wwn="", table_id=""))
    moved = with_disk(old, replace(disk, serial="", wwn="", table_id="", path="/dev/sdz"))
    assert differences(nameless, moved), "a disk without any other name is its path"
