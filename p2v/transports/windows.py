"""A Windows over its OpenSSH: one PowerShell script, sent over the channel and run from memory.

It speaks the same frames as the reader of other sources. Snapshots are those of the Volume Shadow Copy
Service. Nothing of this has met a real Windows yet; the script's C# runs in the tests, its PowerShell is only
parsed there.
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import resources

from p2v.disk import layout
from p2v.disk.device import BlockDevice
from p2v.disk.maps.runs import bit_runs, gap_units
from p2v.errors import ConnectionLost, ReadError, TransportError
from p2v.model import Disk, Extent, Machine, MiB
from p2v.transports.base import Guard, Mount, Piece, SnapshotKeeper, Survey, Took
from p2v.transports.reader_client import Line, ReaderClient, RemoteDisk
from p2v.transports.ssh_session import SshSession
from p2v.transports.ssh_stream import STALL_SECONDS, Stream

SCRIPT = "remote_windows.ps1"
SOURCES = ("remote_windows_disks.cs", "remote_windows_packing.cs", "remote_windows_server.cs")
SOURCE = b"/*SOURCE*/"
"""Stands in the script where its C# goes."""

PROBE_SECONDS = 60.0
START_SECONDS = 300.0
"""How long the first words or a snapshot may take: PowerShell compiles first, writers are told to flush."""

COMMAND_LIMIT = 8191
"""Of cmd.exe (learn.microsoft.com, Command prompt line string limitation)."""

# Takes exactly the script from the channel and nothing of the requests behind it, then becomes the script.
BOOTSTRAP = (
    "$ErrorActionPreference='Stop';"
    "$ProgressPreference=$WarningPreference=$VerbosePreference=$InformationPreference='SilentlyContinue';"
    "$m=$ExecutionContext.SessionState.LanguageMode;"
    "if($m -ne 'FullLanguage'){{\"p2v: language mode $m\";exit 41}};"
    "$i=[Console]::OpenStandardInput();$b=New-Object byte[] {size};$k=0;"
    "while($k -lt {size}){{$r=$i.Read($b,$k,{size}-$k);if($r -le 0){{exit 3}};$k+=$r}};"
    "$null=& ([scriptblock]::Create([Text.Encoding]::UTF8.GetString($b))) '{role}'"
)
LANGUAGE_MODE = re.compile(rb"p2v: language mode ([A-Za-z]{1,40})")
HEARD_LIMIT = 4096

BITMAP = "bitmap:"
"""In front of the name of a volume: its used clusters, read like a disk (as in the script)."""
BITMAP_HEAD = struct.Struct("<QQ")
"""Bytes of a cluster, clusters; then one bit for each, the lowest bit first."""
MAX_CLUSTER = 2 * MiB
BITMAP_PIECE = MiB


def is_windows(session: SshSession) -> bool:
    """Whether a Windows answers; of Microsoft's OpenSSH its first line says so.

    Raises ConnectionLost.
    """
    if "windows" in session.server_version.lower():
        return True
    if _knows_its_user(session):
        return False
    # cmd.exe puts in the one, PowerShell the other.
    said = session.run("echo %OS% $env:OS", timeout=PROBE_SECONDS)
    return b"Windows_NT" in said.stdout


def _knows_its_user(session: SshSession) -> bool:
    """Whether `id -u` answers, which is asked of every source anyway."""
    try:
        return session.user_is_root in (True, False)
    except ConnectionLost:
        raise
    except TransportError:
        return False


def whole_script() -> bytes:
    """What is sent: the PowerShell with its C#."""
    folder = resources.files("p2v.transports")
    sources = (folder.joinpath(name).read_bytes() for name in SOURCES)
    return folder.joinpath(SCRIPT).read_bytes().replace(SOURCE, b"\n".join(sources))


def command(size: int, role: str) -> str:
    """The line that cmd.exe and PowerShell both pass on unchanged."""
    bootstrap = BOOTSTRAP.format(size=size, role=role)
    encoded = base64.b64encode(bootstrap.encode("utf-16-le")).decode()
    # -InputFormat None: else PowerShell may read standard input itself, as text.
    return (
        "powershell.exe -NoProfile -NonInteractive -InputFormat None -OutputFormat Text "
        f"-ExecutionPolicy Bypass -EncodedCommand {encoded}"
    )


