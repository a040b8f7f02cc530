"""The only door to child processes: argument lists, a time limit on each, errors that name tool and purpose.

Children get a small environment of our own (no secrets leak into them), `/dev/null` as standard input unless
asked, and never a shell.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from p2v.errors import TargetError

KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR", "USER", "LOGNAME")
OUTPUT_LIMIT = 2000

Child = subprocess.Popen[bytes]
"""A child that runs beside us; its output is bytes."""
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Result:
    code: int
    stdout: str
    stderr: str


def find_tool(name: str) -> str | None:
    """The path of a program, or None. Administration folders count, whatever the user's PATH says."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
    return shutil.which(name, path=path)


def need_tool(name: str, *, reason: str, package: str) -> str:
    """The path of a program; raises TargetError with the command that installs it."""
    found = find_tool(name)
    if found is None:
        raise TargetError(
            f"{name} is needed to {reason}, and is not installed", hint=f"Try: sudo apt install {package}"
        )
    return found


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run a child to its end and return what it said, whatever its exit code.

    Raises TargetError when the program is missing or the time limit (seconds) ran out.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            input=input_text,
            stdin=subprocess.DEVNULL if input_text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=child_environment(env),
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError as error:
        raise TargetError(f"Cannot run {words[0]}: no such program", hint="Try: p2v doctor") from error
    except subprocess.TimeoutExpired as error:
        raise TargetError(f"{Path(words[0]).name} did not finish within {timeout:.0f} s") from error
    return Result(done.returncode, done.stdout, done.stderr)


def check(
    argv: Sequence[str | Path],
    *,
    timeout: float,
    reason: str,
    input_text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Like `run`, but an exit code other than 0 raises TargetError with the end of what the tool said."""
    result = run(argv, timeout=timeout, input_text=input_text, env=env, cwd=cwd)
    if result.code != 0:
        said = (result.stderr.strip() or result.stdout.strip())[-OUTPUT_LIMIT:]
        raise TargetError(f"{Path(str(argv[0])).name} failed to {reason} (exit code {result.code}): {said}")
    return result.stdout


@contextlib.contextmanager
def start(
    argv: Sequence[str | Path],
    *,
    log: IO[bytes] | int = subprocess.DEVNULL,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[Child]:
    """A child that runs beside us and never outlives the block: asked to stop, then ended.

    It gets its own process group, so that Ctrl-C reaches us alone and the close order stays ours. `pass_fds`
    are descriptors that it keeps, under their numbers.
    """
    words = [str(word) for word in argv]
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=child_environment(env),
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except FileNotFoundError as error:
        raise TargetError(f"Cannot run {words[0]}: no such program", hint="Try: p2v doctor") from error
    try:
        yield child
    finally:
        stop(child)


def stop(child: Child) -> None:
    """End a child: SIGTERM, and SIGKILL when it is still there after ten seconds."""
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(timeout=STOP_SECONDS)
