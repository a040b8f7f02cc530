"""A job: what the user typed, frozen, and its form in run.json. No secret is ever part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from p2v.errors import UsageError


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion. `memory` is bytes; empty and None mean: as the source is.

    `limit` and `limit_windows` are as typed: `20M` bytes a second, and when another rate holds.
    `identity` and `known_hosts` are paths of files that the user named; what is in them is read when it is
    used.
    """

    source: str
    target: str
    output: Path
    name: str = ""
    disks: tuple[str, ...] = ()
    cpus: int | None = None
    memory: int | None = None
    prove: bool = False
    limit: str = ""
    limit_windows: tuple[str, ...] = ()
    identity: Path | None = None
    known_hosts: Path | None = None
    accept_new_host_key: bool = False

    def to_json(self) -> Mapping[str, JsonValue]:
        return cast("Mapping[str, JsonValue]", _JOB.dump_python(self, mode="json"))


_JOB = TypeAdapter(Job)


def job_from_json(value: Mapping[str, JsonValue], *, where: Path) -> Job:
    """The job that a run was made for. Raises UsageError where the journal holds none."""
    try:
        return _JOB.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"The journal in {where} holds no job that p2v knows") from error
