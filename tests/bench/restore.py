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
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from p2v import command
from tests.bench import disks
from tests.bench.__main__ import machine, used
from tests.bench.sides import CIPHER, TIME_LIMIT
from tests.sshd import Sshd, private_sshd

GOALS = {"dd | ssh": 0.25}


@dataclass(frozen=True, slots=True)
class Sample:
    """Seconds; for p2v the bytes on the wire, and the peak of its memory."""

    seconds: float
    wire: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `ratio` is p2v to this side, `goal` the most that it may be (0: none)."""

    name: str
    seconds: float
    ratio: float
    goal: float
    samples: tuple[float, ...]
    wire_mb: float = 0.0
    memory_mib: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """An image, the device that it goes to, and the server that stands before that."""

    server: Sshd
    image: Path
    device: str

    @property
    def ssh(self) -> str:
        words = [
            "ssh",
            "-c",
            CIPHER,
            "-p",
            str(self.server.port),
            "-i",
            str(self.server.identity),
            "-F",
            "none",
        ]
        words += ["-o", f"UserKnownHostsFile={self.server.known_hosts}", "-o", "IdentitiesOnly=yes"]
        return shlex.join([*words, f"{self.server.user}@127.0.0.1"])


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
    report = {"machine": machine(), "rounds": options.rounds, "rows": [asdict(row) for row in rows]}
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    print(machine())
    print(table(rows))


def measure(folder: Path, rounds: int) -> list[Row]:
    content = folder / "content"
    disks.gather(content)
    image = disks.fill_holes(disks.build(folder / "image.img", disks.SMALL_SIZE, content))
    samples: dict[str, list[Sample]] = {name: [] for name in SIDES}
    wanted = content_digest(image, str(image))
    with private_sshd(folder / "sshd") as server:
        for number in range(rounds + 1):
            for name, side in SIDES.items():
                disks.warm(image)
                with device(folder / "target.img", disks.SMALL_SIZE) as path:
                    sample = side(Place(server, image, path))
                    assert content_digest(image, path) == wanted, f"{name} left something else"
                if number:
                    samples[name].append(sample)
    ours = median(samples["p2v"])
    return [row(name, values, ours) for name, values in samples.items()]


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


def median(values: list[Sample]) -> float:
    return statistics.median(value.seconds for value in values)


def row(name: str, values: list[Sample], ours: float) -> Row:
    seconds = median(values)
    wire = statistics.median(value.wire for value in values) / 1e6
    memory = max(value.memory for value in values) / (1 << 20)
    spent = tuple(value.seconds for value in values)
    return Row(name, seconds, ours / seconds, GOALS.get(name, 0.0), spent, wire, memory)


def table(rows: list[Row]) -> str:
    lines = [
        "| side | median s | p2v to it | goal | MB on the wire | peak MiB |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for one in rows:
        goal = f"{one.goal:.2f}" if one.goal else "-"
        wire, memory = (f"{number:.0f}" if number else "-" for number in (one.wire_mb, one.memory_mib))
        lines.append(f"| {one.name} | {one.seconds:.2f} | {one.ratio:.3f} | {goal} | {wire} | {memory} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
