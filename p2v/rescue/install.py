"""mmdebstrap as a child that takes its time, and that is ended with everything it has started."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2v import command
from p2v.errors import TargetError
from p2v.ui import human_time

INSTALL_SECONDS = 3600.0
TIDY_SECONDS = 60.0
POLL_SECONDS = 0.2
OUTPUT_TAIL = 2000
PROXIES = tuple(name for word in ("http_proxy", "https_proxy", "no_proxy") for name in (word, word.upper()))


def run_mmdebstrap(argv: Sequence[str], log: Path) -> None:
    """Raises TargetError with the end of what it said; ended early, it removes its tree."""
    with log.open("wb") as output, command.start(argv, log=output, env=_proxies()) as child:
        try:
            code = _wait(child, INSTALL_SECONDS)
        except BaseException:
            _end_all(child)
            raise
    if code != 0:
        said = log.read_text(errors="replace").strip()[-OUTPUT_TAIL:]
        hint = (
            ""
            if os.geteuid() == 0
            else "Without root this needs user namespaces and newuidmap (uidmap). Or: sudo"
        )
        raise TargetError(
            f"mmdebstrap failed to build the rescue system (exit code {code}): {said}", hint=hint
        )


def _wait(child: command.Child, seconds: float) -> int:
    deadline = time.monotonic() + seconds
    while (code := child.poll()) is None:
        if time.monotonic() > deadline:
            raise TargetError(f"mmdebstrap did not finish within {human_time(seconds)}")
        time.sleep(POLL_SECONDS)
    return code


def _end_all(child: command.Child) -> None:
    """mmdebstrap passes no signal on to its own children: all of them are told, as Ctrl-C would."""
    for number, seconds in ((signal.SIGTERM, TIDY_SECONDS), (signal.SIGKILL, POLL_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        deadline = time.monotonic() + seconds
        while child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)


def _proxies() -> Mapping[str, str]:
    return {name: os.environ[name] for name in PROXIES if name in os.environ}
