"""The remote reader, run as it is sent, against the local end; and a remote side that lies."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import ConnectionLost, TransportError
from p2v.model import BLOCK_SIZE, MiB
from p2v.transports import frames, remote_reader, ssh
from p2v.transports.frames import Codec, Op, Status
from p2v.transports.reader_client import ReaderClient, RemoteDisk


class Pipes:
    """A line over the pipes of a child, as SSH would give it."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin
        assert child.stdout
        self.sink, self.source = child.stdin, child.stdout

    def write(self, data: bytes) -> None:
        self.sink.write(data)
        self.sink.flush()

    def readinto(self, view: memoryview) -> None:
        data = self.source.read(len(view))
        if len(data) != len(view):
            raise ConnectionLost("the pipe ended")
        view[:] = data

    def stderr_tail(self) -> str:
        return ""


@contextmanager
def reader(*, noise: bytes = b"") -> Iterator[ReaderClient]:
    """The script under the bootstrap that is really sent, with what a talkative profile says before it."""
    script = Path(remote_reader.__file__).read_bytes()
    bootstrap = ssh.BOOTSTRAP.format(size=len(script))
    talk = f"import os;os.write(1,{noise!r});" if noise else ""
    child = subprocess.Popen(
        [sys.executable, "-c", talk + bootstrap if not talk else f"{talk}exec({bootstrap!r})"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        line = Pipes(child)
        line.write(script)
        client = ReaderClient(line)
        client.hello()
        yield client
        client.quit()
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        Pipes(child).sink.close()
        Pipes(child).source.close()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """12 MiB and a bit: text, random bytes, zeros."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"compressible " * 102_400 + os.urandom(4 * MiB) + bytes(7 * MiB) + os.urandom(4096))
    return path


REQUESTS = (
    BlockRequest(0, 0, BLOCK_SIZE, ((0, 8192), (65536, MiB))),
    BlockRequest(1, BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),)),
    BlockRequest(2, 2 * BLOCK_SIZE, BLOCK_SIZE, ((4096, 2 * MiB),)),
)


def test_the_same_bytes_and_digests_as_a_local_read(disk: Path) -> None:
    with reader() as client, open_file_device(disk) as local:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        assert remote.size == disk.stat().st_size
        for ours, theirs in zip(local.fetch(REQUESTS), remote.fetch(REQUESTS), strict=True):
            assert (ours.request, ours.data, ours.digest) == (theirs.request, theirs.data, theirs.digest)
        assert [digest for _, digest in remote.hash_blocks(REQUESTS)] == [
            digest for _, digest in local.hash_blocks(REQUESTS)
        ]


def test_digest_is_that_of_the_zero_filled_block(disk: Path) -> None:
    wanted = bytearray(BLOCK_SIZE)
    content = disk.read_bytes()
    wanted[:8192] = content[:8192]
    wanted[65536 : 65536 + MiB] = content[65536 : 65536 + MiB]
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        list(remote.fetch(REQUESTS[1:]))  # fills the reader's buffer with something else first
        (block,) = remote.fetch(REQUESTS[:1])
    assert block.digest == hashlib.sha256(wanted).digest()


def test_text_shrinks_and_zeros_cost_nothing(disk: Path) -> None:
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        sizes = [block.wire_size for block in remote.fetch(REQUESTS)]
    assert sizes[0] < (8192 + MiB) // 10
    assert sizes[2] < 100


def test_odd_ranges_are_read_exactly(disk: Path) -> None:
    content = disk.read_bytes()
    ranges = [(1, 10), (4095, 2), (BLOCK_SIZE - 3, 7), (len(content) - 5, 5), (100, 9 * MiB)]
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        assert list(remote.read_many(ranges)) == [content[at : at + size] for at, size in ranges]
        with pytest.raises(TransportError, match="outside the disk"):
            remote.read(len(content) - 1, 2)


def test_a_talkative_profile_is_passed_over(disk: Path) -> None:
    with reader(noise=b"Welcome to metal12!\n\x00P2V it is not\n") as client:
        assert client.open(str(disk))[1] == disk.stat().st_size


def test_a_disk_that_is_not_there_is_an_error_and_the_line_lives(disk: Path) -> None:
    with reader() as client:
        with pytest.raises(TransportError, match="No such file"):
            client.open("/dev/nosuchdisk")
        assert client.open(str(disk))[0] == 0


def test_the_reader_opens_disks_for_reading_only() -> None:
    """Nothing over there can write: no open for writing, no command that changes anything."""
    tree = ast.parse(Path(remote_reader.__file__).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"O_RDWR", "O_WRONLY", "O_CREAT", "pwrite", "ftruncate", "unlink", "rename", "system"}


def test_one_table_of_constants() -> None:
    for name in ("MAGIC", "MAX_LENGTH", "MAX_COUNT"):
        assert getattr(frames, name) == getattr(remote_reader, name)
    for name in ("REQUEST", "PAIR", "RESPONSE"):
        assert getattr(frames, name).format == getattr(remote_reader, name).format
    assert {f"OP_{op.name}": op.value for op in Op} == _constants("OP_")
    assert {f"STATUS_{status.name}": status.value for status in Status} == _constants("STATUS_")
    assert {f"CODEC_{codec.name}": codec.value for codec in Codec} == _constants("CODEC_")


def _constants(prefix: str) -> dict[str, int]:
    return {name: value for name, value in vars(remote_reader).items() if name.startswith(prefix)}


def test_inventory_of_this_machine_is_a_machine() -> None:
    from p2v.transports.inventory import parse_inventory

    with reader() as client:
        survey = parse_inventory(client.inventory())
    assert survey.machine.hostname == os.uname().nodename
    assert survey.machine.kernel == os.uname().release
    assert survey.machine.memory > 64 * MiB
    assert survey.machine.live


class Canned:
    """A remote side that says exactly these bytes, whatever it is asked."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def write(self, data: bytes) -> None:
        pass

    def readinto(self, view: memoryview) -> None:
        if len(view) > len(self.said):
            raise ConnectionLost("nothing more")
        view[:] = self.said[: len(view)]
        self.said = self.said[len(view) :]

    def stderr_tail(self) -> str:
        return ""


def head(
    *,
    status: int = 0,
    tag: int = 1,
    codec: int = 0,
    raw: int = 4096,
    payload: int = 4096,
    digest: bytes = bytes(32),
) -> bytes:
    return frames.RESPONSE.pack(status, tag, codec, raw, payload, digest)


LIES: dict[str, bytes] = {
    "nothing": b"",
    "noise": b"x" * 100,
    "unknown status": head(status=9) + bytes(4096),
    "unknown codec": head(codec=7) + bytes(4096),
    "another answer": head(tag=77) + bytes(4096),
    "too much": head(raw=2**31, payload=2**31),
    "too little": head(raw=10, payload=10) + bytes(10),
    "more than it says": head(raw=4096, payload=5000) + bytes(5000),
    "zeros with data": head(codec=2) + bytes(4096),
    "damaged zlib": head(codec=1, payload=100) + b"z" * 100,
    "a bomb": head(codec=1, payload=1100) + __import__("zlib").compress(bytes(MiB)).ljust(1100, b"\0"),
    "refused": head(status=1, raw=5, payload=5) + b"sorry",
    "bad sector": head(status=2, raw=5, payload=5) + b"EIO 5",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_remote_side_is_a_transport_error(lie: str) -> None:
    client = ReaderClient(Canned(LIES[lie]))
    with pytest.raises(TransportError):
        list(client.fetch(0, [BlockRequest(0, 0, BLOCK_SIZE, ((0, 4096),))]))


def hello_of(value: object) -> bytes:
    payload = json.dumps(value).encode()
    return frames.MAGIC + struct.pack("!I", len(payload)) + payload


@pytest.mark.parametrize(
    "said",
    [
        b"bash: python3: command not found\n",
        hello_of([1, 2]),
        frames.MAGIC + b"\xff\xff\xff\xff",
        b"y" * 70_000,
    ],
    ids=["no python", "not an object", "huge", "endless noise"],
)
def test_a_reader_that_does_not_start(said: bytes) -> None:
    with pytest.raises(TransportError):
        ReaderClient(Canned(said)).hello()


@pytest.mark.parametrize("field", ["hostname", "cpus", "disks", "nics", "mounts"])
def test_an_inventory_of_nonsense_is_refused(field: str) -> None:
    from p2v.transports.inventory import parse_inventory

    facts = remote_reader.inventory()
    for nonsense in ({"a": 1}, -1, None, [{"name": 1}], "x" * (3 * MiB)):
        with pytest.raises(TransportError, match=field):
            parse_inventory({**facts, field: nonsense})
