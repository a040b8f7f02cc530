"""What the directory of any run has, whatever the run does: one holder, a journal, a log, in the end a
receipt.

DIR/NAME/
  *.json           the journal: steps done, each with the digest of what it made; replaced atomically, fsynced
  receipt.json     what was done; where it is, the run is finished
  log.jsonl        everything else, secrets removed
  .lock            held by the process that works on the run
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import Field, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from pydantic import JsonValue, TypeAdapter

from p2v.atomic import LockHeld, locked, sync_directory, write_atomically
from p2v.errors import PlanRefused, TargetError, UsageError
from p2v.journal import read_kept, read_versioned, to_json
from p2v.log import Redactor, open_log, shown
from p2v.model import Step
from p2v.ui import human_size

RECEIPT_NAME = "receipt.json"
LOG_NAME = "log.jsonl"
LOCK_NAME = ".lock"

FILE_LIMIT = 64 * 1024 * 1024
"""Bytes of a journal or receipt; a larger file is not ours."""

PASSABLE = 0o711
"""Mode of a run directory: a hypervisor's own user must come through to an image that it is given."""

PRIVATE = 0o700
"""Mode of what only its owner needs: captures hold whole disks, password files included."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class RunState(StrEnum):
    NEW = "new"
    UNFINISHED = "unfinished"
    FINISHED = "finished"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class RunSummary:
    """One line of `p2v runs`. `size` is bytes taken on the disk; `problem` is what a damaged run has."""

    name: str
    path: Path
    state: RunState
    next_step: str = ""
    hostname: str = ""
    created: str = ""
    size: int = 0
    problem: str = ""


class AnyJournal(Protocol):
    """What the journals of all kinds of runs hold; they are frozen dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def id(self) -> str: ...
    @property
    def format(self) -> int: ...
    @property
    def created(self) -> str: ...
    @property
    def job(self) -> Mapping[str, JsonValue]: ...
    @property
    def steps(self) -> tuple[Step, ...]: ...


J = TypeVar("J", bound=AnyJournal)
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Layout(Generic[J, R]):
    """The directory of one kind of runs, which a person calls `title`.

    `mode` is that of the directory; the `folders` are made with it, for its owner alone.
    """

    title: str
    journal_name: str
    format: int
    journal: TypeAdapter[J]
    receipt: TypeAdapter[R]
    mode: int = PRIVATE
    folders: tuple[str, ...] = ()


class HeldRun(Generic[J, R]):
    """A run directory that this process holds."""

    def __init__(self, path: Path, layout: Layout[J, R], journal: J, log: logging.Logger) -> None:
        self.path = path
        self.log = log
        self._layout = layout
        self._journal = journal

    @property
    def id(self) -> str:
        """32 hexadecimal digits, made with the run and never changed: the license counts by it."""
        return self._journal.id

    @property
    def job(self) -> Mapping[str, JsonValue]:
        return self._journal.job

    @property
    def created(self) -> str:
        return self._journal.created

    @property
    def steps(self) -> tuple[Step, ...]:
        return self._journal.steps

    @property
    def state(self) -> RunState:
        return state_of(self.path, self._journal)

    def folder(self, *parts: str, mode: int = PRIVATE) -> Path:
        """A folder of the run, made with its parents; `mode` is for the last of them."""
        folder = self.path.joinpath(*parts)
        with disk_errors(folder):
            for parent in reversed(folder.relative_to(self.path).parents[:-1]):
                (self.path / parent).mkdir(mode=PASSABLE, exist_ok=True)
            folder.mkdir(mode=mode, exist_ok=True)
        return folder

    def done(self, step: str) -> Step | None:
        """The finished step of that name, or None while it is still to be done."""
        return next((one for one in self.steps if one.name == step), None)

    def finish(self, step: str, *, digest: str, seconds: float) -> None:
        """Write down that a step made what `digest` names; on disk when this returns.

        A step that is done again with another result takes the later ones with it: they were made from the
        old one.
        """
        before = self.done(step)
        if before is not None and before.digest != digest:
            self.forget(step)
        done = Step(name=step, digest=digest, seconds=seconds, finished=now())
        if self.done(step) is None:
            steps = (*self.steps, done)
        else:
            steps = tuple(done if old.name == step else old for old in self.steps)
        self._keep(steps)
        self.log.info("%s: done in %.1f s, digest %s", step, seconds, digest)

    def forget(self, step: str) -> None:
        """Take a step and all that came after it out of the journal, because what it made is gone or
        wrong.
        """
        names = [old.name for old in self.steps]
        if step in names:
            self._keep(self.steps[: names.index(step)])

    def _keep(self, steps: tuple[Step, ...]) -> None:
        journal = replace(self._journal, steps=steps)
        with disk_errors(self.path):
            write_atomically(self.path / self._layout.journal_name, to_json(self._layout.journal, journal))
        self._journal = journal

    def write_receipt(self, receipt: R) -> None:
        """Keep the receipt; from then on the run is finished."""
        with disk_errors(self.path):
            write_atomically(self.path / RECEIPT_NAME, to_json(self._layout.receipt, receipt))

    def receipt(self) -> R | None:
        return receipt_in(self.path, self._layout)


