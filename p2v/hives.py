"""The only door to registry hives: files of a guest, or of a folder, opened for reading or for writing.

hivex serves each open hive in a process of its own (`p2v.hive_child`), since it is C code and a hive is what
a guest gave us: whatever that process comes to, here it is a GuestError. Formats: M. Suhanov, "Windows
registry file format specification" (github.com/msuhanov/regf).
"""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from conversions.nt.registry import Value
from conversions.protocol import GuestFiles
from p2v import command, hive_logs
from p2v.errors import GuestError, TargetError
from p2v.hive_logs import BASE_SIZE, BIN_ALIGNMENT
from p2v.model import GiB, MiB

HIVE_LIMIT = 512 * MiB
"""Bytes of the largest hive that is read; a SOFTWARE of 200 MiB is large."""
CALL_SECONDS = 60.0
"""Limit of one operation; opening a hive of 100 MiB takes a second."""
ANSWER_LIMIT = 64 * MiB
CHILD = Path(__file__).with_name("hive_child.py")
LOGS = (".LOG1", ".LOG2")
MEMORY_FACTOR = 4
"""hivex keeps the hive, a map of its cells, and what it adds."""


class _Hives(ABC):
    """`conversions.nt.registry.HiveOpener` over whatever gives and takes files.

    A hive that is behind its logs is opened as Windows would open it.
    """

    def __init__(self) -> None:
        self._replayed: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was seen on the way, one sentence each."""
        return tuple(
            f"{path} was behind its log files, as those of a Windows that runs: they were read in"
            for path in self._replayed
        )

    @contextlib.contextmanager
    def read(self, path: str) -> Iterator[OpenHive]:
        """Raises GuestError where there is no such file, or where it is no sound hive."""
        with self._opened(path) as (_, hive):
            yield hive

    @contextlib.contextmanager
    def edit(self, path: str) -> Iterator[OpenHive]:
        """The file is replaced at the end, if anything was changed; not where the block fails.

        Raises GuestError as `read` does.
        """
        with self._opened(path) as (place, hive):
            yield hive
            if hive.changed:
                hive.commit(place)
                self._put(path, place.read_bytes())

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[tuple[Path, OpenHive]]:
        content = self._current(path)
        with tempfile.TemporaryDirectory(prefix="p2v-hive-") as folder:
            place = Path(folder) / "hive"
            place.write_bytes(content)
            with open_hive(place, path) as hive:
                yield place, hive

    def _current(self, path: str) -> bytes:
        content = self._get(path)
        if is_behind(content):
            logs = [self._get(path + suffix) for suffix in LOGS if self._has(path + suffix)]
            made = hive_logs.replay(content, logs)
            if made is not None:
                self._replayed[path] = None
                content = made
        check_hive(content, path)
        return content

    @abstractmethod
    def _has(self, path: str) -> bool: ...

    @abstractmethod
    def _get(self, path: str) -> bytes: ...

    @abstractmethod
    def _put(self, path: str, content: bytes) -> None: ...


class GuestHives(_Hives):
    """Hives of a mounted guest."""

    def __init__(self, files: GuestFiles) -> None:
        super().__init__()
        self._files = files

    def _has(self, path: str) -> bool:
        return self._files.exists(path)

    def _get(self, path: str) -> bytes:
        return self._files.read(path, limit=HIVE_LIMIT)

    def _put(self, path: str, content: bytes) -> None:
        self._files.write(path, content)


class FolderHives(_Hives):
    """Hives in a folder of this host, by their paths relative to `root`."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self._root = root

    def _has(self, path: str) -> bool:
        return self._place(path).is_file()

    def _get(self, path: str) -> bytes:
        try:
            return self._place(path).read_bytes()
        except OSError as error:
            raise GuestError(f"Cannot read the registry hive {path}: {error.strerror}") from error

    def _put(self, path: str, content: bytes) -> None:
        self._place(path).write_bytes(content)

    def _place(self, path: str) -> Path:
        return self._root / path.lstrip("/")


def is_behind(content: bytes) -> bool:
    """Whether this is a hive whose last changes are in its logs only."""
    if len(content) < BASE_SIZE or not content.startswith(b"regf"):
        return False
    first, second = hive_logs.sequences(content)
    return first != second


def check_hive(content: bytes, path: str) -> None:
    """Raise GuestError where this is no hive, is cut short, or waits for its log to be replayed."""
    if len(content) < BASE_SIZE or not content.startswith(b"regf"):
        raise GuestError(f"{path} is no registry hive")
    stored = struct.unpack_from("<I", content, hive_logs.PLACE_CHECKSUM)[0]
    if is_behind(content) or hive_logs.checksum(content) != stored:
        raise GuestError(
            f"{path} was not written to its end, and its log files do not continue it",
            hint="Start Windows once more and shut it down whole, with: shutdown /s /t 0",
        )
    (length,) = struct.unpack_from("<I", content, hive_logs.PLACE_LENGTH)
    if length % BIN_ALIGNMENT or not BIN_ALIGNMENT <= length <= len(content) - BASE_SIZE:
        raise _damaged(path, "it is cut short")
    _check_bins(content, length, path)


