"""Ways to reach a machine: one file each, and the registry by the scheme of the SOURCE."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from p2v.errors import UsageError
from p2v.transports import lean_paramiko as lean_paramiko  # first: it decides what paramiko loads
from p2v.transports.base import (
    Composable,
    Frozen,
    Guard,
    Mount,
    Piece,
    RescueTransport,
    SnapshotKeeper,
    Snapshots,
    SnapshotSize,
    Survey,
    Thawed,
    Took,
    Transport,
    Usage,
    Volumes,
)
from p2v.transports.image import open_image_source
from p2v.transports.ssh import open_ssh
from p2v.transports.ssh_session import HostKeyPolicy, SshOptions, parse_address

__all__ = [
    "TRANSPORTS",
    "Composable",
    "Frozen",
    "Guard",
    "HostKeyPolicy",
    "Mount",
    "Piece",
    "RescueTransport",
    "SnapshotKeeper",
    "SnapshotSize",
    "Snapshots",
    "SshOptions",
    "Survey",
    "Thawed",
    "Transport",
    "Usage",
    "Volumes",
    "open_transport",
]

Opener = Callable[[str, SshOptions, Took | None], AbstractContextManager[Transport]]


def _open_ssh(source: str, options: SshOptions, took: Took | None) -> AbstractContextManager[Transport]:
    return open_ssh(parse_address(source), options, took=took)


def _open_image(source: str, options: SshOptions, took: Took | None) -> AbstractContextManager[Transport]:
    return open_image_source(source)


TRANSPORTS: dict[str, Opener] = {"ssh": _open_ssh, "file": _open_image}


def open_transport(
    source: str, options: SshOptions, *, took: Took | None = None
) -> AbstractContextManager[Transport]:
    """Reach what the user named: `ssh://…`, or a path to an image. Raises UsageError, TransportError.

    `took` is told of what comes over the wire, if there is one.
    """
    scheme, colon, _ = source.partition("://")
    if not colon:
        return _open_image(source, options, took)
    if scheme not in TRANSPORTS:
        raise UsageError(
            f"{scheme}:// is not a way to reach a machine",
            hint="SOURCE is ssh://[user@]host[:port] or a path to a disk image",
        )
    return TRANSPORTS[scheme](source, options, took)
