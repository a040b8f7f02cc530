"""A ledger that somebody else changed, hid, copied or cannot reach: refused, with what to do next."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.errors import ExitCode, LicenseError
from p2v.licensing.ledger import open_ledger


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A ledger with five conversions used up, in which every unit that tampering gains would show."""
    home = tmp_path / "home"
    with open_ledger(home) as ledger:
        for number in range(5):
            ledger.reserve(run=f"r{number}", machine=f"m{number}", title=f"web{number}")
            ledger.commit(f"r{number}")
    return home


def refusal(home: Path) -> LicenseError:
    with pytest.raises(LicenseError) as caught, open_ledger(home):
        pass
    assert caught.value.hint
    assert caught.value.exit_code is ExitCode.LICENSE
    return caught.value


def edit(home: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(home / "ledger.sqlite3")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def test_the_files_are_for_the_user_alone(home: Path) -> None:
    assert home.stat().st_mode & 0o777 == 0o700
    assert (home / "ledger.key").stat().st_mode & 0o777 == 0o600
    assert (home / "ledger.sqlite3").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "statements",
    [
        ("UPDATE entry SET content = replace(content, '\"units\":1', '\"units\":0') WHERE number = 3",),
        ("UPDATE entry SET content = replace(content, 'web0', 'web9') WHERE number = 2",),
        ("UPDATE entry SET digest = zeroblob(32) WHERE number = 4",),
        ("DELETE FROM entry WHERE number = 5",),
        ("DELETE FROM entry WHERE number = 11",),
        ("DELETE FROM entry WHERE number > 7", "UPDATE head SET count = 7"),
        (
            "DELETE FROM entry WHERE number > 7",
            "UPDATE head SET count = 7, digest = (SELECT digest FROM entry WHERE number = 7)",
        ),
        (
            "UPDATE entry SET number = 100 WHERE number = 4",
            "UPDATE entry SET number = 4 WHERE number = 5",
            "UPDATE entry SET number = 5 WHERE number = 100",
        ),
        ("INSERT INTO entry SELECT 12, content, digest FROM entry WHERE number = 11",),
        ("DELETE FROM entry",),
        ("DELETE FROM head",),
        ("INSERT INTO head SELECT * FROM head",),
        ("UPDATE head SET count = 'many'",),
        ("UPDATE head SET seal = 'é'",),
        ("DROP TABLE head",),
        ("DROP TABLE entry",),
        ("CREATE TRIGGER undo AFTER INSERT ON entry BEGIN DELETE FROM entry WHERE number = new.number; END",),
        ("CREATE TABLE extra (x)",),
    ],
)
def test_a_changed_database_is_refused(home: Path, statements: tuple[str, ...]) -> None:
    edit(home, *statements)
    assert "ledger" in refusal(home).message


def test_a_change_with_recomputed_digests_is_refused_for_want_of_the_key(home: Path) -> None:
    with contextlib.closing(sqlite3.connect(home / "ledger.sqlite3")) as connection, connection:
        rows = connection.execute("SELECT number, content FROM entry ORDER BY number").fetchall()
        digest = "0" * 64
        for number, content in rows:
            cheap = json.dumps(json.loads(content) | {"units": 0}, sort_keys=True, separators=(",", ":"))
            digest = hashlib.sha256(f"{digest}\n{cheap}".encode()).hexdigest()
            connection.execute(
                "UPDATE entry SET content = ?, digest = ? WHERE number = ?", (cheap, digest, number)
            )
        connection.execute("UPDATE head SET digest = ?", (digest,))
    assert "seal" in refusal(home).message


def test_a_change_while_the_ledger_is_open_is_noticed_too(home: Path) -> None:
    with open_ledger(home) as ledger:
        edit(home, "DELETE FROM entry WHERE number = 11")
        with pytest.raises(LicenseError, match="changed"):
            ledger.reserve(run="new", machine="new", title="new")


def test_a_deleted_database_gives_no_new_units(home: Path) -> None:
    (home / "ledger.sqlite3").unlink()
    assert "ledger.sqlite3 is missing" in refusal(home).message
    assert not (home / "ledger.sqlite3").exists()


def test_an_emptied_database_gives_no_new_units(home: Path) -> None:
    (home / "ledger.sqlite3").write_bytes(b"")
    refusal(home)


def test_a_deleted_key_gives_no_new_units(home: Path) -> None:
    (home / "ledger.key").unlink()
    assert "ledger.key is missing" in refusal(home).message
    assert not (home / "ledger.key").exists()


@pytest.mark.parametrize("content", [b"", b"00" * 32, b"00" * 31, b"not hexadecimal", b"\xff\xfe"])
def test_another_key_is_refused(home: Path, content: bytes) -> None:
    (home / "ledger.key").write_bytes(content)
    refusal(home)


def test_the_database_of_another_installation_is_refused(home: Path, tmp_path: Path) -> None:
    with open_ledger(tmp_path / "other"):
        pass
    shutil.copy(tmp_path / "other" / "ledger.sqlite3", home / "ledger.sqlite3")
    assert "seal" in refusal(home).message


@pytest.mark.parametrize("damage", [b"\0" * 512, b"no database at all, but long enough to be looked at" * 20])
def test_a_damaged_file_is_refused_without_a_traceback(home: Path, damage: bytes) -> None:
    path = home / "ledger.sqlite3"
    path.write_bytes(damage + path.read_bytes()[len(damage) :])
    refusal(home)


def test_a_database_cut_in_the_middle_is_refused(home: Path) -> None:
    os.truncate(home / "ledger.sqlite3", 4096 + 100)
    refusal(home)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can reach: the one of pytest is for its own user."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


@contextlib.contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can leave files that the user cannot write")
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o777])
def test_what_sudo_left_behind_is_named(reachable: Path, mode: int) -> None:
    home = reachable / "home"
    with open_ledger(home):
        pass
    home.chmod(mode)
    with as_nobody():
        error = refusal(home)
    assert "belongs to root" in error.message
    assert error.hint == f"Try: sudo chown -R nobody {home}"


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(tmp_path / "file").message
    assert str(tmp_path / "file") in refusal(tmp_path / "file" / "home").message


def test_a_busy_ledger_is_refused_in_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2v.licensing.store.BUSY_SECONDS", 0.05)
    with contextlib.closing(sqlite3.connect(home / "ledger.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in refusal(home).message
