"""`p2v rescue build`: one image for CD and USB stick, and beside it kernel and initrd for PXE."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v.atomic import sync_directory
from p2v.errors import TargetError, UsageError
from p2v.rescue import cpio
from p2v.rescue.base import PACKAGE, Base, make_base
from p2v.rescue.inside_network import parse_address
from p2v.rescue.iso import IsoTools, write_iso
from p2v.rescue.keys import PublicKey
from p2v.rescue.sources import host_debian
from p2v.run import require_space
from p2v.ui import UI

HERE = Path(__file__).parent
OUTPUT_SIZE = 1 << 30
SUFFIX = ".iso"


@dataclass(frozen=True, slots=True)
class Order:
    """`address` is what `ip=` means in `inside_network`, or empty for DHCP; `packages` are further ones."""

    output: Path
    keys: tuple[PublicKey, ...]
    address: str = ""
    packages: tuple[str, ...] = ()
    anew: bool = False


@dataclass(frozen=True, slots=True)
class RescueFile:
    """`size` is bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Rescue:
    """What was built, from which Debian, with which kernel, and who may log in (fingerprints)."""

    iso: RescueFile
    kernel: RescueFile
    initrd: RescueFile
    system: str
    version: str
    keys: tuple[str, ...]
    address: str


def build_rescue(order: Order, cache: Path, ui: UI) -> Rescue:
    """Raises UsageError, TargetError; then nothing of the three files is there, or the old ones are."""
    check_order(order)
    debian, tools = host_debian(), IsoTools()
    base = make_base(debian, order.packages, cache, ui, anew=order.anew)
    require_space(order.output.parent, OUTPUT_SIZE)
    places = output_places(order.output)
    with ui.phase("Writing the rescue system"), _unfinished(places) as (new_iso, new_kernel, new_initrd):
        shutil.copyfile(base.kernel, new_kernel)
        write_initrd(base, order, new_initrd)
        write_iso(base, new_initrd, new_iso, tools)
        sums = [_sum(path) for path in (new_iso, new_kernel, new_initrd)]
    made = [RescueFile(str(path), path.stat().st_size, one) for path, one in zip(places, sums, strict=True)]
    fingerprints = tuple(f"{key.fingerprint} {key.comment}".strip() for key in order.keys)
    return Rescue(made[0], made[1], made[2], debian.title, base.version, fingerprints, order.address)


def output_places(output: Path) -> tuple[Path, Path, Path]:
    """Image, kernel and initrd."""
    return output, output.with_suffix(".vmlinuz"), output.with_suffix(".initrd")


def check_order(order: Order) -> None:
    """Raises UsageError."""
    if order.output.suffix != SUFFIX:
        raise UsageError(f"{order.output} does not end in {SUFFIX}", hint="Try: --output p2v-rescue.iso")
    for name in order.packages:
        if not PACKAGE.fullmatch(name):
            raise UsageError(f"{name[:80]!r} is not the name of a Debian package")
    try:
        if order.address and ("/" not in order.address or parse_address(order.address) is None):
            raise ValueError("no address with its prefix")
    except ValueError as error:
        raise UsageError(
            f"--address {order.address[:80]}: {error}",
            hint="Address, gateway and DNS: --address 10.1.2.3/24,10.1.2.1,10.1.2.1",
        ) from error


def write_initrd(base: Base, order: Order, place: Path) -> None:
    """The kernel unpacks one archive after the other: the system, then what is this order's own."""
    lines = "".join(f"{key.line}\n" for key in order.keys)
    with place.open("wb") as handle:
        with base.initrd.open("rb") as opened:
            shutil.copyfileobj(opened, handle, 1 << 20)
        with cpio.Archive(handle) as archive:
            for name in ("network", "console"):
                archive.file(f"p2v/{name}.py", HERE / f"inside_{name}.py")
            archive.text("p2v/authorized_keys", lines.encode(), mode=0o600)
            archive.text("p2v/defaults", f"ip={order.address}\n".encode() if order.address else b"")


@contextmanager
def _unfinished(places: Sequence[Path]) -> Iterator[tuple[Path, ...]]:
    """Other names for them until all are whole; the last one to get its name is the first."""
    others = tuple(place.with_name(f".{place.name}.part") for place in places)
    try:
        places[0].parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for other in others:
                stack.callback(other.unlink, missing_ok=True)
            yield others
            for other, place in reversed(list(zip(others, places, strict=True))):
                other.replace(place)
        sync_directory(places[0].parent)
    except OSError as error:
        raise TargetError(f"Cannot write {places[0]}: {error.strerror}") from error


def _sum(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
