"""A disk with bad sectors, for the kernel as for us: nbdkit fails them, FUSE and a loop device pass it on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from tests.conftest import need_tools

START_SECONDS = 10.0

# $1 handle, $2 count, $3 offset in nbdkit's eval plugin are $2, $3, $4 of the script. Lines: start end.
READ = """
while read -r start end; do
  if [ "$4" -lt "$end" ] && [ $(($4 + $3)) -gt "$start" ]; then echo EIO bad sector >&2; exit 1; fi
done < {bad}
exec dd if={image} bs=1M iflag=skip_bytes,count_bytes skip="$4" count="$3" status=none
"""


@dataclass(frozen=True, slots=True)
class BadSectors:
    """What of a disk cannot be read just now."""

    list: Path

    def set(self, *ranges: tuple[int, int]) -> None:
        """(start, length) in bytes; none mends the disk."""
        new = self.list.with_suffix(".new")
        new.write_text("".join(f"{start} {start + length}\n" for start, length in ranges))
        new.rename(self.list)


def _plugin(image: Path, bad: BadSectors) -> list[str]:
    script = READ.format(bad=bad.list, image=image)
    return ["eval", f"get_size=echo {image.stat().st_size}", "can_write=exit 3", f"pread={script}"]


@contextlib.contextmanager
def bad_nbd(image: Path, folder: Path) -> Iterator[tuple[Path, BadSectors]]:
    """The socket of an NBD server for the image, and what it cannot read."""
    need_tools("nbdkit")
    bad = BadSectors(folder / "bad.list")
    bad.set()
    socket = folder / "bad.sock"
    argv = ["nbdkit", "-f", "-U", str(socket), *_plugin(image, bad)]
    with command.start(argv):
        _wait_for(socket.exists)
        yield socket, bad


@contextlib.contextmanager
def bad_loop(image: Path, folder: Path) -> Iterator[tuple[Path, BadSectors]]:
    """A block device with the content of the image, and what it cannot read."""
    need_tools("nbdkit", "nbdfuse", "losetup", "umount")
    bad = BadSectors(folder / "bad.list")
    bad.set()
    place = folder / "bad.disk"
    place.touch()
    argv = ["nbdfuse", "-r", str(place), "--command", "nbdkit", "-s", *_plugin(image, bad)]
    with command.start(argv), contextlib.ExitStack() as stack:
        _wait_for(lambda: place.stat().st_size > 0)
        stack.callback(_tool, "umount", "--lazy", place)
        loop = _tool("losetup", "--find", "--show", "--read-only", "--direct-io=on", place).strip()
        stack.callback(_tool, "losetup", "--detach", loop)
        yield Path(loop), bad


def forget(loop: Path) -> None:
    """Empty the page cache of a device, which still has what could be read before."""
    _tool("blockdev", "--flushbufs", loop)


def _tool(*argv: str | Path) -> str:
    return command.check(argv, timeout=30, reason="prepare a bad disk")


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not start"
        time.sleep(0.02)
