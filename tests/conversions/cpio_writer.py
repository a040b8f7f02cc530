"""Archives in the format of an initramfs, for trees that hold none."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping


def archive(files: Mapping[str, bytes]) -> bytes:
    """A cpio archive in the new ASCII format, cpio(5), with its trailer."""
    entries = b"".join(entry(name, body) for name, body in files.items())
    return entries + entry("TRAILER!!!", b"")


def entry(name: str, body: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    numbers = (1, 0o100644, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + encoded) + _padded(body)


def initramfs(version: str, modules: Iterable[str], settings: str = "") -> bytes:
    """An initramfs with these modules (empty files) and these settings, compressed with gzip."""
    files = {"conf/conf.d/resume": settings.encode()} if settings else {}
    files |= {f"usr/lib/modules/{version}/kernel/{name}.ko": b"" for name in modules}
    return gzip.compress(archive({"init": b"#!/bin/sh\n", **files}), mtime=0)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
