"""A disk image inside an OVA: where it lies in the tar file, so that it is read there and not unpacked."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import ImageFormat


def image_name(folder: Path, file: str, image_format: ImageFormat) -> str:
    """What qemu-img calls the image `file` of `folder`: its path, or its place in the OVA that holds it.

    Raises TargetError where it is neither there nor in an OVA.
    """
    image = (folder / file).resolve()
    if image.is_file():
        return str(image)
    for package in sorted(folder.glob("*.ova")):
        place = _find(package, file)
        if place is not None:
            return _inside(package.resolve(), *place, image_format)
    raise TargetError(f"The image {image} is not there")


def _find(package: Path, name: str) -> tuple[int, int] | None:
    """Offset and size of a file in the tar, bytes."""
    try:
        with tarfile.open(package, mode="r:") as tar:
            member = tar.getmember(name)
            return member.offset_data, member.size
    except KeyError:
        return None
    except (OSError, tarfile.TarError) as error:
        raise TargetError(f"{package} cannot be read: {error}") from error


def _inside(package: Path, offset: int, size: int, image_format: ImageFormat) -> str:
    """QEMU's raw format has `offset` and `size` for exactly this."""
    file = {"driver": "file", "filename": str(package)}
    part = {"driver": "raw", "offset": offset, "size": size, "file": file}
    return "json:" + json.dumps({"driver": image_format.value, "file": part})
