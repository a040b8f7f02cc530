"""Files that are whole or absent, and locks that a killed process gives back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

POLL_SECONDS = 0.02

Buffer: TypeAlias = bytes | bytearray


class LockHeld(Exception):
    """Somebody else has the lock: `pid`, or None where it is not known. Callers say it in their words."""

    def __init__(self, path: Path, pid: int | None) -> None:
        super().__init__(f"{path} is locked by {'another process' if pid is None else f'process {pid}'}")
        self.pid = pid


def write_atomically(path: Path, content: bytes | Iterable[Buffer], *, mode: int = 0o600) -> None:
    """Replace `path` with `content`, which may come in pieces: a crash leaves the old file or the new one,
    never a part of it.

    Raises OSError; the unfinished file is removed then.
    """
    unfinished = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory survive a power cut: a rename alone is not on disk yet."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the lock file `path` for the block, waiting at most `wait` seconds for it.

    The kernel frees it when the process ends, however it ends. The file stays: removing it would let two
    processes lock two files of the same name. Raises LockHeld, or OSError where the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _acquire(descriptor, path, deadline=time.monotonic() + wait)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path, *, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise LockHeld(path, _holder(descriptor)) from error
            time.sleep(POLL_SECONDS)
        else:
            return


def _holder(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
