"""Whole files or none, and locks that a killed process gives back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from p2v.atomic import LockHeld, locked, write_atomically


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_it_has_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    calls: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        kind = "directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file"  # noqa: PTH112
        calls.append(f"{kind}, name {'taken' if path.exists() else 'free'}")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, b"new")
    assert calls == ["file, name free", "directory, name taken"]


def test_a_held_lock_names_its_holder_and_is_free_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path), pytest.raises(LockHeld) as caught, locked(path):
        pass
    assert caught.value.pid == os.getpid()
    with locked(path):
        pass


def test_a_killed_process_gives_its_lock_back(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with locked(path):
            os.write(writer, b"held")
            signal.pause()
    assert os.read(reader, 4) == b"held"
    with pytest.raises(LockHeld) as caught, locked(path):
        pass
    assert caught.value.pid == pid
    os.kill(pid, signal.SIGKILL)
    with locked(path, wait=5):
        pass
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
