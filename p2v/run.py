"""The run directory: journal, lock, receipt and log of one conversion. The only mutable state of a run."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from pydantic import JsonValue

from p2v import __version__
from p2v.atomic import LockHeld, locked, sync_directory, write_atomically
from p2v.errors import PlanRefused, TargetError, UsageError
from p2v.journal import (
    FORMAT,
    JOURNAL,
    RECEIPT,
    Journal,
    differences,
    read_journal_text,
    read_receipt_text,
    to_json,
)
from p2v.log import Redactor, open_log, shown
from p2v.model import Plan, Receipt, Step
from p2v.ui import human_size

JOURNAL_NAME = "run.json"
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

SHOWN_DIFFERENCES = 8


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


class Run:
    """A run directory that this process holds. Made by `create_run` and `open_run`, never by hand."""

    def __init__(self, path: Path, journal: Journal, log: logging.Logger) -> None:
        self.path = path
        self.log = log
        self._journal = journal

    @property
    def id(self) -> str:
        """32 hexadecimal digits, made with the run and never changed: the license counts by it."""
        return self._journal.id

    @property
    def name(self) -> str:
        return self._journal.name

    @property
    def plan(self) -> Plan:
        """The plan as the run was made with it."""
        return self._journal.plan

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
    def next_step(self) -> str:
        return self._journal.next_step

    @property
    def state(self) -> RunState:
        return _state(self.path, self._journal)

    @property
    def capture_dir(self) -> Path:
        return self._folder("capture", mode=PRIVATE)

    def vm_dir(self, target: str) -> Path:
        """Where a target's images and configuration go. Raises UsageError for a name that is none."""
        return self._folder("vm", check_name(target, what="target"))

    def proof_dir(self, target: str) -> Path:
        return self._folder("proof", check_name(target, what="target"), mode=PRIVATE)

    def _folder(self, *parts: str, mode: int = PASSABLE) -> Path:
        """A folder of the run, made with its parents; `mode` is for the last of them."""
        folder = self.path.joinpath(*parts)
        with _disk_errors(folder):
            for parent in reversed(folder.relative_to(self.path).parents[:-1]):
                (self.path / parent).mkdir(mode=PASSABLE, exist_ok=True)
            folder.mkdir(mode=mode, exist_ok=True)
        return folder

    def done(self, step: str) -> Step | None:
        """The finished step of that name, or None while it is still to be done."""
        return self._journal.done(step)

    def finish(self, step: str, *, digest: str, seconds: float) -> None:
        """Write down that a step made what `digest` names; on disk when this returns.

        A step that is done again with another result takes the later ones with it: they were made from the
        old one.
        """
        before = self.done(step)
        if before is not None and before.digest != digest:
            self.forget(step)
        done = Step(name=step, digest=digest, seconds=seconds, finished=_now())
        if self.done(step) is None:
            steps = (*self.steps, done)
        else:
            steps = tuple(done if old.name == step else old for old in self.steps)
        self._write(replace(self._journal, steps=steps))
        self.log.info("%s: done in %.1f s, digest %s", step, seconds, digest)

    def forget(self, step: str) -> None:
        """Take a step and all that came after it out of the journal, because what it made is gone or
        wrong.
        """
        names = [old.name for old in self.steps]
        if step in names:
            self._write(replace(self._journal, steps=self.steps[: names.index(step)]))

    def require_plan(self, plan: Plan) -> None:
        """Raise PlanRefused, with the differences by name, unless the run was made for this plan."""
        found = differences(self.plan, plan)
        if not found:
            return
        lines = [f"{item.path}: {shown(item.old)} → {shown(item.new)}" for item in found[:SHOWN_DIFFERENCES]]
        if len(found) > SHOWN_DIFFERENCES:
            lines.append(f"and {len(found) - SHOWN_DIFFERENCES} more")
        kind = "a finished run" if self.state is RunState.FINISHED else "a run"
        raise PlanRefused(
            f"{self.path} holds {kind} of another plan:\n" + "\n".join(f"  {line}" for line in lines),
            hint=f"Try: p2v resume {self.path}, to go on as it was planned, or give another --name",
        )

    def write_receipt(self, receipt: Receipt) -> None:
        """Keep the receipt; from then on the run is finished."""
        with _disk_errors(self.path):
            write_atomically(self.path / RECEIPT_NAME, to_json(RECEIPT, receipt))

    def receipt(self) -> Receipt | None:
        return read_receipt(self.path)

    def quarantine(self, path: Path) -> Path:
        """Move an output that failed its verification out of the way, and return where it is now."""
        aside = next(name for name in _quarantine_names(path) if not os.path.lexists(name))
        with _disk_errors(path):
            path.rename(aside)
            sync_directory(aside.parent)
        self.log.error("%s failed its verification and is now %s", path, aside)
        return aside

    def _write(self, journal: Journal) -> None:
        with _disk_errors(self.path):
            write_atomically(self.path / JOURNAL_NAME, to_json(JOURNAL, journal))
        self._journal = journal


def _quarantine_names(path: Path) -> Iterator[Path]:
    yield path.with_name(f"{path.name}.quarantined")
    for number in range(2, 1000):
        yield path.with_name(f"{path.name}.{number}.quarantined")
    raise TargetError(f"Too many quarantined copies of {path}", hint=f"Try: rm {path}.*quarantined")


