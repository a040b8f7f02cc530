"""`python -m tests.bench.restore`: an image onto a disk over SSH, beside what a user would reach for instead.

The disk is a loop device on a file of the same machine, reached by a private sshd on 127.0.0.1. All sides run
alternately and end with everything on that disk (fsync); p2v reads it back as well, which no other side does.
Prints one table and writes bench-restore.json. Needs root, and about 10 GiB free in TMPDIR.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from p2v import command
from tests.bench import disks
from tests.bench.report import Row, Sample, alternate, publish, rows_of
from tests.bench.sides import TIME_LIMIT, ssh_command, used
from tests.sshd import Sshd, private_sshd

GOALS = {"dd | ssh": 0.25}
NOTE = "ratio: p2v to this side"


@dataclass(frozen=True, slots=True)
class Place:
    """An image, the device that it goes to, and the server that stands before that."""

    server: Sshd
    image: Path
    device: str

    @property
    def ssh(self) -> str:
        return ssh_command(self.server)


def p2v(place: Place) -> Sample:
    started = time.monotonic()
    server = place.server
    argv: list[str | Path] = [sys.executable, "-m", "tests.bench.put", server.url]
    argv += [server.identity, server.known_hosts, place.image, place.device]
    report = json.loads(command.check(argv, timeout=TIME_LIMIT, reason="restore"))
    return Sample(time.monotonic() - started, report["wire"], report["peak"])


def dd(place: Place) -> Sample:
    remote = f"dd bs=4M iflag=fullblock conv=fsync status=none of={place.device}"
    return shell(f"dd bs=4M status=none if={place.image} | {place.ssh} {shlex.quote(remote)}")


def dd_zstd(place: Place) -> Sample:
    remote = f"zstd -d -q -c | dd bs=4M iflag=fullblock conv=fsync status=none of={place.device}"
    return shell(f"dd bs=4M status=none if={place.image} | zstd -1 -q -c | {place.ssh} {shlex.quote(remote)}")


def partclone(place: Place) -> Sample:
    remote = (
        f"zstd -d -q -c | partclone.ext4 -q -r -s - -o {place.device} -L /dev/null && sync {place.device}"
    )
    local = f"partclone.ext4 -q -c -s {place.image} -o - -L /dev/null | zstd -1 -q -c"
    return shell(f"{local} | {place.ssh} {shlex.quote(remote)}")


SIDES: dict[str, Callable[[Place], Sample]] = {
    "p2v": p2v,
    "dd | ssh": dd,
    "dd | zstd -1 | ssh": dd_zstd,
    "partclone | zstd -1 | ssh": partclone,
}


def shell(script: str) -> Sample:
    started = time.monotonic()
    command.check(["bash", "-o", "pipefail", "-c", script], timeout=TIME_LIMIT, reason="write a disk")
    return Sample(time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restore", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench-restore.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        rows = measure(Path(name), options.rounds)
    publish(rows, options.output, rounds=options.rounds, note=NOTE)


def measure(folder: Path, rounds: int) -> list[Row]:
    content = folder / "content"
    disks.gather(content)
    image = disks.fill_holes(disks.build(folder / "image.img", disks.SMALL_SIZE, content))
    wanted = content_digest(image, str(image))
    with private_sshd(folder / "sshd") as server:
        target = folder / "target.img"
        jobs = {name: partial(onto_a_device, name, server, image, target, wanted) for name in SIDES}
        return rows_of(alternate(jobs, rounds), GOALS)


def onto_a_device(name: str, server: Sshd, image: Path, target: Path, wanted: str) -> Sample:
    """One side, onto an empty disk; what is there afterwards must have the digest `wanted`."""
    disks.warm(image)
    with device(target, disks.SMALL_SIZE) as path:
        sample = SIDES[name](Place(server, image, path))
        assert content_digest(image, path) == wanted, f"{name} left something else"
    return sample


@contextmanager
def device(file: Path, size: int) -> Iterator[str]:
    """A fresh disk of the machine, empty, as it comes from the shop."""
    with file.open("wb") as handle:
        handle.truncate(size)
    path = command.check(["losetup", "--find", "--show", file], timeout=30, reason="make a disk").strip()
    try:
        yield path
    finally:
        command.check(["losetup", "--detach", path], timeout=60, reason="take the disk away")
        file.unlink()


def content_digest(image: Path, path: str) -> str:
    """SHA-256 of what the image uses, as it is at `path`."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for start, length in used(image):
            file.seek(start)
            digest.update(file.read(length))
    return digest.hexdigest()


if __name__ == "__main__":
    main()