def _check_bins(content: bytes, length: int, path: str) -> None:
    at = 0
    while at < length:
        magic, offset, size = struct.unpack_from("<4sII", content, BASE_SIZE + at)
        fits = size % BIN_ALIGNMENT == 0 and BIN_ALIGNMENT <= size <= length - at
        if magic != b"hbin" or offset != at or not fits:
            raise _damaged(path, f"there is no bin of cells at byte {BASE_SIZE + at}")
        at += size


class OpenHive:
    """`conversions.nt.registry.Hive`, served by a child. `changed` says that something was written."""

    def __init__(self, connection: socket.socket, path: str) -> None:
        self._connection = connection
        self._path = path
        self.changed = False

    def keys(self, key: str) -> tuple[str, ...]:
        return tuple(self._ask("keys", key))

    def has(self, key: str) -> bool:
        return bool(self._ask("has", key))

    def values(self, key: str) -> tuple[Value, ...]:
        return tuple(
            Value(name, kind, base64.b64decode(data)) for name, kind, data in self._ask("values", key)
        )

    def value(self, key: str, name: str) -> Value | None:
        return next((value for value in self.values(key) if value.name.lower() == name.lower()), None)

    def set(self, key: str, value: Value) -> None:
        before = self.value(key, value.name)
        name = before.name if before else value.name
        self._change("set", key, name, value.kind, base64.b64encode(value.data).decode())

    def remove_value(self, key: str, name: str) -> None:
        if self.value(key, name) is not None:
            self._change("remove_value", key, name)

    def remove_key(self, key: str) -> None:
        if not key:
            raise GuestError(f"{self._path}: the root of a hive cannot be removed")
        if self.has(key):
            self._change("remove_key", key)

    def commit(self, place: Path) -> None:
        """Write the hive with its changes to a file of the host."""
        self._ask("commit", str(place))

    def start(self, place: Path) -> None:
        self._ask("open", str(place), True)

    def _change(self, operation: str, *arguments: object) -> None:
        self.changed = True
        self._ask(operation, *arguments)

    def _ask(self, *request: object) -> Any:
        message = json.dumps(request).encode()
        try:
            self._connection.sendall(struct.pack("!I", len(message)) + message)
            answer = json.loads(self._receive(*struct.unpack("!I", self._receive(4))))
        except TimeoutError as error:
            raise _damaged(self._path, f"no answer within {CALL_SECONDS:.0f} s") from error
        except (OSError, ValueError, UnicodeError) as error:
            raise _damaged(self._path, "hivex gave up on it") from error
        if "error" in answer:
            raise _damaged(self._path, str(answer["error"]))
        return answer["ok"]

    def _receive(self, count: int) -> bytes:
        if count > ANSWER_LIMIT:
            raise ValueError("too long an answer")
        whole = bytearray()
        while len(whole) < count:
            more = self._connection.recv(count - len(whole))
            if not more:
                raise ConnectionError("the child has ended")
            whole += more
        return bytes(whole)


@contextlib.contextmanager
def open_hive(place: Path, path: str) -> Iterator[OpenHive]:
    """A hive file of this host; `path` is what errors call it. Nothing reaches the file before `commit`.

    Raises GuestError where hivex cannot open it, TargetError where hivex is not installed.
    """
    ours, theirs = socket.socketpair()
    ours.settimeout(CALL_SECONDS)
    memory = GiB + MEMORY_FACTOR * place.stat().st_size
    argv = [sys.executable, "-I", str(CHILD), str(theirs.fileno()), str(memory)]
    with ours, command.start(argv, pass_fds=(theirs.fileno(),)):
        theirs.close()
        hive = OpenHive(ours, path)
        _need_hivex(hive, place)
        yield hive
        ours.close()  # the child ends by itself, before it is asked to


def _need_hivex(hive: OpenHive, place: Path) -> None:
    try:
        hive.start(place)
    except GuestError as error:
        if "ModuleNotFoundError" in error.message:
            raise TargetError(
                "The Python bindings of hivex are missing in this interpreter",
                hint="Try: sudo apt install python3-hivex; a virtual environment must see it:"
                " /usr/bin/python3 -m venv --system-site-packages",
            ) from error
        raise


def _damaged(path: str, why: str) -> GuestError:
    shown = "".join(char if char.isprintable() else " " for char in why)
    return GuestError(
        f"The registry hive {path} is damaged: {shown}",
        hint="In Windows, try: sfc /scannow; or bring the hive back from a backup",
    )
