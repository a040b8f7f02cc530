"""The ledger's files: one SQLite database and the key that seals it, never one without the other.

A store verifies the whole chain at its first look and what was added since at every other one: what it
decides by is what it has verified. Each change is one transaction, on the disk when it ends.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from p2v.atomic import LockHeld, locked, sync_directory, write_atomically
from p2v.errors import LicenseError
from p2v.licensing.account import Account
from p2v.licensing.chain import (
    BEGINNING,
    RESTORE_HINT,
    Head,
    LedgerEntry,
    Link,
    Row,
    check_chain,
    make_head,
    make_row,
    read_entry,
    tampered,
)

DATABASE_NAME = "ledger.sqlite3"
FRESH_NAME = "ledger.sqlite3.new"
KEY_NAME = "ledger.key"
LOCK_NAME = "ledger.lock"

KEY_SIZE = 32
BUSY_SECONDS = 30.0
BUSY_POLL = 0.001
"""Seconds, on average. SQLite's own waiting backs off to 100 ms, in which eight processes get little done."""

SCHEMA = (
    "CREATE TABLE entry (number INTEGER PRIMARY KEY, content TEXT NOT NULL, digest TEXT NOT NULL)",
    "CREATE TABLE head (count INTEGER NOT NULL, digest TEXT NOT NULL, seal TEXT NOT NULL)",
)


class Access(StrEnum):
    """How a transaction begins: a writing one keeps every other writer out from its first look on."""

    READ = "BEGIN DEFERRED"
    WRITE = "BEGIN IMMEDIATE"


class Transaction:
    """The verified account at one moment, to which a writing transaction may add entries.

    `after` is how far the store has verified the chain itself.
    """

    def __init__(self, connection: sqlite3.Connection, key: bytes, account: Account, *, after: Link) -> None:
        self._connection = connection
        self._key = key
        self.account = account
        _catch_up(connection, key, account, after)

    def append(self, entry: LedgerEntry) -> None:
        row = make_row(entry, previous=self.account.end.digest)
        # What could not be read again must never be written: it would lock the user out.
        entry = read_entry(row)
        head = make_head(row, key=self._key)
        self._connection.execute("INSERT INTO entry VALUES (?, ?, ?)", astuple(row))
        self._connection.execute("UPDATE head SET count = ?, digest = ?, seal = ?", astuple(head))
        self.account.add(entry, row.digest)

    def digest_of(self, number: int) -> str:
        """The digest of an entry; empty where there is none with that number."""
        return _digest_of(self._connection, number)


class Store:
    """An open ledger. Threads may share it; after a fork, open it again."""

    def __init__(self, connection: sqlite3.Connection, key: bytes, account: Account) -> None:
        self._connection = connection
        self._key = key
        self._lock = threading.Lock()
        self._account = account
        self._verified = BEGINNING

    @property
    def account(self) -> Account:
        """What is verified by now; to be read only while no transaction runs."""
        return self._account

    @contextlib.contextmanager
    def transaction(self, access: Access) -> Iterator[Transaction]:
        """Everything in the block happens at once or not at all. Raises LicenseError for a ledger that is
        not whole.
        """
        with self._lock, _database_errors():
            _begin(self._connection, access)
            try:
                yield Transaction(self._connection, self._key, self._account, after=self._verified)
                _patiently(self._connection, "COMMIT")
                self._verified = self._account.end
            except BaseException:
                # The account may hold what the database takes back: the next look begins anew.
                self._account, self._verified = Account(), BEGINNING
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _begin(connection: sqlite3.Connection, access: Access) -> None:
    _patiently(connection, access)
    if access is Access.READ:
        # Only the first look takes the lock.
        try:
            _patiently(connection, "SELECT count(*) FROM sqlite_master")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Execute a statement that may have to wait for another process, at most `BUSY_SECONDS`."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() >= deadline:
                raise
            time.sleep(random.uniform(0.5, 1.5) * BUSY_POLL)
        else:
            return


