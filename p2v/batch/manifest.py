"""A manifest as the rest works with it: frozen values, everything filled in and checked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from p2v.job import Job
from p2v.transports.rate import Window


@dataclass(frozen=True, slots=True)
class Hook:
    """A program that is run without a shell; `timeout` in seconds."""

    argv: tuple[str, ...]
    timeout: float


@dataclass(frozen=True, slots=True)
class Hooks:
    before: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()


class Answer(StrEnum):
    """What becomes of the others when a job fails."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True, slots=True)
class OnFailure:
    """`tries` is how often more the job itself is tried before it counts as failed."""

    answer: Answer = Answer.CONTINUE
    tries: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One machine of a manifest, in line `line`.

    The prompts are the questions that its references `prompt` stand for: asked once, before anything starts,
    for all machines that have the same.

    `after` must have ended, `needs` ended well, before it starts: names of machines and groups. It starts in
    one of `windows`, where there are any. `host` is what the limits of hosts count by, empty for none.
    """

    name: str
    job: Job
    line: int
    groups: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    windows: tuple[Window, ...] = ()
    host: str = ""
    hooks: Hooks = Hooks()
    on_failure: OnFailure = OnFailure()
    password_prompt: str = ""
    passphrase_prompt: str = ""

    @property
    def directory(self) -> Path:
        """Where its run is."""
        return self.job.output / self.name


@dataclass(frozen=True, slots=True)
class HostLimits:
    """Of the host `name`: `parallel` jobs at a time from one host; `limit` as typed, empty for none."""

    name: str
    parallel: int | None = None
    limit: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """All of it, in the order of the file. `limit` is shared by all jobs, `per_host` holds for every host."""

    path: Path
    output: Path
    entries: tuple[Entry, ...]
    parallel: int | None = None
    limit: str = ""
    limit_windows: tuple[str, ...] = ()
    per_host: int | None = None
    hosts: tuple[HostLimits, ...] = ()

    def groups(self) -> tuple[Group, ...]:
        found: dict[str, list[str]] = {}
        for entry in self.entries:
            for group in entry.groups:
                found.setdefault(group, []).append(entry.name)
        return tuple(Group(name, tuple(members)) for name, members in found.items())

    def host_limits(self, host: str) -> HostLimits:
        own = next((one for one in self.hosts if one.name == host), HostLimits(host))
        return HostLimits(host, own.parallel or self.per_host, own.limit)