def make_run(parent: Path, name: str, layout: Layout[J, R], journal: Callable[[], J]) -> Path:
    """`parent/name` as the directory of a run: that which is there already, or one with this journal.

    Raises UsageError where something else has that name, TargetError where it cannot be written.
    """
    path = parent / check_name(name, what="run")
    if not os.path.lexists(path):
        _make_directory(path, layout, journal())
    elif not is_run(path, layout):
        raise UsageError(
            f"{path} exists and is no {layout.title}; nothing was overwritten",
            hint="Give another --name or --output",
        )
    return path


@contextlib.contextmanager
def hold(
    directory: Path, layout: Layout[J, R], redactor: Redactor | None
) -> Iterator[tuple[J, logging.Logger]]:
    """Hold a run directory that exists: its journal and its log.

    Raises UsageError where it is none or its journal is damaged, PlanRefused while another process has it.
    """
    _require(directory, layout)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_exclusive(directory))
        # Read under the lock, so that it is what the last holder left.
        journal = journal_in(directory, layout)
        with disk_errors(directory):
            log = stack.enter_context(open_log(directory / LOG_NAME, redactor or Redactor()))
        yield journal, log


def is_run(path: Path, layout: Layout[J, R]) -> bool:
    return os.path.lexists(path / layout.journal_name)


def _require(directory: Path, layout: Layout[J, R]) -> None:
    if not is_run(directory, layout):
        raise UsageError(f"{directory} is no {layout.title}", hint="Try: p2v runs")


def journal_in(directory: Path, layout: Layout[J, R]) -> J:
    """The journal of a run, also of one in use or on a disk that cannot be written. Raises UsageError."""
    path = directory / layout.journal_name
    _require(directory, layout)
    return read_versioned(layout.journal, layout.format, _read(path), where=str(path))


def receipt_in(directory: Path, layout: Layout[J, R]) -> R | None:
    """The receipt of a finished run, else None. Raises UsageError where it is damaged."""
    path = directory / RECEIPT_NAME
    return read_kept(layout.receipt, _read(path), where=str(path)) if path.exists() else None


def runs_in(
    parent: Path, layout: Layout[J, R], words: Callable[[J], tuple[str, str]]
) -> tuple[RunSummary, ...]:
    """The runs under a directory by name, damaged ones too. Raises UsageError where there is none.

    `words` are the next step and the host name in a journal.
    """
    try:
        folders = sorted(entry for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"Cannot list runs in {parent}: {error.strerror}", hint="Give --output DIR"
        ) from error
    return tuple(_summary(folder, layout, words) for folder in folders if is_run(folder, layout))


def _summary(path: Path, layout: Layout[J, R], words: Callable[[J], tuple[str, str]]) -> RunSummary:
    size = size_on_disk(path)
    try:
        journal = journal_in(path, layout)
    except UsageError as error:
        return RunSummary(path.name, path, RunState.DAMAGED, size=size, problem=error.message)
    next_step, hostname = words(journal)
    return RunSummary(
        name=path.name,
        path=path,
        state=state_of(path, journal),
        next_step=next_step,
        hostname=shown(hostname),
        created=journal.created,
        size=size,
    )


def state_of(path: Path, journal: AnyJournal) -> RunState:
    if (path / RECEIPT_NAME).exists():
        return RunState.FINISHED
    return RunState.UNFINISHED if journal.steps else RunState.NEW


def check_name(name: str, *, what: str) -> str:
    """The name itself. Raises UsageError where it could not be the name of one directory on any system."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)!r} cannot be the name of a {what}: up to 64 letters, digits, dots, dashes and "
            "underscores, with neither dot nor dash in front",
            hint="Give another --name",
        )
    return name


def _make_directory(path: Path, layout: Layout[J, R], journal: J) -> None:
    """Make the run directory whole under another name, so that a crash leaves no half-made run in the way."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    content = to_json(layout.journal, journal)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=layout.mode)
        try:
            for folder in layout.folders:
                (unfinished / folder).mkdir(mode=PRIVATE)
            write_atomically(unfinished / layout.journal_name, content)
            # Where somebody else was faster, their directory is not empty, and the rename fails.
            with contextlib.suppress(FileExistsError):
                _rename_to_free_name(unfinished, path)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        sync_directory(path.parent)


def _rename_to_free_name(old: Path, new: Path) -> None:
    try:
        old.rename(new)
    except OSError as error:
        if os.path.lexists(new):
            raise FileExistsError(error.errno, error.strerror) from error
        raise


@contextlib.contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            with disk_errors(directory):
                stack.enter_context(locked(directory / LOCK_NAME))
        except LockHeld as error:
            who = "another process" if error.pid is None else f"process {error.pid}"
            raise PlanRefused(
                f"{directory} is in use by {who}", hint="Wait until it is done, or give another --name"
            ) from error
        yield


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses is the target side's to mend, not a bug."""
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"Cannot write {path}: {error.strerror or error}",
            hint=f"Try: df -h {path.parent}; ls -ld {path.parent}",
        ) from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}", hint=f"Try: ls -l {path}") from error
    if len(content) > FILE_LIMIT:
        raise UsageError(f"{path} is larger than {human_size(FILE_LIMIT)}, and not a file of p2v")
    return content


def size_on_disk(path: Path) -> int:
    """Bytes taken on the disk: images are sparse, so that their length says little."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder) / name).st_blocks * 512
    return total


def now() -> str:
    """UTC in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")
