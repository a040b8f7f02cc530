"""`python -m tests.bench.ledger`: reserve + commit pairs a second, from 1 and from 8 processes.

Each pair is two transactions, both on the disk when they end. How long a sync takes on this disk is measured
beside it, because it is what bounds the rest. Prints one table, or with `--json` one document.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.synchronize import Barrier
from pathlib import Path

from p2v.licensing.chain import Event
from p2v.licensing.ledger import Ledger, open_ledger
from p2v.licensing.store import Access
from p2v.licensing.tiers import EVALUATION

PLENTY = replace(EVALUATION, total=10_000_000)
FORK = multiprocessing.get_context("fork")
SECONDS = 5.0
LONG_LEDGER = 10_000
SYNCS = 50


@dataclass(frozen=True, slots=True)
class Row:
    """`rate` is pairs a second, or looks a second where the name says so."""

    name: str
    count: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.count / self.seconds


def convert(ledger: Ledger, name: str) -> None:
    ledger.reserve(run=name, machine=name, title=name)
    ledger.commit(name)


def pairs(home: Path, name: str, seconds: float) -> int:
    """Pairs in that time, by this process."""
    count = 0
    with open_ledger(home, license=PLENTY) as ledger:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            convert(ledger, f"{name}-{count}")
            count += 1
    return count


def _racer(home: Path, name: str, seconds: float, start: Barrier, counts: Path) -> None:
    start.wait(timeout=30)
    (counts / name).write_text(str(pairs(home, name, seconds)))


def together(folder: Path, processes: int, seconds: float) -> Row:
    """All of them on one ledger at once."""
    home, counts = folder / f"home{processes}", folder / f"counts{processes}"
    counts.mkdir()
    start = FORK.Barrier(processes)
    racers = [
        FORK.Process(target=_racer, args=(home, f"p{number}", seconds, start, counts))
        for number in range(processes)
    ]
    for racer in racers:
        racer.start()
    started = time.monotonic()
    for racer in racers:
        racer.join(timeout=seconds + 60)
    took = time.monotonic() - started
    if any(racer.exitcode for racer in racers):
        raise RuntimeError("a process failed")
    count = sum(int(path.read_text()) for path in counts.iterdir())
    with open_ledger(home, license=PLENTY) as ledger:
        if ledger.status().used != count:
            raise RuntimeError(f"{ledger.status().used} units used for {count} conversions")
    plural = "" if processes == 1 else "es"
    return Row(f"pairs, {processes} process{plural}", count, took)


def syncs(folder: Path) -> Row:
    """What the disk itself gives: 4 KiB written and synced."""
    descriptor = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        seconds = _timed(lambda number: _write_and_sync(descriptor, number), SYNCS)
    finally:
        os.close(descriptor)
    return Row("fsync of 4 KiB", SYNCS, seconds)


def _write_and_sync(descriptor: int, number: int) -> None:
    os.pwrite(descriptor, bytes(4096), number * 4096)
    os.fsync(descriptor)


def long_ledger(folder: Path, conversions: int) -> list[Row]:
    """How it goes once many conversions are in the ledger: opening it, and the next pair."""
    home = folder / "long"
    with open_ledger(home, license=PLENTY) as ledger:
        # One transaction for all of them: only the length matters here.
        with ledger._sound_books(Access.WRITE) as books:
            for number in range(conversions):
                name = f"old-{number}"
                entry = books.open_account(run=name, machine=name, title=name, free_reason="")
                books.follow(entry, Event.COMMITTED, units=1, reason="")
        after = _timed(lambda number: convert(ledger, f"new-{number}"), 20)
    opening = _timed(lambda _number: _open(home), 5)
    return [
        Row(f"opening, {conversions} conversions in it", 5, opening),
        Row(f"pairs after {conversions} conversions", 20, after),
    ]


def _open(home: Path) -> None:
    with open_ledger(home, license=PLENTY):
        pass


def _timed(work: Callable[[int], None], count: int) -> float:
    started = time.monotonic()
    for number in range(count):
        work(number)
    return time.monotonic() - started


def measure(folder: Path, seconds: float, conversions: int) -> list[Row]:
    return [
        syncs(folder),
        together(folder, 1, seconds),
        together(folder, 8, seconds),
        *long_ledger(folder, conversions),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--conversions", type=int, default=LONG_LEDGER)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="p2v-bench-") as name:
        rows = measure(Path(name), options.seconds, options.conversions)
    if options.json:
        print(json.dumps([asdict(row) | {"rate": row.rate} for row in rows], indent=1))
        return
    print("| what | a second | ms each |\n|---|--:|--:|")
    for row in rows:
        print(f"| {row.name} | {row.rate:.1f} | {1000 / row.rate:.1f} |")


if __name__ == "__main__":
    main()
