"""The only door to the terminal: results on stdout, talk and progress on stderr.

Progress is one stream of events. On a terminal tqdm draws them, with `--progress json` each is a JSON line,
otherwise each phase is one line at its end, so that nothing needs a terminal.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, NoReturn, TextIO

from tqdm import tqdm

REPORT_SECONDS = 0.5


class ProgressStyle(StrEnum):
    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    JSON = "json"
    NONE = "none"


class Volume(StrEnum):
    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


def human_size(size: float) -> str:
    """Bytes for a person: `1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def human_time(seconds: float) -> str:
    """Seconds for a person: `42 s`, `3 min 05 s`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Phase:
    """A step with a known amount of work (bytes) or none; `advance` may be called from any thread."""

    def __init__(self, ui: UI, name: str, total: int | None) -> None:
        self._ui = ui
        self._name = name
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._reported = 0.0
        self._lock = threading.Lock()
        self._bar = self._make_bar() if ui.style is ProgressStyle.BAR and total else None

    def _make_bar(self) -> tqdm[NoReturn]:
        return tqdm(
            desc=self._name,
            total=self._total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            leave=False,
            file=self._ui.stderr,
            dynamic_ncols=True,
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def name(self) -> str:
        return self._name

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done."""
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.update(size)
            elif self._ui.style is ProgressStyle.JSON and self.seconds - self._reported > REPORT_SECONDS:
                self._reported = self.seconds
                self.report("running")

    def rename(self, name: str) -> None:
        self._name = name

    def event(self, state: str) -> Mapping[str, str | float | None]:
        """Where it stands, for a program."""
        rate = self._done / self.seconds if self.seconds > 0 else 0.0
        left = (self._total - self._done) / rate if self._total and rate else None
        return {
            "phase": self._name,
            "state": state,
            "bytes": self._done,
            "total": self._total,
            "rate": round(rate),
            "eta": None if left is None else round(left, 1),
            "seconds": round(self.seconds, 1),
        }

    def line(self) -> str:
        """Where it stands, for a person, what is cut off first at the end:
        ` 43 %, 1.2 GiB at 88.0 MiB/s, 20 s left: Copying /dev/sda`.
        """
        rate = self._done / max(self.seconds, 0.001)
        if not self._total:
            return f"{self._name}, {human_time(self.seconds)}"
        left = human_time(max(0.0, (self._total - self._done) / rate)) if rate else "?"
        share = min(100, 100 * self._done // self._total)
        amount = f"{human_size(self._done)} at {human_size(rate)}/s"
        return f"{share:3} %, {amount}, {left} left: {self._name}"

    def report(self, state: str) -> None:
        self._ui.event(self.event(state))

    def close(self, state: str) -> None:
        if self._bar is not None:
            self._bar.close()
        match self._ui.style:
            case ProgressStyle.JSON:
                self.report(state)
            case ProgressStyle.BAR | ProgressStyle.LINES:
                self._ui.say(self._summary(state))
            case _:
                pass

    def _summary(self, state: str) -> str:
        amount = ""
        if self._total:
            rate = self._done / max(self.seconds, 0.001)
            amount = f", {human_size(self._done)} at {human_size(rate)}/s"
        text = f"{self._name}: {human_time(self.seconds)}{amount}"
        # Brackets make the step stand out through which an error is passing.
        return text if state == "done" else f"[{text}: {state}]"


class UI:
    """Everything a person or a calling program sees. One object a process, handed down, never a global."""

    def __init__(
        self,
        *,
        style: ProgressStyle = ProgressStyle.AUTO,
        volume: Volume = Volume.NORMAL,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = stdout or sys.stdout
        self.stderr = stderr or sys.stderr
        self.volume = volume
        self._lock = threading.Lock()
        self.style = self._choose(style)

    def _choose(self, style: ProgressStyle) -> ProgressStyle:
        if style is not ProgressStyle.AUTO:
            return style
        if self.volume is Volume.QUIET:
            return ProgressStyle.NONE
        return ProgressStyle.BAR if self.stderr.isatty() else ProgressStyle.LINES

    def result(self, text: str) -> None:
        """The answer of a command, alone on stdout."""
        print(text, file=self.stdout, flush=True)

    def say(self, text: str) -> None:
        if self.volume is not Volume.QUIET:
            self._line(text)

    def warn(self, text: str) -> None:
        self._line(f"warning: {text}")

    def debug(self, text: str) -> None:
        if self.volume is Volume.VERBOSE:
            self._line(text)

    def error(self, text: str) -> None:
        self._line(f"error: {text}")

    def event(self, fields: Mapping[str, object]) -> None:
        """One JSON line for a program that watches."""
        self._write(json.dumps(fields))

    def _write(self, line: str) -> None:
        """One line at a time, whoever else writes: `print` would let two of them run into each other."""
        with self._lock:
            self.stderr.write(f"{line}\n")
            self.stderr.flush()

    def _line(self, text: str) -> None:
        if self.style is ProgressStyle.JSON:
            self.event({"message": text})
        elif self.style is ProgressStyle.BAR:
            tqdm.write(text, file=self.stderr)
        else:
            self._write(text)

    @contextlib.contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        """A step shown while it runs; `total` is its work in bytes where that is known."""
        phase = Phase(self, name, total)
        if self.style is ProgressStyle.JSON:
            phase.report("started")
        state = "failed"
        try:
            yield phase
            state = "done"
        except (KeyboardInterrupt, GeneratorExit):
            state = "interrupted"
            raise
        finally:
            phase.close(state)


class Table:
    """Lines on a terminal that are drawn over and over: one for each of `slots` pieces of work, a bar below
    for all of them. Elsewhere nothing is drawn. For any number of threads.
    """

    def __init__(self, ui: UI, slots: int, total: int, unit: str) -> None:
        self._bars: list[tqdm[NoReturn]] = []
        if ui.style is ProgressStyle.BAR:
            lines = [self._bar(ui, position, bar_format="{desc}") for position in range(slots)]
            form = f"{{n}} of {{total}} {unit} |{{bar}}| {{elapsed}}, {{remaining}} left"
            self._bars = [*lines, self._bar(ui, slots, total=total, bar_format=form)]

    def _bar(self, ui: UI, position: int, **settings: Any) -> tqdm[NoReturn]:
        return tqdm(position=position, leave=False, file=ui.stderr, dynamic_ncols=True, **settings)

    def show(self, slot: int, text: str) -> None:
        if self._bars:
            self._bars[slot].set_description_str(text)

    def advance(self) -> None:
        """One more piece of work is done."""
        if self._bars:
            self._bars[-1].update(1)
            self._bars[-1].refresh()

    def close(self) -> None:
        for bar in reversed(self._bars):
            bar.close()
        self._bars = []
