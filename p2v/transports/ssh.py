"""A machine over SSH: one reader script, sent over the channel, run from memory as root."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources

from p2v.disk.device import BlockDevice
from p2v.errors import TransportError
from p2v.model import Disk
from p2v.transports.base import Survey, Took
from p2v.transports.inventory import parse_inventory
from p2v.transports.reader_client import ReaderClient, RemoteDisk
from p2v.transports.ssh_session import SshAddress, SshOptions, SshSession, open_session

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


class SshTransport:
    """One SSH session; each disk gets a channel and a reader of its own."""

    def __init__(self, session: SshSession, took: Took | None) -> None:
        self._session = session
        self._took = took

    def survey(self) -> Survey:
        with self._reader() as reader:
            return parse_inventory(reader.inventory())

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        with self._reader() as reader:
            # Direct reads do not see what the filesystems have not written yet.
            reader.sync()
            yield RemoteDisk(reader, disk.path, sector_size=disk.sector_size, live=True)

    @contextmanager
    def _reader(self) -> Iterator[ReaderClient]:
        script = resources.files("p2v.transports").joinpath("remote_reader.py").read_bytes()
        command = "python3 -c " + shlex.quote(BOOTSTRAP.format(size=len(script)))
        with self._session.open_stream(self._session.privilege_prefix + command) as line:
            line.write(script)
            reader = ReaderClient(line, took=self._took)
            hello = reader.hello()
            if hello.get("uid") != 0:
                raise TransportError("The reader on the source does not run as root, so it cannot read disks")
            yield reader
            reader.quit()


@contextmanager
def open_ssh(address: SshAddress, options: SshOptions, *, took: Took | None = None) -> Iterator[SshTransport]:
    """Raises TransportError: network, login, host key, or no way to be root."""
    with open_session(address, options) as session:
        yield SshTransport(session, took)
