"""What every rebuild of an initramfs shares: space before, a look into the result, and its way into /boot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from conversions.changes import Changes
from conversions.initramfs import read_initramfs
from conversions.kernels import INITRAMFS_LIMIT, Kernel
from drivers.pack import LinuxDriver
from p2v.errors import GuestError
from p2v.model import MiB

WORK = "/var/lib/p2v-conversion"
"""Only root may write in /var/lib, so that nobody of the guest can have put a trap there."""
RESULT = f"{WORK}/initrd.img"
SCRATCH = "/var/tmp"
GROWTH = 8 * MiB
UNPACKED = 5
"""An initramfs unpacked, twice over, is about this many times its compressed size."""


@contextmanager
def build_folder(changes: Changes, kernel: Kernel) -> Iterator[None]:
    """An empty `WORK` for the block. Raises GuestError where there is no space to build in."""
    size = changes.guest.size(kernel.initramfs)
    need_space(changes, SCRATCH, UNPACKED * size + 32 * MiB)
    with work_folder(changes, size):
        yield


@contextmanager
def work_folder(changes: Changes, size: int) -> Iterator[None]:
    """An empty `WORK` for the block, with space for `size` bytes. Raises GuestError where there is none."""
    need_space(changes, WORK.rsplit("/", 1)[0], size + GROWTH)
    changes.guest.run(["rm", "-rf", WORK])
    changes.guest.mkdir(WORK)
    try:
        yield
    finally:
        changes.guest.run(["rm", "-rf", WORK])


def need_space(changes: Changes, path: str, size: int) -> None:
    free = changes.guest.free_space(path)
    if free < size:
        raise GuestError(
            f"{path} of the guest has {free // MiB} MiB free, but {-(-size // MiB)} MiB are needed to"
            " rebuild an initramfs",
            hint="Make space there on the source, for example by removing old kernels",
        )


def install_result(changes: Changes, kernel: Kernel, drivers: tuple[LinuxDriver, ...], reason: str) -> bytes:
    """Put `RESULT` where the initramfs is, once it is seen to hold the drivers; returns its content."""
    data = changes.guest.read(RESULT, limit=INITRAMFS_LIMIT)
    present = read_initramfs(data).modules(kernel.version) | kernel.built_in
    lacking = sorted(kernel.closure(driver.module for driver in drivers) - present)
    if lacking:
        raise GuestError(f"The rebuilt initramfs of {kernel.version} still lacks {', '.join(lacking)}")
    need_space(changes, "/boot", len(data) - changes.guest.size(kernel.initramfs))
    changes.rebuild(RESULT, kernel.initramfs, reason)
    return data


def all_modules(kernel: Kernel, drivers: tuple[LinuxDriver, ...]) -> list[str]:
    """What the old initramfs had, and the drivers with all that they need."""
    old = kernel.contents.modules(kernel.version) if kernel.contents else frozenset[str]()
    return sorted(old | kernel.closure(driver.module for driver in drivers))


def tool_of(changes: Changes, *paths: str) -> str:
    """The first of the guest's programs that exists, empty where none does."""
    return next((path for path in paths if changes.guest.exists(path)), "")
