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
from collections.abc import Iterator
from enum import StrEnum
from typing import NoReturn, TextIO

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

    def advance(self, size: int) -> None:
        """Count `size` more bytes as done."""
        with self._lock:
            self._done += size
            if self._bar is not None:
                self._bar.update(size)
            elif self._ui.style is ProgressStyle.JSON and self.seconds - self._reported > REPORT_SECONDS:
                self._reported = self.seconds
                self.report("running")

    def report(self, state: str) -> None:
        rate = self._done / self.seconds if self.seconds > 0 else 0.0
        left = (self._total - self._done) / rate if self._total and rate else None
        event = {
            "phase": self._name,
            "state": state,
            "bytes": self._done,
            "total": self._total,
            "rate": round(rate),
            "eta": None if left is None else round(left, 1),
            "seconds": round(self.seconds, 1),
        }
        print(json.dumps(event), file=self._ui.stderr, flush=True)

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

    def _line(self, text: str) -> None:
        if self.style is ProgressStyle.JSON:
            print(json.dumps({"message": text}), file=self.stderr, flush=True)
        elif self.style is ProgressStyle.BAR:
            tqdm.write(text, file=self.stderr)
        else:
            print(text, file=self.stderr, flush=True)

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
