"""Disk images of a target: overlays on the capture to convert in, and the finished images out of them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from p2v import command
from p2v.errors import TargetError, VerifyError
from p2v.model import Image, ImageFormat, MiB

CREATE_SECONDS = 120.0
CONVERT_SECONDS = 24 * 3600.0


def _qemu_img() -> str:
    return command.need_tool("qemu-img", reason="write disk images", package="qemu-utils")


def make_overlay(capture: Path, overlay: Path) -> None:
    """An empty qcow2 overlay on a raw capture, which is only read from then on. Raises TargetError."""
    backing = os.path.relpath(capture, overlay.parent)
    argv = [_qemu_img(), "create", "-q", "-f", "qcow2", "-F", "raw", "-b", backing, str(overlay)]
    overlay.unlink(missing_ok=True)
    command.check(argv, timeout=CREATE_SECONDS, reason=f"make an overlay on {capture}")


def write_image(overlay: Path, image: Path, image_format: ImageFormat) -> Image:
    """The finished image of a disk: written under another name, compared, then renamed.

    Raises TargetError where it cannot be written, VerifyError where it differs from the overlay.
    """
    unfinished = image.with_name(image.name + ".part")
    unfinished.unlink(missing_ok=True)
    formats = ["-f", "qcow2", "-O", image_format.value]
    convert = [_qemu_img(), "convert", *formats, str(overlay), str(unfinished)]
    command.check(convert, timeout=CONVERT_SECONDS, reason=f"write {image}")
    _compare(overlay, unfinished, image_format)
    # It holds a whole disk, password files included; a hypervisor takes the file over when it starts.
    unfinished.chmod(0o600)
    size = unfinished.stat().st_size
    digest = _sha256(unfinished)
    _sync(unfinished)
    unfinished.rename(image)
    return Image(image.name, image_format, size, digest)


def _compare(overlay: Path, image: Path, image_format: ImageFormat) -> None:
    formats = ["-f", "qcow2", "-F", image_format.value]
    argv = [_qemu_img(), "compare", "-q", *formats, str(overlay), str(image)]
    result = command.run(argv, timeout=CONVERT_SECONDS)
    if result.code == 1:
        raise VerifyError(f"{image} differs from what it was written from")
    if result.code != 0:
        raise TargetError(f"qemu-img cannot compare {image}: {result.stderr.strip()[-300:]}")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def space_needed(data_size: int) -> int:
    """Bytes that a run takes on the disk: the capture, the overlay's changes, and the finished image beside
    it.
    """
    return 2 * data_size + 512 * MiB
