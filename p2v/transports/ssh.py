"""A machine over SSH: small scripts, sent over the channel, run from memory as root.

What reads the answers of the smaller scripts is imported where it is needed: pydantic and the families of
guests take 0.1 s to load, which a capture that only opens disks would spend for nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from p2v.disk.device import BlockDevice
from p2v.errors import ConnectionLost, TransportError
from p2v.model import Disk
from p2v.transports.base import Guard, SnapshotKeeper, Survey, Took, Transport, Usage
from p2v.transports.reader_client import ReaderClient, RemoteDisk
from p2v.transports.ssh_scripts import Scripts, find_python
from p2v.transports.ssh_session import CommandResult, SshAddress, SshOptions, SshSession, open_session
from p2v.transports.windows import WindowsTransport, is_windows

if TYPE_CHECKING:
    from p2v.transports.writer_client import WriterClient

WRITE_SECONDS = 300.0
"""How long a disk may take to write out what it holds in its own memory, or to forget a quarter of a GiB."""

GUARD_SECONDS = 300.0
"""How long a freeze may take to answer: the source writes out all that it holds in memory first."""


class SshTransport:
    """One SSH session; each disk gets a channel and a reader of its own."""

    def __init__(self, session: SshSession, took: Took | None, scripts: Scripts) -> None:
        self._session = session
        self._took = took
        self._scripts = scripts
        self._boot_id = ""

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def survey(self) -> Survey:
        from p2v.transports.inventory import parse_inventory

        with self._scripts.run("remote_inventory.py") as line:
            survey = parse_inventory(_as_root(ReaderClient(line, took=self._took).hello()))
        self._boot_id = survey.boot_id
        with self.open_guard() as guard:
            survey = _with_usage(survey, guard.usage([disk.path for disk in survey.machine.disks]))
        return self._with_volumes(survey) if any(one.volume for one in survey.machine.mounted) else survey

    def _with_volumes(self, survey: Survey) -> Survey:
        """What LVM of the source says; nothing where its tools are not there."""
        try:
            with self.open_snapshots() as keeper:
                found = keeper.facts()
        except ConnectionLost:
            raise
        except TransportError:
            return survey
        return replace(survey, machine=replace(survey.machine, groups=found.groups, volumes=found.volumes))

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        with self.open_disks([disk]) as (device,):
            yield device

    @contextmanager
    def open_disks(self, disks: Sequence[Disk]) -> Iterator[tuple[BlockDevice, ...]]:
        with self._reader() as reader:
            # Direct reads do not see what the filesystems have not written yet.
            reader.sync()
            yield tuple(
                RemoteDisk(reader, disk.path, sector_size=disk.sector_size, live=not disk.idle)
                for disk in disks
            )

    @contextmanager
    def open_guard(self) -> Iterator[Guard]:
        from p2v.transports.guard import GuardClient

        with self._scripts.run("remote_guard.py", stall_timeout=GUARD_SECONDS) as line:
            _as_root(ReaderClient(line).hello())
            yield GuardClient(line)

    @contextmanager
    def open_snapshots(self) -> Iterator[SnapshotKeeper]:
        from p2v.transports.snapshots import SnapshotClient

        with self._scripts.run("remote_snapshots.py", stall_timeout=GUARD_SECONDS) as line:
            _as_root(ReaderClient(line).hello())
            yield SnapshotClient(line)

    @contextmanager
    def open_writer(self) -> Iterator[WriterClient]:
        """The one way to write onto disks over there: those of a machine that runs a rescue system."""
        from p2v.transports.writer_client import WriterClient

        with self._scripts.run("remote_writer.py", stall_timeout=WRITE_SECONDS) as line:
            writer = WriterClient(line, _as_root(ReaderClient(line).hello()))
            yield writer
            writer.quit()

    def devices(self) -> dict[str, object]:
        """What is plugged into the machine, as it says it itself."""
        with self._scripts.run("remote_devices.py") as line:
            return _as_root(ReaderClient(line).hello())

    def run(self, command: str, *, timeout: float, input: bytes = b"") -> CommandResult:
        """A command over there as root; `timeout` is seconds. Raises TransportError."""
        return self._session.run(self._session.privilege_prefix + command, timeout=timeout, input=input)

    @contextmanager
    def _reader(self) -> Iterator[ReaderClient]:
        with self._scripts.run("remote_reader.py") as line:
            reader = ReaderClient(line, took=self._took)
            _as_root(reader.hello())
            yield reader
            reader.quit()


def _with_usage(survey: Survey, usage: Usage) -> Survey:
    """What the kernel of the source says of who uses its disks."""
    found = {use.path: use for use in usage.disks}
    disks = tuple(
        replace(disk, idle=not use.used, unknown_users=use.unknown) if (use := found.get(disk.path)) else disk
        for disk in survey.machine.disks
    )
    return replace(survey, machine=replace(survey.machine, disks=disks, mounted=usage.mounted))


def _as_root(hello: dict[str, object]) -> dict[str, object]:
    """The first words of a script. Raises TransportError where it may not read disks."""
    if hello.get("uid") != 0:
        raise TransportError("The reader on the source does not run as root, so it cannot read disks")
    return hello


@contextmanager
def open_ssh(address: SshAddress, options: SshOptions, *, took: Took | None = None) -> Iterator[Transport]:
    """A source with Python, one that has only a shell, or a Windows.

    Raises TransportError: network, login, host key, or no way to be root.
    """
    with open_session(address, options) as session:
        if is_windows(session):
            yield WindowsTransport(session, took)
            return
        with find_python(session) as scripts:
            if scripts is not None:
                yield SshTransport(session, took, scripts)
                return
        from p2v.transports.ssh_shell import ShellTransport

        yield ShellTransport(session, took)
