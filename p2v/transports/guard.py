"""The local end of the guard on the source: who uses the disks, and a window in which nothing is written.

The other end thaws by itself when the line ends or the time is up, whatever happens here.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2v.errors import TransportError
from p2v.model import MiB, MountedFilesystem
from p2v.transports.base import DiskUse, Frozen, Thawed, Usage
from p2v.transports.reader_client import Line

MAX_ANSWER = 4 * MiB
MANY = 4096


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, str_max_length=4096)


class _Mounted(Strict):
    place: str
    kind: str
    disks: list[str] = Field(max_length=MANY)
    start: int = Field(ge=0, lt=2**63)
    length: int = Field(ge=0, lt=2**63)
    volume: str

    def value(self) -> MountedFilesystem:
        return MountedFilesystem(
            self.place, self.kind, tuple(self.disks), self.start, self.length, self.volume
        )


class _Failed(_Mounted):
    reason: str


class _Disk(Strict):
    path: str
    used: bool
    unknown: list[str] = Field(max_length=MANY)


class _Usage(Strict):
    disks: list[_Disk] = Field(max_length=MANY)
    mounted: list[_Mounted] = Field(max_length=MANY)


class _Frozen(Strict):
    frozen: list[_Mounted] = Field(max_length=MANY)
    failed: list[_Failed] = Field(max_length=MANY)
    fired: bool


class _Thawed(Strict):
    seconds: float = Field(ge=0, le=1e6)
    lost: list[str] = Field(max_length=MANY)
    fired: bool


Answer = TypeVar("Answer", bound=Strict)


class ScriptClient:
    """Asks a script on the source, which has said its first words: a line of JSON each way.

    Errors are TransportError; `name` is what they call it.
    """

    name = "script"

    def __init__(self, line: Line) -> None:
        self._line = line

    def ask(self, kind: type[Answer], what: str, **details: object) -> Answer:
        self._line.write(json.dumps({"do": what, **details}).encode() + b"\n")
        answer = self._answer()
        if "error" in answer:
            raise TransportError(f"The {self.name} on the source said: {str(answer['error'])[:500]}")
        try:
            return kind.model_validate(answer)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise TransportError(
                f"The {self.name} on the source answered nonsense: {where}: {first['msg']}"
            ) from error

    def _answer(self) -> dict[str, object]:
        size = struct.unpack("!I", self._exactly(4))[0]
        if size > MAX_ANSWER:
            raise TransportError(f"The {self.name} on the source announced an answer of {size} bytes")
        try:
            answer = json.loads(self._exactly(size))
        except (ValueError, RecursionError) as error:
            raise TransportError(
                f"The {self.name} on the source answered something that is not JSON"
            ) from error
        if not isinstance(answer, dict):
            raise TransportError(f"The {self.name} on the source answered something else than asked")
        return answer

    def _exactly(self, size: int) -> bytes:
        view = memoryview(bytearray(size))
        self._line.readinto(view)
        return bytes(view)


class GuardClient(ScriptClient):
    """Talks to one guard."""

    name = "guard"

    def usage(self, disks: Sequence[str]) -> Usage:
        """Who uses the disks with these paths."""
        found = self.ask(_Usage, "usage", disks=list(disks))
        if [disk.path for disk in found.disks] != list(disks):
            raise TransportError("The guard on the source answered for other disks than asked")
        return Usage(
            tuple(DiskUse(disk.path, disk.used, tuple(disk.unknown)) for disk in found.disks),
            tuple(one.value() for one in found.mounted),
        )

    def freeze(self, disks: Sequence[str], seconds: float, *, only: Sequence[str] | None = None) -> Frozen:
        """Hold everything still that is mounted for writing on these disks, so many seconds at the most.

        With `only`, what is mounted at these places, and nothing else.
        """
        places = None if only is None else list(only)
        found = self.ask(_Frozen, "freeze", disks=list(disks), seconds=seconds, only=places)
        return Frozen(
            tuple(one.value() for one in found.frozen),
            tuple((one.value(), one.reason) for one in found.failed),
            found.fired,
        )

    def flush(self) -> None:
        """Have the filesystems that could not be frozen write out what they hold in memory."""
        self.ask(Strict, "flush")

    def thaw(self) -> Thawed:
        found = self.ask(_Thawed, "thaw")
        return Thawed(found.seconds, tuple(found.lost), found.fired)