@contextlib.contextmanager
def create_run(
    parent: Path,
    name: str,
    plan: Plan,
    *,
    job: Mapping[str, JsonValue],
    order: tuple[str, ...] = (),
    redactor: Redactor | None = None,
) -> Iterator[Run]:
    """Hold `parent/name` as the run of this plan: a new one, or the one that is there already.

    `Run.state` says which: new, unfinished (resume it) or finished (nothing is left to do). `job` is whatever
    a resume needs to know, without secrets; `order` names the steps in the order in which they will be done.
    Raises UsageError where something else has that name, PlanRefused where it is the run of another plan or
    in use, TargetError where the directory cannot be written.
    """
    path = parent / check_name(name, what="run")
    if not os.path.lexists(path):
        journal = Journal(
            FORMAT, uuid.uuid4().hex, name, _now(), __version__, job=dict(job), plan=plan, order=order
        )
        _make_directory(path, journal)
    elif not _is_run(path):
        raise UsageError(
            f"{path} exists and is no p2v run; nothing was overwritten",
            hint="Give another --name or --output",
        )
    with open_run(path, redactor=redactor) as run:
        run.require_plan(plan)
        yield run


@contextlib.contextmanager
def open_run(directory: Path, *, redactor: Redactor | None = None) -> Iterator[Run]:
    """Hold a run directory that exists.

    Raises UsageError where it is none or its journal is damaged, PlanRefused while another process has it.
    """
    _require_run(directory)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_exclusive(directory))
        # Read under the lock, so that it is what the last holder left.
        journal = read_journal(directory)
        with _disk_errors(directory):
            log = stack.enter_context(open_log(directory / LOG_NAME, redactor or Redactor()))
        yield Run(directory, journal, log)


def read_journal(directory: Path) -> Journal:
    """The journal of a run, also of one in use or on a disk that cannot be written. Raises UsageError."""
    path = directory / JOURNAL_NAME
    _require_run(directory)
    return read_journal_text(_read(path), where=str(path))


def read_receipt(directory: Path) -> Receipt | None:
    """The receipt of a finished run, else None. Raises UsageError where it is damaged."""
    path = directory / RECEIPT_NAME
    return read_receipt_text(_read(path), where=str(path)) if path.exists() else None


def list_runs(parent: Path) -> tuple[RunSummary, ...]:
    """The runs under a directory by name, damaged ones too. Raises UsageError where there is none."""
    try:
        folders = sorted(entry for entry in parent.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(
            f"Cannot list runs in {parent}: {error.strerror}", hint="Give --output DIR"
        ) from error
    return tuple(_summary(folder) for folder in folders if _is_run(folder))


def _summary(path: Path) -> RunSummary:
    size = size_on_disk(path)
    try:
        journal = read_journal(path)
    except UsageError as error:
        return RunSummary(path.name, path, RunState.DAMAGED, size=size, problem=error.message)
    return RunSummary(
        name=path.name,
        path=path,
        state=_state(path, journal),
        next_step=journal.next_step,
        hostname=shown(journal.plan.machine.hostname),
        created=journal.created,
        size=size,
    )


def check_name(name: str, *, what: str) -> str:
    """The name itself. Raises UsageError where it could not be the name of one directory on any system."""
    if not NAME.fullmatch(name):
        raise UsageError(
            f"{shown(name)!r} cannot be the name of a {what}: up to 64 letters, digits, dots, dashes and "
            "underscores, with neither dot nor dash in front",
            hint="Give another --name",
        )
    return name


def free_space(path: Path) -> int:
    """Bytes that a user may still write where `path` is or will be. Raises TargetError."""
    existing = next((place for place in (path, *path.absolute().parents) if place.exists()), Path("/"))
    with _disk_errors(path):
        facts = os.statvfs(existing)
    return facts.f_bavail * facts.f_frsize


def require_space(path: Path, size: int) -> None:
    """Raise TargetError unless `size` bytes fit where `path` is or will be."""
    available = free_space(path)
    if available < size:
        raise TargetError(
            f"Not enough disk space at {path}: {human_size(size)} needed, {human_size(available)} available",
            hint="Free some space, or give another --output on a larger disk",
        )


def _make_directory(path: Path, journal: Journal) -> None:
    """Make the run directory whole under another name, so that a crash leaves no half-made run in the way."""
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    content = to_json(JOURNAL, journal)
    with _disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.mkdir(mode=PASSABLE)
        try:
            (unfinished / "capture").mkdir(mode=PRIVATE)
            write_atomically(unfinished / JOURNAL_NAME, content)
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
            with _disk_errors(directory):
                stack.enter_context(locked(directory / LOCK_NAME))
        except LockHeld as error:
            who = "another process" if error.pid is None else f"process {error.pid}"
            raise PlanRefused(
                f"{directory} is in use by {who}", hint="Wait until it is done, or give another --name"
            ) from error
        yield


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses is the target side's to mend, not a bug."""
    try:
        yield
    except OSError as error:
        raise TargetError(
            f"Cannot write {path}: {error.strerror or error}",
            hint=f"Try: df -h {path.parent}; ls -ld {path.parent}",
        ) from error


def _is_run(path: Path) -> bool:
    return os.path.lexists(path / JOURNAL_NAME)


def _require_run(directory: Path) -> None:
    if not _is_run(directory):
        raise UsageError(f"{directory} is no p2v run", hint="Try: p2v runs")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}", hint=f"Try: ls -l {path}") from error
    if len(content) > FILE_LIMIT:
        raise UsageError(f"{path} is larger than {human_size(FILE_LIMIT)}, and not a file of p2v")
    return content


def _state(path: Path, journal: Journal) -> RunState:
    if (path / RECEIPT_NAME).exists():
        return RunState.FINISHED
    return RunState.UNFINISHED if journal.steps else RunState.NEW


def size_on_disk(path: Path) -> int:
    """Bytes taken on the disk: images are sparse, so that their length says little."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(folder) / name).st_blocks * 512
    return total


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
