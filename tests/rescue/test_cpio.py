"""The archives for the kernel, read by GNU cpio."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v.rescue.cpio import Archive
from tests.conftest import need_tools
from tests.loops import run

pytestmark = pytest.mark.tools


def unpack(archive: Path, folder: Path) -> None:
    need_tools("cpio")
    folder.mkdir()
    run("sh", "-c", f"cd '{folder}' && cpio -id --quiet --no-absolute-filenames < '{archive}'")


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 4095, 70001])
def test_cpio_reads_what_was_written(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "source").write_bytes(content[:size])
    with (tmp_path / "archive").open("wb") as handle, Archive(handle) as archive:
        archive.folder("p2v")
        archive.file("p2v/file", tmp_path / "source")
        archive.text("init", b"#!/bin/sh\n", mode=0o755)
    unpack(tmp_path / "archive", tmp_path / "out")
    assert (tmp_path / "out/p2v/file").read_bytes() == content[:size]
    assert (tmp_path / "out/init").stat().st_mode & 0o777 == 0o755


def test_a_second_archive_begins_where_the_kernel_looks_for_it(tmp_path: Path) -> None:
    """usr/../init/initramfs.c goes on at the next multiple of four bytes."""
    path = tmp_path / "archive"
    with path.open("wb") as handle, Archive(handle) as archive:
        archive.text("one", b"1")
    first = path.stat().st_size
    with path.open("ab") as handle, Archive(handle) as archive:
        archive.text("two", b"2", mode=0o600)
    assert first % 4 == 0
    (tmp_path / "rest").write_bytes(path.read_bytes()[first:])
    unpack(tmp_path / "rest", tmp_path / "out")
    assert (tmp_path / "out/two").read_bytes() == b"2"
