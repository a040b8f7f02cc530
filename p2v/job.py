"""A job: what the user typed, frozen, and its form in run.json. No secret is ever part of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from p2v import guest_wishes
from p2v.errors import UsageError
from p2v.model import (
    FREEZE_SECONDS,
    Choice,
    CleanUp,
    ConsistencyWish,
    GiB,
    Goal,
    KiB,
    MiB,
    Removal,
)
from p2v.vsphere.settings import Destination

SIZES = {"": MiB, "K": KiB, "M": MiB, "G": GiB}


@dataclass(frozen=True, slots=True)
class Job:
    """One conversion. `memory` is bytes; empty and None mean: as the source is.

    `limit` and `limit_windows` are as typed: `20M` bytes a second, and when another rate holds.
    `retry_for` is how long to try a lost connection again, as typed: `10m`, empty for the usual.
    `freeze_limit` is in seconds.
    `mac`, `remove` and what follows is what the user chose to change in the guest; `first_boot` is a script.
    `identity`, `known_hosts` and `luks_key_files` are paths of files that the user named; what is in them is
    read when it is used. So are `password` (of the login) and `passphrase` (of the key): references,
    `env:NAME`, `file:PATH` or `prompt`; empty means that whoever can be asked is. `vsphere` is where a live
    import goes, `drivers` a folder or an ISO image with drivers for a Windows.
    """

    source: str
    targets: tuple[str, ...]
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
    allow_bad_sectors: bool = False
    retry_for: str = ""
    mac: Choice = Choice.KEEP
    remove: tuple[Removal, ...] = ()
    guest_identity: Choice = Choice.KEEP
    hostname: str = ""
    first_boot: Path | None = None
    disable_services: tuple[str, ...] = ()
    luks_key_files: tuple[Path, ...] = ()
    consistency: ConsistencyWish = ConsistencyWish.AUTO
    freeze_limit: float = FREEZE_SECONDS
    goal: Goal = Goal.CONVERT
    password: str = ""
    passphrase: str = ""
    vsphere: Destination | None = None
    drivers: Path | None = None

    def to_json(self) -> Mapping[str, JsonValue]:
        return cast("Mapping[str, JsonValue]", _JOB.dump_python(self, mode="json"))


_JOB = TypeAdapter(Job)


def chosen_clean_up(job: Job) -> CleanUp:
    """The choices for the guest as a plan holds them. Raises UsageError where the script cannot be read."""
    return guest_wishes.clean_up(
        remove=job.remove,
        identity=job.guest_identity,
        hostname=job.hostname,
        first_boot=job.first_boot,
        disable=job.disable_services,
    )


def job_from_json(value: Mapping[str, JsonValue], *, where: Path) -> Job:
    """The job that a run was made for. Raises UsageError where the journal holds none."""
    try:
        return _JOB.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"The journal in {where} holds no job that p2v knows") from error


def parse_size(value: str | None) -> int | None:
    """`4G`, `512M`, or a plain number of MiB, as bytes. Raises UsageError."""
    if value is None:
        return None
    number, unit = (value, "") if value[-1:].isdigit() else (value[:-1], value[-1:].upper())
    if not number.isdigit() or unit not in SIZES or not int(number):
        raise UsageError(f"{value!r} is not a size", hint="For example 512M or 4G")
    return int(number) * SIZES[unit]


def parse_removals(value: str) -> tuple[Removal, ...]:
    """`hw-agents,guest-tools`. Raises UsageError."""
    try:
        return tuple(Removal(word.strip()) for word in value.split(",") if word.strip())
    except ValueError as error:
        known = ", ".join(Removal)
        raise UsageError(f"{value!r} is nothing that can be removed", hint=f"Known: {known}") from error
