"""Manifests for the tests: written into a folder, read, and what was found."""

from __future__ import annotations

from pathlib import Path

from p2v.batch.manifest import Manifest
from p2v.batch.reading import Reading, read_manifest


def reading(folder: Path, text: str | bytes) -> Reading:
    path = folder / "manifest.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_manifest(path, folder / "runs")


def mistakes(folder: Path, text: str | bytes) -> list[str]:
    """`line:column message hint` of each mistake."""
    found = reading(folder, text).mistakes
    return [f"{one.mark.line}:{one.mark.column} {one.message} {one.hint}".strip() for one in found]


def manifest(folder: Path, text: str) -> Manifest:
    return reading(folder, text).require()
