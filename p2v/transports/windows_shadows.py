"""The local end of the snapshots that Windows makes of its volumes, and of who uses which disk there.

The other end removes what it made when the line ends, whatever happens here.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from p2v.errors import TransportError
from p2v.transports.base import DiskUse, Frozen, Removed, Snapshots, SnapshotSize, Thawed, Usage, Volumes
from p2v.transports.guard import MANY, ScriptClient, Strict
from p2v.transports.reader_client import Line
from p2v.transports.windows_inventory import Volumes as VolumesFacts


@dataclass(frozen=True, slots=True)
class Reason:
    """Why Windows makes no snapshot, and what to type."""

    text: str
    hint: str


REASONS = {
    1: Reason("access is denied", "Log in as an administrator: ssh://Administrator@HOST"),
    2: Reason("it calls an argument invalid", "On the source: vssadmin list volumes"),
    3: Reason("it does not find the volume", "On the source: vssadmin list volumes"),
    4: Reason("it has no snapshots of such a volume", "On the source: vssadmin list volumes"),
    5: Reason("it does not know this kind of snapshot", "On the source: vssadmin list providers"),
    6: Reason(
        "there is too little room for a snapshot",
        "On the source: vssadmin resize shadowstorage /for=C: /on=C: /maxsize=10%",
    ),
    7: Reason("the volume is in use", "On the source: vssadmin list shadows"),
    8: Reason(
        "there are as many snapshots as there may be",
        "On the source: vssadmin delete shadows /for=C: /oldest",
    ),
    9: Reason("another snapshot is being made", "When the backup that makes it has ended: p2v resume RUN"),
    10: Reason("a program refuses", "On the source: vssadmin list writers"),
    11: Reason("its provider is not registered", "On the source: vssadmin list providers"),
    12: Reason("its provider failed", "On the source: vssadmin list providers"),
    13: Reason("it does not say why", "On the source: vssadmin list writers"),
}
"""ReturnValue of Win32_ShadowCopy.Create (learn.microsoft.com, VSS WMI)."""


class _Usage(Strict):
    volumes: VolumesFacts


class _Made(Strict):
    device: str
    code: int


class _Removed(Strict):
    gone: list[str] = Field(max_length=MANY)
    left: list[str] = Field(max_length=MANY)


class ShadowClient(ScriptClient):
    """Talks to what makes snapshots on a Windows. It is asked for volumes by their names for good."""

    name = "keeper of snapshots"

    def facts(self) -> Volumes:
        """A Windows has no LVM."""
        return Volumes((), ())

    def clean(self) -> tuple[str, ...]:
        """Nothing: what removes snapshots is not of the session, and goes on where that is killed."""
        return ()

    def create(self, sizes: Sequence[SnapshotSize]) -> Snapshots:
        """All of them, one after the other, or an error: each may take a while. Raises TransportError."""
        made = [(self._create(one.volume), time.monotonic()) for one in sizes]
        devices = tuple(device for device, _ in made)
        if len(set(devices)) != len(devices):
            raise TransportError("The source made other snapshots than asked")
        return Snapshots(devices, {}, made[-1][1] - made[0][1] if made else 0.0)

    def _create(self, volume: str) -> str:
        made = self.ask(_Made, "create", volume=volume)
        if made.code or not made.device:
            unknown = Reason(f"it answers {made.code}", "On the source: vssadmin list writers")
            reason = REASONS.get(made.code, unknown)
            raise TransportError(f"Windows makes no snapshot of {volume}: {reason.text}", hint=reason.hint)
        return made.device

    def remove(self) -> Removed:
        found = self.ask(_Removed, "remove")
        return Removed(tuple(found.gone), tuple(found.left), ())


class WindowsGuard(ScriptClient):
    """Who uses the disks. Windows can hold no filesystem still, and says so of each."""

    name = "guard"

    def __init__(self, line: Line) -> None:
        super().__init__(line)
        self._disks: tuple[str, ...] = ()

    def usage(self, disks: Sequence[str]) -> Usage:
        volumes = self.ask(_Usage, "usage").volumes
        mounted = tuple(one.mounted() for one in volumes if one.kind and one.extents)
        used = {path for one in mounted for path in one.disks}
        return Usage(tuple(DiskUse(path, path in used) for path in disks), mounted)

    def freeze(self, disks: Sequence[str], seconds: float, *, only: Sequence[str] | None = None) -> Frozen:
        mounted = [one for one in self.usage(disks).mounted if set(one.disks) & set(disks)]
        chosen = [one for one in mounted if only is None or one.place in only]
        return Frozen((), tuple((one, "Windows can hold no filesystem still") for one in chosen), fired=False)

    def flush(self) -> None:
        """Have the filesystems write out what they hold in memory."""
        self.ask(Strict, "flush")

    def thaw(self) -> Thawed:
        return Thawed(0.0, (), fired=False)
