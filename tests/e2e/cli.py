"""The command line as a user runs it: a child process, its exit code, its two streams."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_SECONDS = 1800.0


@dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended. `memory` is the largest it became (resident), bytes."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """The one document on standard output."""
        return json.loads(self.stdout)


def p2v(*arguments: str | Path, home: Path, timeout: float = COMMAND_SECONDS) -> Answer:
    """Run a command to its end."""
    done = subprocess.run(
        _argv(arguments),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=_environment(home),
        check=False,
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@contextmanager
def started(*arguments: str | Path, home: Path) -> Iterator[subprocess.Popen[str]]:
    """A command that is watched and perhaps killed; its progress comes as JSON lines on `stderr`."""
    child = subprocess.Popen(
        [*_argv(arguments), "--progress", "json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(home),
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=30)


def wait_for_phase(child: subprocess.Popen[str], phase: str, *, after: float = 0.0) -> list[str]:
    """Wait until a phase starts, and `after` seconds more; returns the lines that came before."""
    assert child.stderr
    lines = []
    for line in child.stderr:
        lines.append(line)
        event = json.loads(line) if line.startswith("{") else {}
        if phase in event.get("phase", "") and event.get("state") == "started":
            time.sleep(after)
            return lines
    raise AssertionError(f"{phase!r} never started:\n" + "".join(lines))


def kill_in(
    phase: str,
    *arguments: str | Path,
    home: Path,
    after: float = 0.0,
    when: Callable[[], bool] | None = None,
) -> int:
    """Start a command and kill it in a phase, `after` seconds or `when` something is true; its exit code."""
    with started(*arguments, home=home) as child:
        wait_for_phase(child, phase, after=after)
        if when is not None:
            until(when, seconds=60, poll=0.005)
        child.kill()
        return child.wait(timeout=120)


def _argv(arguments: Sequence[str | Path]) -> list[str]:
    return [sys.executable, "-m", "p2v", *(str(argument) for argument in arguments)]


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "P2V_HOME": str(home)}


def until(condition: Callable[[], bool], *, seconds: float, poll: float = 0.2) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(poll)
