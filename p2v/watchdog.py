"""Ends a process that does not answer: libguestfs' own time limits do not exist."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from p2v.errors import TargetError


class Watchdog:
    """Ends the appliance's QEMU when a call takes too long. `mark` stands on QEMU's command line.

    libguestfs holds a lock during a call, so the process cannot be asked for; it is found by its mark.
    """

    def __init__(self, mark: str) -> None:
        self.mark = mark

    @contextlib.contextmanager
    def limit(self, seconds: float, what: str) -> Iterator[None]:
        done, late = threading.Event(), threading.Event()
        thread = threading.Thread(target=self._watch, args=(done, late, seconds), daemon=True)
        thread.start()
        try:
            yield
        except RuntimeError as error:
            if late.is_set():
                raise TargetError(
                    f"libguestfs did not {what} within {seconds:.0f} s",
                    hint="If /dev/kvm does not work on this host: export P2V_ACCEL=tcg",
                ) from error
            raise
        finally:
            done.set()
            thread.join()

    def _watch(self, done: threading.Event, late: threading.Event, seconds: float) -> None:
        wait = seconds
        while not done.wait(wait):
            late.set()
            wait = 1.0
            self._kill()

    def _kill(self) -> None:
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (folder / "cmdline").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
