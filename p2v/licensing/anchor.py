"""The anchor: a note of how far the ledger had come, kept in another folder than the ledger.

An old copy of the ledger's folder is whole and sealed; only something outside it can tell that it is old.
The note lies in the user's state folder, while the ledger lies in the data folder; with a home of its own
(`P2V_HOME`) everything stays in that home, and the note only notices that the ledger's own files are older.

It is written after the ledger, so that it is never ahead of it: a crash in between leaves a note that is one
entry late, never a ledger that is refused. It is not synced and not sealed: who wants to be rid of it can
delete it, so that neither would make it stronger. One that is missing or torn is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import TypeAdapter, ValidationError

NAME = "ledger-anchor"
SIZE_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spent:
    """Units that were spent of one license."""

    license: str
    units: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """`installation` is the digest of the first entry, `digest` that of entry `count`, written at `when`."""

    installation: str
    count: int
    digest: str
    when: str
    spent: tuple[Spent, ...]

    @property
    def units(self) -> int:
        return sum(spent.units for spent in self.spent)


_ANCHOR = TypeAdapter(Anchor)


def anchor_path(home: Path) -> Path:
    """Where the anchor of the ledger in `home` lies."""
    if home == Path(platformdirs.user_data_dir("p2v")):
        return Path(platformdirs.user_state_dir("p2v")) / NAME
    return home / NAME


def read_anchor(path: Path) -> Anchor | None:
    """The note, or None where there is none that can be read whole."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT)
    except OSError:
        return None
    return _parse(content)


def _parse(content: bytes) -> Anchor | None:
    # Behind the first line there may be the end of a longer note that was there before.
    checksum, _, text = content.partition(b"\n")[0].partition(b" ")
    if checksum != _checksum(text):
        return None
    try:
        return _ANCHOR.validate_json(text)
    except ValidationError:
        return None


def _checksum(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def advance_anchor(path: Path, anchor: Anchor) -> None:
    """Write the note, unless a newer one of the same ledger is there. What fails is left for the next
    time.
    """
    with contextlib.suppress(OSError), _held(path) as descriptor:
        there = _parse(os.pread(descriptor, SIZE_LIMIT, 0))
        if there is None or there.installation != anchor.installation or there.count < anchor.count:
            _write(descriptor, anchor)


def replace_anchor(path: Path, anchor: Anchor) -> None:
    """Write the note, whatever is there. Raises OSError."""
    with _held(path) as descriptor:
        _write(descriptor, anchor)


@contextlib.contextmanager
def _held(path: Path) -> Iterator[int]:
    """The file, locked. Raises OSError, also where another process writes it in this moment."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)


def _write(descriptor: int, anchor: Anchor) -> None:
    """In place and in one call, which no signal cuts in two; no other file can be left behind by a kill."""
    text = _ANCHOR.dump_json(anchor)
    os.pwrite(descriptor, _checksum(text) + b" " + text + b"\n", 0)
