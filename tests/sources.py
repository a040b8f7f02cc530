"""Sources for tests of the capture: disks that are files, lines that break, bytes that change on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from p2v.disk.device import BlockData, BlockDevice, BlockRequest, FileDevice, open_file_device
from p2v.errors import ConnectionLost
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import Disk
from p2v.transports import Guard, SnapshotKeeper, Survey, Transport

Hook = Callable[[BlockRequest], None]


class FlippingDevice(FileDevice):
    """Changes one bit of one block after it was digested, as a bad wire or a bad memory would."""

    flips = -1
    hook: Hook | None = None

    def fetch(self, requests: Iterable[BlockRequest]) -> Iterator[BlockData]:
        for block in super().fetch(requests):
            if self.hook is not None:
                self.hook(block.request)
            yield flipped(block) if block.request.index == self.flips else block


def flipped(block: BlockData) -> BlockData:
    data = bytearray(block.data)
    data[100] ^= 0x10
    return replace(block, data=bytes(data))


class Files:
    """A transport whose disks are files. `broken` names one whose line breaks when it is opened.

    `flips` is the block that arrives changed, `hooks` are called before each block of a disk.
    """

    boot_id = ""

    def __init__(self, *, broken: str = "", flips: int = -1) -> None:
        self.broken = broken
        self.flips = flips
        self.opened: list[str] = []
        self.hooks: dict[str, Hook] = {}

    def survey(self) -> Survey:
        raise AssertionError("nobody asked")

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        self.opened.append(disk.path)
        if disk.path == self.broken:
            raise ConnectionLost("the line broke")
        with open_file_device(Path(disk.path)) as device:
            changing = FlippingDevice(device._handle, size=device.size, sector_size=512, name=disk.path)
            changing.flips, changing.hook = self.flips, self.hooks.get(disk.path)
            yield changing

    @contextmanager
    def open_disks(self, disks: Sequence[Disk]) -> Iterator[tuple[BlockDevice, ...]]:
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.open_disk(disk)) for disk in disks)

    def open_guard(self) -> AbstractContextManager[Guard]:
        raise AssertionError("nothing runs on files")

    def open_snapshots(self) -> AbstractContextManager[SnapshotKeeper]:
        raise AssertionError("nothing runs on files")


class Given(Source):
    """A source that is there already; a lost line is not tried again unless `retry_for` says so."""

    def __init__(self, transport: Transport, house: House, *, retry_for: str = "0") -> None:
        super().__init__(Job("x", ("libvirt",), Path("x"), retry_for=retry_for), house)
        self.given = transport

    def transport(self) -> Transport:
        return self.given