@dataclass(frozen=True, slots=True)
class Known:
    """Where an account was verified, and with what key."""

    path: Path
    key: bytes


class _Memory:
    """The account that this process had verified last: the next opening still checks all digests, but needs
    to add up only what is new. A batch opens its ledger several times for each machine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: Known | None = None
        self._account = Account()

    def recall(self, known: Known, connection: sqlite3.Connection) -> Account:
        """A copy of what is known, or an empty account where the database no longer goes on from there."""
        with self._lock:
            end = self._account.end
            if known != self._known or _digest_of(connection, end.count) != end.digest:
                return Account()
            return self._account.copy()

    def keep(self, known: Known, account: Account) -> None:
        """Remember an account, which nobody may change any more."""
        with self._lock:
            self._known, self._account = known, account


_MEMORY = _Memory()


def _digest_of(connection: sqlite3.Connection, number: int) -> str:
    """The digest of an entry; empty where there is none with that number."""
    found = connection.execute("SELECT digest FROM entry WHERE number = ?", (number,)).fetchone()
    return str(found[0]) if found else ""


@contextlib.contextmanager
def open_store(home: Path, first: LedgerEntry) -> Iterator[Store]:
    """Open the ledger in `home`, after making it with the entry `first` where there has never been one.

    Raises LicenseError where database or key is missing, not to be read or not to be written.
    """
    with _file_errors(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_access(home)
        _complete(home, first)
        key = _read_key(home / KEY_NAME)
    known = Known((home / DATABASE_NAME).absolute(), key)
    with contextlib.closing(_connect(known.path)) as connection:
        with _database_errors():
            account = _MEMORY.recall(known, connection)
            # From here on, `_patiently` waits.
            connection.execute("PRAGMA busy_timeout = 0")
        store = Store(connection, key, account)
        yield store
        _MEMORY.keep(known, store.account)


def exists(home: Path) -> bool:
    """Whether anything of a ledger is in `home`, be it whole or not."""
    return any((home / name).exists() for name in (DATABASE_NAME, KEY_NAME, FRESH_NAME))


def _complete(home: Path, first: LedgerEntry) -> None:
    """Make both files, or finish what a killed process began; refuse what only a deletion leaves."""
    if _is_whole(home):
        return
    try:
        with locked(home / LOCK_NAME, wait=BUSY_SECONDS):
            if not _is_whole(home):
                _install(home, first)
    except LockHeld as error:
        raise LicenseError(f"The license ledger in {home} is in use: {error}", hint="Try again") from error


def _is_whole(home: Path) -> bool:
    return (home / DATABASE_NAME).exists() and (home / KEY_NAME).exists()


def _install(home: Path, first: LedgerEntry) -> None:
    """Write the sealed new database, then the key, then rename the database: each moment can be told apart.

    Neither final file: begin anew. Key and new database: only the rename is left. Anything else: deleted.
    """
    database, fresh, key = home / DATABASE_NAME, home / FRESH_NAME, home / KEY_NAME
    if database.exists():
        raise _missing(key, other=database)
    if key.exists() and not fresh.exists():
        raise _missing(database, other=key)
    if not key.exists():
        secret = secrets.token_bytes(KEY_SIZE)
        _make_database(fresh, first, secret)
        write_atomically(key, secret.hex().encode() + b"\n")
    fresh.rename(database)
    sync_directory(home)


def _missing(path: Path, *, other: Path) -> LicenseError:
    return LicenseError(
        f"The license ledger is not whole: {path} is missing beside {other.name}", hint=RESTORE_HINT
    )


def _make_database(path: Path, first: LedgerEntry, key: bytes) -> None:
    path.unlink(missing_ok=True)
    path.with_name(f"{path.name}-journal").unlink(missing_ok=True)
    # SQLite would give the file the mode of the umask.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    row = make_row(first, previous=BEGINNING.digest)
    with contextlib.closing(_connect(path)) as connection, _database_errors():
        connection.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            connection.execute(statement)
        connection.execute("INSERT INTO entry VALUES (?, ?, ?)", astuple(row))
        connection.execute("INSERT INTO head VALUES (?, ?, ?)", astuple(make_head(row, key=key)))
        connection.execute("COMMIT")
    sync_directory(path.parent)


def _connect(path: Path) -> sqlite3.Connection:
    """Open a database that exists. With EXTRA the deletion of the rollback journal is synced too."""
    with _database_errors():
        connection = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?mode=rw",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA synchronous = EXTRA")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection


def _catch_up(connection: sqlite3.Connection, key: bytes, account: Account, after: Link) -> None:
    """Verify what comes after a link, and add what the account does not have yet."""
    statements = connection.execute("SELECT sql FROM sqlite_master ORDER BY rowid").fetchall()
    if tuple(sql for (sql,) in statements) != SCHEMA:
        raise tampered("its tables are not those that p2v made")
    head = _read_head(connection)
    count = _count(connection)
    if not account.end.count <= head.count == count:
        raise tampered(f"it has {count} entries where {max(head.count, account.end.count)} were written")
    for row in check_chain(_rows(connection, after.count), head, key=key, after=after):
        if row.number > account.end.count:
            account.add(read_entry(row), row.digest)


def _count(connection: sqlite3.Connection) -> int:
    """The number of the last entry. Numbers have no gaps, which reading them shows, and begin with 1."""
    (first,) = connection.execute("SELECT min(number) FROM entry").fetchone()
    (last,) = connection.execute("SELECT max(number) FROM entry").fetchone()
    if first != 1:
        raise tampered("entry 1 is missing")
    return int(last)


def _read_head(connection: sqlite3.Connection) -> Head:
    heads = connection.execute("SELECT count, digest, seal FROM head").fetchall()
    if len(heads) != 1:
        raise tampered("its seal is missing")
    count, digest, seal = heads[0]
    return Head(_number(count), str(digest), str(seal))


def _rows(connection: sqlite3.Connection, after: int) -> Iterator[Row]:
    statement = "SELECT number, content, digest FROM entry WHERE number > ? ORDER BY number"
    for number, content, digest in connection.execute(statement, (after,)):
        yield Row(int(number), str(content), str(digest))


def _number(value: object) -> int:
    """SQLite keeps text in a column of numbers where somebody puts it there."""
    return value if isinstance(value, int) else -1


def _read_key(path: Path) -> bytes:
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii"))
    except ValueError as error:
        raise tampered(f"{path.name} is not a key") from error
    if len(key) != KEY_SIZE:
        raise tampered(f"{path.name} is not a key")
    return key


def _require_access(home: Path) -> None:
    """Say it plainly where an earlier run under sudo left files that this user cannot write."""
    _require(home, os.R_OK | os.W_OK | os.X_OK, home=home)
    for path in (home / DATABASE_NAME, home / KEY_NAME):
        if path.exists():
            _require(path, os.R_OK | os.W_OK, home=home)


def _require(path: Path, mode: int, *, home: Path) -> None:
    if os.access(path, mode, effective_ids=True):
        return
    owner, user = _user_name(path.stat().st_uid), user_name()
    raise LicenseError(
        f"The license ledger cannot be used: {path} belongs to {owner}, and {user} may not write it",
        hint=f"Try: sudo chown -R {user} {home}",
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_name() -> str:
    """Who runs this process, by the system's word and not by an environment variable."""
    return _user_name(os.geteuid())


@contextlib.contextmanager
def _file_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LicenseError(
            f"The license ledger in {home} cannot be used: {error.strerror or error}",
            hint=f"Try: ls -la {home}",
        ) from error


@contextlib.contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise LicenseError(
            f"The license ledger cannot be used: {error}", hint="Try again; p2v doctor"
        ) from error
    except (sqlite3.DatabaseError, UnicodeError, OverflowError) as error:
        raise LicenseError(f"The license ledger is damaged: {error}", hint=RESTORE_HINT) from error
