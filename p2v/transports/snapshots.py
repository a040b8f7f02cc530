"""The local end of the keeper of snapshots: facts of LVM, snapshots, and their removal.

The other end removes what it made when the line ends, whatever happens here.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from p2v.errors import TransportError
from p2v.model import LogicalVolume, VolumeGroup
from p2v.transports.base import Removed, Snapshots, SnapshotSize, Volumes
from p2v.transports.guard import MANY, ScriptClient, Strict


class _Group(Strict):
    name: str
    uuid: str
    free: int = Field(ge=0)
    extent_size: int = Field(gt=0)
    revision: int = Field(ge=0)
    usable: bool


class _Volume(Strict):
    group: str
    name: str
    size: int = Field(ge=0)
    plain: bool
    mapped: str


class _Facts(Strict):
    groups: list[_Group] = Field(max_length=MANY)
    volumes: list[_Volume] = Field(max_length=MANY)


class _Cleaned(Strict):
    removed: list[str] = Field(max_length=MANY)


class _Made(Strict):
    devices: list[str] = Field(max_length=MANY)
    revisions: dict[str, int] = Field(max_length=MANY)
    span: float = Field(ge=0, le=1e6)


class _Removed(Strict):
    overflown: list[str] = Field(max_length=MANY)
    left: list[str] = Field(max_length=MANY)
    fill: list[str] = Field(max_length=MANY)


class SnapshotClient(ScriptClient):
    """Talks to one keeper of snapshots."""

    name = "keeper of snapshots"

    def facts(self) -> Volumes:
        """Groups and volumes of the source. Raises TransportError where it has no LVM."""
        found = self.ask(_Facts, "facts")
        return Volumes(
            tuple(VolumeGroup(**group.model_dump()) for group in found.groups),
            tuple(LogicalVolume(**volume.model_dump()) for volume in found.volumes),
        )

    def clean(self) -> tuple[str, ...]:
        return tuple(self.ask(_Cleaned, "clean").removed)

    def create(self, sizes: Sequence[SnapshotSize]) -> Snapshots:
        volumes = [(one.group, one.volume, one.size) for one in sizes]
        made = self.ask(_Made, "create", volumes=volumes)
        if len(made.devices) != len(volumes):
            raise TransportError("The source made other snapshots than asked")
        return Snapshots(tuple(made.devices), made.revisions, made.span)

    def remove(self) -> Removed:
        found = self.ask(_Removed, "remove")
        return Removed(tuple(found.overflown), tuple(found.left), tuple(found.fill))
