"""A machine over SSH: small scripts, sent over the channel, run from memory as root.

What reads the answers of the smaller scripts is imported where it is needed: pydantic and the families of
guests take 0.1 s to load, which a capture that only opens disks would spend for nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources
from typing import TYPE_CHECKING

from p2v.disk.device import BlockDevice
from p2v.errors import ConnectionLost, TransportError
from p2v.model import Disk
from p2v.transports.base import Guard, SnapshotKeeper, Survey, Took, Transport, Usage
from p2v.transports.reader_client import ReaderClient, RemoteDisk
from p2v.transports.ssh_session import (
    CommandResult,
    SshAddress,
    SshOptions,
    SshSession,
    Stream,
    open_session,
)
from p2v.transports.ssh_stream import STALL_SECONDS
from p2v.transports.windows import WindowsTransport, is_windows

if TYPE_CHECKING:
    from p2v.transports.writer_client import WriterClient

PROBE_SECONDS = 60.0

# Reads exactly the script from the channel and nothing of the requests behind it, then becomes the script.
BOOTSTRAP = (
    "import os\n"
    "s=b''\n"
    "while len(s)<{size}:\n"
    " d=os.read(0,{size}-len(s))\n"
    " if not d:raise SystemExit(3)\n"
    " s+=d\n"
    "exec(compile(s,'p2v-reader','exec'),{{'__name__':'__main__'}})"
)


IN_FRONT = {"remote_reader.py": ("remote_line.py",)}
"""A script over there can import nothing of ours."""

WRITE_SECONDS = 300.0
"""How long a disk may take to write out what it holds in its own memory, or to forget a quarter of a GiB."""

GUARD_SECONDS = 300.0
"""How long a freeze may take to answer: the source writes out all that it holds in memory first."""


class SshTransport:
    """One SSH session; each disk gets a channel and a reader of its own."""

    def __init__(self, session: SshSession, took: Took | None, python: str) -> None:
        self._session = session
        self._took = took
        self._python = python
        self._boot_id = ""

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def survey(self) -> Survey:
        from p2v.transports.inventory import parse_inventory

        with self._script("remote_inventory.py") as line:
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

        with self._script("remote_guard.py", stall_timeout=GUARD_SECONDS) as line:
            _as_root(ReaderClient(line).hello())
            yield GuardClient(line)

    @contextmanager
    def open_snapshots(self) -> Iterator[SnapshotKeeper]:
        from p2v.transports.snapshots import SnapshotClient

        with self._script("remote_snapshots.py", stall_timeout=GUARD_SECONDS) as line:
            _as_root(ReaderClient(line).hello())
            yield SnapshotClient(line)

    @contextmanager
    def open_writer(self) -> Iterator[WriterClient]:
        """The one way to write onto disks over there: those of a machine that runs a rescue system."""
        from p2v.transports.writer_client import WriterClient

        with self._script("remote_writer.py", stall_timeout=WRITE_SECONDS) as line:
            writer = WriterClient(line, _as_root(ReaderClient(line).hello()))
            yield writer
            writer.quit()

    def devices(self) -> dict[str, object]:
        """What is plugged into the machine, as it says it itself."""
        with self._script("remote_devices.py") as line:
            return _as_root(ReaderClient(line).hello())

    def run(self, command: str, *, timeout: float, input: bytes = b"") -> CommandResult:
        """A command over there as root; `timeout` is seconds. Raises TransportError."""
        return self._session.run(self._session.privilege_prefix + command, timeout=timeout, input=input)

    @contextmanager
    def _reader(self) -> Iterator[ReaderClient]:
        with self._script("remote_reader.py") as line:
            reader = ReaderClient(line, took=self._took)
            _as_root(reader.hello())
            yield reader
            reader.quit()

    @contextmanager
    def _script(self, name: str, *, stall_timeout: float = STALL_SECONDS) -> Iterator[Stream]:
        """One of our scripts, running over there; its first words are still to be taken."""
        script = script_text(name)
        # -B: as root, Python would write the bytecode of what it imports beside it.
        command = f"{self._python} -B -c " + shlex.quote(BOOTSTRAP.format(size=len(script)))
        command = self._session.privilege_prefix + command
        with self._session.open_stream(command, stall_timeout=stall_timeout) as line:
            line.write(script)
            yield line


def script_text(name: str) -> bytes:
    """What is sent of a script: itself, behind what it needs of others."""
    folder = resources.files("p2v.transports")
    return b"".join(folder.joinpath(part).read_bytes() for part in (*IN_FRONT.get(name, ()), name))


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


FIND_PYTHON = (
    "for name in python3 /usr/libexec/platform-python python; do "
    """"$name" -SE -c "import sys,hashlib,json,mmap,zlib;sys.exit(sys.version_info<(3,4))" 2>/dev/null """
    """&& echo "p2v uses $name" && exit; done; echo p2v uses sh"""
)
"""Prints the first of these that is a whole Python of version 3.4 or newer; the second is that of RHEL 8."""


def _find_python(session: SshSession) -> str | None:
    """Raises TransportError where not even a shell answers."""
    command = session.privilege_prefix + shlex.join(["sh", "-c", FIND_PYTHON])
    said = session.run(command, timeout=PROBE_SECONDS).stdout.decode("utf-8", "replace")
    found = re.search(r"^p2v uses ([a-z0-9/-]+)$", said, re.MULTILINE)
    if found is None:
        raise TransportError(f"{session.place} runs no usual shell", hint="Try: ssh HOST sh -c true")
    return None if found[1] == "sh" else found[1]


@contextmanager
def open_ssh(address: SshAddress, options: SshOptions, *, took: Took | None = None) -> Iterator[Transport]:
    """A source with Python, one that has only a shell, or a Windows.

    Raises TransportError: network, login, host key, or no way to be root.
    """
    with open_session(address, options) as session:
        if is_windows(session):
            yield WindowsTransport(session, took)
            return
        python = _find_python(session)
        if python:
            yield SshTransport(session, took, python)
            return
        from p2v.transports.ssh_shell import ShellTransport

        yield ShellTransport(session, took)
