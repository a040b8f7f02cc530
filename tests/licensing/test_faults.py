"""Whole and sealed, but not to be believed: old copies, other machines, wrong clocks; and the way out."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from p2v.errors import LicenseError
from p2v.licensing import host
from p2v.licensing.anchor import Anchor, Spent, advance_anchor, anchor_path, read_anchor, replace_anchor
from p2v.licensing.chain import Event, Row, read_entry
from p2v.licensing.host import this_host
from p2v.licensing.ledger import Ledger, open_ledger, open_unchecked
from tests.licensing.vendor import DAY, SECOND, START, Clock, Vendor

VENDOR = Vendor()
LEDGER_FILES = ("ledger.sqlite3", "ledger.key")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home that a user has without P2V_HOME: data and state lie in two folders."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "data" / "p2v"


@pytest.fixture
def note(data: Path, tmp_path: Path) -> Path:
    return tmp_path / "state" / "p2v" / "ledger-anchor"


def opened(home: Path, clock: Clock) -> AbstractContextManager[Ledger]:
    return open_ledger(home, clock=clock, trusted=VENDOR.trusted)


def convert(home: Path, clock: Clock, *runs: str) -> None:
    with opened(home, clock) as ledger:
        for run in runs:
            ledger.reserve(run=run, machine=f"machine of {run}", title=run)
            ledger.commit(run)


def refusal(home: Path, clock: Clock) -> LicenseError:
    with pytest.raises(LicenseError) as caught, opened(home, clock):
        pass
    assert caught.value.hint
    return caught.value


def mend(home: Path, clock: Clock) -> None:
    with open_unchecked(home, clock=clock, trusted=VENDOR.trusted) as ledger:
        assert ledger.faults()
        ledger.mend()
        assert not ledger.faults()


def used(home: Path, clock: Clock) -> int:
    with opened(home, clock) as ledger:
        return ledger.status().used


def test_the_note_lies_where_the_ledger_does_not(
    data: Path, note: Path, tmp_path: Path, clock: Clock
) -> None:
    assert anchor_path(data) == note
    convert(data, clock, "r1")
    assert note.stat().st_mode & 0o777 == 0o600
    assert not (data / "ledger-anchor").exists()
    # A home of its own keeps everything: nothing of the user's is touched by a trial.
    note.unlink()
    convert(tmp_path / "trial", clock, "r1")
    assert not note.exists()
    assert (tmp_path / "trial" / "ledger-anchor").exists()


def test_looking_writes_no_note(data: Path, note: Path, clock: Clock) -> None:
    with opened(data, clock) as ledger:
        ledger.status()
        ledger.quote("m", "")
    assert not note.parent.exists()


def test_a_restored_backup_is_refused_and_mended_without_gain(
    data: Path, tmp_path: Path, clock: Clock
) -> None:
    with opened(data, clock) as ledger:
        ledger.install(VENDOR.sign(VENDOR.license(last=START.date())))
    convert(data, clock, "r1", "r2")
    shutil.copytree(data, tmp_path / "backup")
    convert(data, clock, "r3", "r4", "r5")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "backup", data)
    error = refusal(data, clock)
    assert "is an old copy: it has 6 entries, but 12 had been written by 2026-03-01" in error.message
    assert "p2v license mend, which counts what is missing (3 conversions)" in error.hint
    mend(data, clock)
    with opened(data, clock) as ledger:
        assert (ledger.status().used, ledger.status().left) == (5, 25)
        entry = ledger.history()[-1]
        assert (entry.event, entry.license, entry.units) == (Event.RESTORED, "desktop-25/1", 3)
    # Once more: it cannot be counted twice, and going on works.
    convert(data, clock, "r6")
    assert used(data, clock) == 6


def test_restored_files_are_noticed_in_a_home_of_its_own_too(tmp_path: Path, clock: Clock) -> None:
    home = tmp_path / "home"
    convert(home, clock, "r1")
    backup = {name: (home / name).read_bytes() for name in LEDGER_FILES}
    convert(home, clock, "r2")
    for name, content in backup.items():
        (home / name).write_bytes(content)
    assert "(1 conversion)" in refusal(home, clock).hint
    mend(home, clock)
    assert used(home, clock) == 2


def test_a_restore_while_the_ledger_is_open_is_noticed(tmp_path: Path, clock: Clock) -> None:
    convert(tmp_path, clock, "r1")
    backup = (tmp_path / "ledger.sqlite3").read_bytes()
    with opened(tmp_path, clock) as ledger:
        ledger.reserve(run="r2", machine="m2", title="web02")
        ledger.commit("r2")
        (tmp_path / "ledger.sqlite3").write_bytes(backup)
        with pytest.raises(LicenseError):
            ledger.reserve(run="r3", machine="m3", title="web03")


def test_a_deleted_ledger_gives_no_new_units(data: Path, clock: Clock) -> None:
    convert(data, clock, *(f"r{number}" for number in range(5)))
    shutil.rmtree(data)
    error = refusal(data, clock)
    assert "is gone: it had counted 5 conversions by 2026-03-01" in error.message
    assert "p2v license mend" in error.hint
    assert not data.exists()
    mend(data, clock)
    with opened(data, clock) as ledger:
        assert (ledger.status().used, ledger.status().left) == (5, 0)
        with pytest.raises(LicenseError, match="No conversion is left"):
            ledger.reserve(run="r", machine="m", title="web")


def test_a_license_installed_again_after_a_loss_has_what_was_left_of_it(data: Path, clock: Clock) -> None:
    content = VENDOR.sign(VENDOR.license(last=START.date()))
    with opened(data, clock) as ledger:
        ledger.install(content)
    convert(data, clock, "r1", "r2")
    shutil.rmtree(data)
    mend(data, clock)
    with opened(data, clock) as ledger:
        assert ledger.install(content).grant.left == 23


def test_a_new_ledger_in_the_place_of_the_old_one_is_refused(
    data: Path, tmp_path: Path, clock: Clock
) -> None:
    with opened(tmp_path / "fresh", clock):
        pass
    convert(data, clock, "r1")
    for name in LEDGER_FILES:
        shutil.copy(tmp_path / "fresh" / name, data / name)
    assert "is gone" in refusal(data, clock).message


def test_a_broken_ledger_without_a_backup_has_a_way_out(data: Path, clock: Clock) -> None:
    convert(data, clock, "r1")
    (data / "ledger.sqlite3").write_bytes(b"gone")
    error = refusal(data, clock)
    assert "move its ledger.* files away; then: p2v license mend" in error.hint
    for path in data.glob("ledger.*"):
        path.rename(data / f"old-{path.name}")
    mend(data, clock)
    assert used(data, clock) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"{}", b"deadbeef {}", None])
def test_a_note_that_is_lost_or_torn_stands_in_nobodys_way(
    data: Path, note: Path, clock: Clock, content: bytes | None
) -> None:
    convert(data, clock, "r1")
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    convert(data, clock, "r2")
    anchor = read_anchor(note)
    assert anchor is not None
    assert anchor.spent == (Spent("evaluation", 2),)


def test_a_state_folder_that_cannot_be_written_stands_in_nobodys_way(
    data: Path, tmp_path: Path, clock: Clock
) -> None:
    (tmp_path / "state").write_text("in the way")
    convert(data, clock, "r1")
    assert used(data, clock) == 1


def test_a_crash_before_the_note_is_written_refuses_nothing(data: Path, note: Path, clock: Clock) -> None:
    convert(data, clock, "r1")
    late = note.read_bytes()
    convert(data, clock, "r2")
    note.write_bytes(late)
    assert used(data, clock) == 2


def test_a_late_writer_does_not_take_the_note_back(tmp_path: Path) -> None:
    path = tmp_path / "note"
    old = Anchor("i", 5, "five", "w", (Spent("a", 2),))
    new = Anchor("i", 6, "six", "w", (Spent("a", 3), Spent("b" * 9000, 1)))
    advance_anchor(path, new)
    advance_anchor(path, old)
    assert read_anchor(path) == new
    replace_anchor(path, old)
    assert read_anchor(path) == old
    assert new.units == 4


@pytest.fixture
def other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def become(text: str) -> None:
        (tmp_path / "machine-id").write_text(text)
        monkeypatch.setattr(host, "MACHINE_ID_FILES", (tmp_path / "missing", tmp_path / "machine-id"))

    become("0" * 31 + "1\n")
    return become


def test_a_ledger_from_another_machine_is_refused(
    tmp_path: Path, clock: Clock, other_machine: Callable[[str], None]
) -> None:
    home = tmp_path / "home"
    convert(home, clock, "r1")
    other_machine("0" * 31 + "2\n")
    error = refusal(home, clock)
    assert "was made on another machine" in error.message
    assert "p2v license mend" in error.hint
    mend(home, clock)
    convert(home, clock, "r2")
    with opened(home, clock) as ledger:
        assert [entry.event for entry in ledger.history()].count(Event.MOVED) == 1
        assert ledger.status().used == 2
    # It has moved: where it was before, it is the other one now.
    other_machine("0" * 31 + "1\n")
    refusal(home, clock)


@pytest.mark.parametrize("text", ["", "uninitialized\n", "é" * 32, "short"])
def test_a_machine_without_an_id_is_not_another_one(
    tmp_path: Path, clock: Clock, other_machine: Callable[[str], None], text: str
) -> None:
    home = tmp_path / "home"
    convert(home, clock, "r1")
    other_machine(text)
    assert this_host() == ""
    convert(home, clock, "r2")


def test_the_machine_id_itself_is_not_in_the_ledger(
    tmp_path: Path, clock: Clock, other_machine: Callable[[str], None]
) -> None:
    convert(tmp_path / "home", clock, "r1")
    assert len(this_host()) == 32
    assert this_host().encode() in (tmp_path / "home" / "ledger.sqlite3").read_bytes()
    assert b"0" * 31 + b"1" not in (tmp_path / "home" / "ledger.sqlite3").read_bytes()


def test_a_clock_that_was_ahead_is_mended_by_a_word(tmp_path: Path, clock: Clock) -> None:
    clock.now = START + 2000 * DAY
    convert(tmp_path, clock, "r1")
    clock.now = START
    assert "p2v license mend" in refusal(tmp_path, clock).hint
    mend(tmp_path, clock)
    convert(tmp_path, clock, "r2")
    with opened(tmp_path, clock) as ledger:
        # What was converted in the future counts as converted now: 30 days free, not five years.
        assert ledger.quote("machine of r1", "").units == 0
        clock.now = START + 30 * DAY + SECOND
        assert ledger.quote("machine of r1", "").units == 1


def test_a_word_about_the_clock_is_believed_three_times(tmp_path: Path, clock: Clock) -> None:
    for _ in range(3):
        clock.now = START + 100 * DAY
        with opened(tmp_path, clock) as ledger:
            ledger.reserve(run="r", machine="m", title="web")
            ledger.release("r", "cancelled")
        clock.now = START
        mend(tmp_path, clock)
    clock.now = START + 100 * DAY
    convert(tmp_path, clock, "last")
    clock.now = START
    assert "mend" not in refusal(tmp_path, clock).hint
    with (
        open_unchecked(tmp_path, clock=clock) as ledger,
        pytest.raises(LicenseError, match="3 times already"),
    ):
        ledger.mend()


def test_everything_at_once_is_mended_at_once(
    data: Path, tmp_path: Path, clock: Clock, other_machine: Callable[[str], None]
) -> None:
    convert(data, clock, "r1")
    clock.now += 50 * DAY
    convert(data, clock, "r2")
    shutil.copytree(data, tmp_path / "backup")
    convert(data, clock, "r3")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "backup", data)
    other_machine("a" * 32)
    clock.now = START
    refusal(data, clock)
    mend(data, clock)
    assert used(data, clock) == 3
    with opened(data, clock) as ledger:
        events = [entry.event for entry in ledger.history()]
    assert {Event.CLOCK_SET, Event.MOVED, Event.RESTORED} <= set(events)


def test_a_sound_ledger_is_not_touched_by_mending(tmp_path: Path, clock: Clock) -> None:
    convert(tmp_path, clock, "r1")
    with opened(tmp_path, clock) as ledger:
        before = ledger.history()
        ledger.mend()
        assert ledger.history() == before


def test_a_death_while_mending_counts_nothing_twice(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert(tmp_path, clock, "r1")
    backup = (tmp_path / "ledger.sqlite3").read_bytes()
    convert(tmp_path, clock, "r2")
    (tmp_path / "ledger.sqlite3").write_bytes(backup)

    def die(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("p2v.licensing.ledger.replace_anchor", die)
    with open_unchecked(tmp_path, clock=clock) as ledger, pytest.raises(LicenseError, match="No space"):
        ledger.mend()
    monkeypatch.undo()
    assert "(0 conversions)" in refusal(tmp_path, clock).hint
    mend(tmp_path, clock)
    assert used(tmp_path, clock) == 2


def test_an_entry_of_the_version_before_is_still_read() -> None:
    content = (
        '{"event":"committed","license":"evaluation","machine":"m","number":1,"owner":null,"reason":"",'
        '"run":"r","title":"web","units":1,"version":"0.1.0","when":"2026-03-01T12:00:00+00:00","who":"root"}'
    )
    entry = read_entry(Row(1, content, ""))
    assert (entry.event, entry.document, entry.host) == (Event.COMMITTED, "", "")