class WindowsTransport:
    """One SSH session; the reader, the guard and the keeper of snapshots get a channel each."""

    def __init__(self, session: SshSession, took: Took | None) -> None:
        self._session = session
        self._took = took
        self._boot_id = ""

    @property
    def boot_id(self) -> str:
        return self._boot_id

    def survey(self) -> Survey:
        from p2v.transports.windows_inventory import parse_inventory

        with self._script("inventory") as line:
            survey = parse_inventory(self._hello(line))
        self._boot_id = survey.boot_id
        return replace(survey, mounts=tuple(self._mounts(survey.machine)))

    def _mounts(self, machine: Machine) -> Iterator[Mount]:
        """Windows counts partitions in its own way: they are told by where they start."""
        with self.open_disks(machine.disks) as devices:
            for disk, device in zip(machine.disks, devices, strict=True):
                try:
                    table = layout.read_table(device)
                except (layout.TableDamaged, ReadError):
                    continue
                numbers = {one.start: one.number for one in table.partitions}
                for one in machine.mounted:
                    if one.disks == (disk.path,) and one.length and one.start in numbers:
                        yield Mount(disk.path, numbers[one.start], one.place)

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[BlockDevice]:
        with self.open_disks([disk]) as (device,):
            yield device

    @contextmanager
    def open_disks(self, disks: Sequence[Disk]) -> Iterator[tuple[BlockDevice, ...]]:
        with self._script("reader") as line:
            reader = ReaderClient(line, took=self._took)
            self._hello(line)
            # Raw reads do not see what the filesystems have not written yet.
            reader.sync()
            yield tuple(
                WindowsDisk(reader, disk.path, sector_size=disk.sector_size, live=not disk.idle)
                for disk in disks
            )
            reader.quit()

    @contextmanager
    def open_guard(self) -> Iterator[Guard]:
        from p2v.transports.windows_shadows import WindowsGuard

        with self._script("guard") as line:
            self._hello(line)
            yield WindowsGuard(line)

    @contextmanager
    def open_snapshots(self) -> Iterator[SnapshotKeeper]:
        from p2v.transports.windows_shadows import ShadowClient

        with self._script("snapshots") as line:
            self._hello(line)
            yield ShadowClient(line)

    @contextmanager
    def _script(self, role: str) -> Iterator[Stream]:
        """The script, running over there; its first words are still to be taken."""
        script = whole_script()
        patience = STALL_SECONDS if role == "reader" else START_SECONDS
        with self._session.open_stream(command(len(script), role), stall_timeout=patience) as line:
            try:
                line.write(script)
            except ConnectionLost:
                # It may have ended with a reason, which is still to be heard.
                if not self._session.connected():
                    raise
            yield line

    def _hello(self, line: Stream) -> dict[str, object]:
        """The first words of the script. Raises TransportError where it cannot do what it is there for."""
        heard = Listening(line)
        try:
            said = ReaderClient(heard).hello()
        except TransportError as error:
            mode = LANGUAGE_MODE.search(heard.said)
            if mode is None:
                raise
            raise _locked(mode[1].decode("ascii")) from error
        return require_able(said, self._session.place)


class Listening:
    """A line whose first words are remembered: what is no frame may say why."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self.said = b""

    def write(self, data: bytes | memoryview) -> None:
        self._line.write(data)

    def readinto(self, view: memoryview) -> None:
        self._line.readinto(view)
        if len(self.said) < HEARD_LIMIT:
            self.said += bytes(view[: HEARD_LIMIT - len(self.said)])

    def stderr_tail(self) -> str:
        return self._line.stderr_tail()


def _locked(mode: str) -> TransportError:
    return TransportError(
        f"PowerShell on the source runs in language mode {mode}, in which no disk can be read",
        hint="A policy of AppLocker or Windows Defender Application Control sets it: exempt administrators, "
        "or capture the machine from a rescue system",
    )


def require_able(hello: dict[str, object], place: str) -> dict[str, object]:
    """Raises TransportError where the script may not read disks, or cannot."""
    if hello.get("administrator") is not True:
        raise TransportError(
            f"{place} is no administrator on the source, so it cannot read disks",
            hint="Try: ssh://Administrator@HOST, or on the source: net localgroup Administrators USER /add",
        )
    problem = hello.get("problem")
    if problem:
        raise TransportError(
            f"The script on the source cannot work: {str(problem)[:500]}",
            hint="Check on the source: powershell -Command $PSVersionTable",
        )
    return hello


class WindowsDisk(RemoteDisk):
    """A disk of a Windows as a `BlockDevice`, which may have pieces taken from snapshots."""

    @property
    def path(self) -> str:
        return self._path

    def composed(self, pieces: Sequence[Piece]) -> WindowsDisk:
        """The same disk, with these pieces of it taken from other devices, as far as those go.

        A filesystem ends before its partition does: what is behind it comes from the disk.
        """
        fitting = [
            replace(one, length=min(one.length, self._client.open(one.path)[1] - one.offset))
            for one in pieces
        ]
        return WindowsDisk(
            self._client, self._path, sector_size=self._sector_size, live=self._live, pieces=fitting
        )

    def used_of(self, piece: Piece) -> tuple[Extent, ...]:
        """What Windows says of the used clusters of the volume that a piece is read from, as bytes of this
        disk. Raises TransportError, also where the volume is no NTFS.
        """
        disk, size = self._client.open(BITMAP + piece.path)
        (head,) = self._client.read_many(disk, [(0, min(BITMAP_HEAD.size, size))])
        cluster, clusters = BITMAP_HEAD.unpack(head.ljust(BITMAP_HEAD.size, b"\0"))
        sane = 0 < cluster <= MAX_CLUSTER and cluster.bit_count() == 1 and cluster * clusters <= piece.length
        if not sane or size != BITMAP_HEAD.size + -(-clusters // 8):
            raise TransportError(f"The bitmap of {piece.path} does not fit to the volume")
        return tuple(self._runs(disk, piece, cluster, clusters))

    def _runs(self, disk: int, piece: Piece, cluster: int, clusters: int) -> Iterator[Extent]:
        size = -(-clusters // 8)
        for at in range(0, size, BITMAP_PIECE):
            length = min(BITMAP_PIECE, size - at)
            (raw,) = self._client.read_many(disk, [(BITMAP_HEAD.size + at, length)])
            for first, run in bit_runs(raw, min(length * 8, clusters - at * 8), gap=gap_units(cluster)):
                yield Extent(piece.start + (at * 8 + first) * cluster, run * cluster)
