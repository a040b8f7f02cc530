"""What the user asked for, frozen, and its form in restore.json. No secret is ever part of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from pydantic import JsonValue, TypeAdapter, ValidationError

from p2v.errors import UsageError
from p2v.job import Job
from p2v.restore.model import NicMove

NAME = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")
MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Kind(StrEnum):
    """Onto any machine, or back onto the one that a run was captured from."""

    RESTORE = "restore"
    ROLLBACK = "rollback"


@dataclass(frozen=True, slots=True)
class RestoreJob:
    """One restore. `source` is an image, several (`sda=A,sdb=B`), or a run; `to` the address of a rescue
    system. For a rollback `source` is the run, and `content` the disks of its virtual machine, if any.

    `disks` are `0=SERIAL`, `nics` `OLD=NEW`, `grow` `[N=]PARTITION`, `erase` serials or WWNs, all as typed.
    Without `convert` nothing in the disks is changed. `drivers` are those that were brought for a Windows.
    """

    kind: Kind
    source: str
    to: str
    output: Path
    name: str = ""
    content: str = ""
    disks: tuple[str, ...] = ()
    erase: tuple[str, ...] = ()
    nics: tuple[str, ...] = ()
    grow: tuple[str, ...] = ()
    shrink: bool = False
    convert: bool = True
    identity: Path | None = None
    known_hosts: Path | None = None
    accept_new_host_key: bool = False
    retry_for: str = ""
    luks_key_files: tuple[Path, ...] = ()
    drivers: Path | None = None

    def to_json(self) -> Mapping[str, JsonValue]:
        return cast("Mapping[str, JsonValue]", _JOB.dump_python(self, mode="json"))

    @property
    def login(self) -> Job:
        """How the machine is reached."""
        return Job(
            source=self.to,
            targets=(),
            output=self.output,
            identity=self.identity,
            known_hosts=self.known_hosts,
            accept_new_host_key=self.accept_new_host_key,
            retry_for=self.retry_for,
            luks_key_files=self.luks_key_files,
            drivers=self.drivers,
        )


_JOB = TypeAdapter(RestoreJob)


def restore_job_from_json(value: Mapping[str, JsonValue], *, where: Path) -> RestoreJob:
    """The job that a restore was made for. Raises UsageError where the journal holds none."""
    try:
        return _JOB.validate_python(value)
    except ValidationError as error:
        raise UsageError(f"The journal in {where} holds no restore that p2v knows") from error


@dataclass(frozen=True, slots=True)
class DiskChoice:
    """Image `index` goes onto the disk of this serial or WWN."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class GrowChoice:
    """Partition `partition` of image `index` takes what a larger disk has more."""

    index: int
    partition: int


def parse_disks(words: Iterable[str]) -> tuple[DiskChoice, ...]:
    """`0=SERIAL`. Raises UsageError, also where an image stands twice."""
    choices = []
    for word in words:
        number, equals, name = word.partition("=")
        if not number.isdecimal() or len(number) > 3 or not equals or not name.strip():
            raise UsageError(
                f"--disk {word}: is no NUMBER=SERIAL", hint="Try: --disk 0=SERIAL; see: p2v scan ssh://RESCUE"
            )
        choices.append(DiskChoice(int(number), name.strip()))
    indexes = [choice.index for choice in choices]
    twice = next((index for index in indexes if indexes.count(index) > 1), None)
    if twice is not None:
        raise UsageError(f"--disk {twice}=… stands twice: an image goes onto one disk")
    return tuple(choices)


def parse_grow(words: Iterable[str]) -> tuple[GrowChoice, ...]:
    """`2`, or `1=2` for partition 2 of the second image. Raises UsageError."""
    choices = []
    for word in words:
        index, equals, partition = word.rpartition("=")
        if not partition.isdecimal() or len(word) > 8 or (equals and not index.isdecimal()):
            raise UsageError(f"--grow {word}: is no partition", hint="Try: --grow 2, or --grow 1=2")
        choices.append(GrowChoice(int(index or 0), int(partition)))
    return tuple(choices)


def parse_nics(words: Iterable[str]) -> tuple[NicMove, ...]:
    """`OLD=NEW`: the MAC address or the name of a card of the image, the MAC of a card. Raises UsageError."""
    moves = []
    for word in words:
        old, _, new = word.partition("=")
        old, new = _plain_mac(old), _plain_mac(new)
        if not NAME.fullmatch(old) or not MAC.fullmatch(new):
            raise UsageError(
                f"--nic {word}: is not OLD=NEW", hint="Try: --nic 52:54:00:11:22:33=aa:bb:cc:dd:ee:ff"
            )
        moves.append(NicMove(old, new))
    return tuple(moves)


def _plain_mac(word: str) -> str:
    plain = word.lower().replace("-", ":")
    return plain if MAC.fullmatch(plain) else word
