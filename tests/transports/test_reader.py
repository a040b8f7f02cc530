"""The remote reader, run as it is sent, against the local end; and a remote side that lies."""

from __future__ import annotations

import ast
import errno
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import zstandard

from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import ConnectionLost, TransportError
from p2v.model import BLOCK_SIZE, KiB, MiB
from p2v.transports import (
    frames,
    reader_client,
    remote_inventory,
    remote_line,
    remote_packing,
    remote_reader,
    ssh_scripts,
)
from p2v.transports.frames import Codec, Op, Status
from p2v.transports.reader_client import ReaderClient, RemoteDisk


class Pipes:
    """A line over the pipes of a child, as SSH would give it."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin
        assert child.stdout
        self.sink, self.source = child.stdin, child.stdout

    def write(self, data: bytes | memoryview) -> None:
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
    """The reader, ready to be asked."""
    with sent(Path(remote_reader.__file__), noise=noise) as client:
        client.hello()
        yield client
        client.quit()


@contextmanager
def sent(path: Path, *, noise: bytes = b"", pipes: type[Pipes] | None = None) -> Iterator[ReaderClient]:
    """A script under the bootstrap that is really sent, with what a talkative profile says before it."""
    script = ssh_scripts.script_text(path.name)
    talk = f"import os;os.write(1,{noise!r});" if noise else ""
    child = subprocess.Popen(
        [sys.executable, "-c", f"{talk}exec({ssh_scripts.BOOTSTRAP!r})", "python3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        line = (pipes or Pipes)(child)
        line.write(b"%8d" % len(script) + script)
        yield ReaderClient(line)
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


def test_zeros_cost_nothing(disk: Path) -> None:
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        sizes = [block.wire_size for block in remote.fetch(REQUESTS)]
    assert sizes[2] < 100


TEXT = memoryview(bytearray(b"".join(b"line %d of a log that shrinks\n" % n for n in range(30_000))))
NOISE = memoryview(bytearray(os.urandom(MiB)))


class Stopwatch:
    """A packer that takes as long as it is told to."""

    codec = remote_packing.CODEC_ZLIB

    def __init__(self, now: list[float], seconds_a_byte: float) -> None:
        self.now = now
        self.seconds_a_byte = seconds_a_byte

    def compress(self, raw: memoryview) -> bytes:
        self.now[0] += len(raw) * self.seconds_a_byte
        return zlib.compress(raw, 1)


def adaptive(monkeypatch: pytest.MonkeyPatch, *, packer: float, wire: float) -> remote_packing.Adaptive:
    """`packer` and `wire` in bytes per second, on a clock that nothing else moves."""
    now = [0.0]
    monkeypatch.setattr("p2v.transports.remote_packing.time.monotonic", lambda: now[0])
    found = remote_packing.Adaptive(1, Stopwatch(now, 1 / packer))  # type: ignore[arg-type]
    for _ in range(4):
        found.wrote(BLOCK_SIZE, BLOCK_SIZE / wire, False)
    return found


def test_a_slow_wire_is_worth_compressing_for(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = adaptive(monkeypatch, packer=80e6, wire=12e6)
    codec, payload = packing.pack(TEXT)
    assert codec == Codec.ZLIB
    assert len(payload) < len(TEXT) // 4
    assert packing.pack(NOISE) == (Codec.NONE, NOISE)


def test_a_wire_faster_than_the_compressor_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = adaptive(monkeypatch, packer=80e6, wire=600e6)
    assert [packing.pack(TEXT)[0] for _ in range(40)] == [Codec.NONE] * 40


def test_noise_is_sent_as_it_is_and_text_after_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    packing = adaptive(monkeypatch, packer=40e6, wire=12e6)
    noise = [packing.pack(NOISE)[0] for _ in range(40)]
    assert set(noise) == {Codec.NONE}
    attempts = packing.packer.now[0] * 40e6 / MiB  # type: ignore[union-attr]
    assert attempts < 10
    later = [packing.pack(TEXT)[0] for _ in range(200)]
    assert later[-1] == Codec.ZLIB


def test_zeros_among_the_bytes_do_not_travel_whatever_the_wire() -> None:
    mixed = memoryview(bytearray(bytes(MiB) + NOISE[: 2 * MiB]))
    codec, payload = remote_packing.Adaptive(1).pack(mixed)
    assert codec in (Codec.ZLIB, Codec.ZSTD)
    assert len(payload) < len(NOISE) + 65536


def test_an_unknown_wire_gets_the_first_blocks_as_they_are() -> None:
    assert remote_packing.Adaptive(1).pack(TEXT) == (Codec.NONE, TEXT)


@pytest.mark.parametrize("packer", [remote_packing.Zlib, remote_packing.Zstd])
def test_what_a_packer_made_is_read_here(packer: type[remote_packing.Zlib | remote_packing.Zstd]) -> None:
    for content in (TEXT, NOISE, TEXT[:700]):
        payload = bytes(packer().compress(content))
        parsed = frames.Response(Status.OK, 1, Codec(packer.codec), len(content), len(payload), bytes(32))
        assert frames.decode(parsed, payload, expected=len(content)) == content


def test_without_the_library_zlib_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise OSError("libzstd.so.1: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert isinstance(remote_packing.best_packer(), remote_packing.Zlib)


def test_many_answers_come_in_order_and_whole(tmp_path: Path) -> None:
    """More blocks than buffers, large and small, with an error in the middle of them."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(8 * MiB) + bytes(8 * MiB) + os.urandom(8 * MiB))
    requests = [BlockRequest(n, n * 65536, 65536, ((0, 4096), (8192, 8192))) for n in range(384)]
    requests += [BlockRequest(n, n * BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),)) for n in range(6)] * 4
    with reader() as client, open_file_device(path) as local:
        remote = RemoteDisk(client, str(path), sector_size=512, live=True)
        for ours, theirs in zip(local.fetch(requests), remote.fetch(requests), strict=True):
            assert (ours.request, bytes(ours.data), ours.digest) == (
                theirs.request,
                bytes(theirs.data),
                theirs.digest,
            )
        outside = BlockRequest(0, 24 * MiB, 4096, ((0, 4096),))
        with pytest.raises(TransportError, match="outside"):
            list(remote.fetch([outside]))
        assert remote.read(0, 10) == path.read_bytes()[:10]


def test_a_block_like_one_before_has_its_own_digest(tmp_path: Path) -> None:
    """Blocks with little in them are remembered: same bytes elsewhere, or other bytes, are another block."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"a" * 4096 + b"b" * 4096 + bytes(BLOCK_SIZE - 8192) + b"a" * 4096 + bytes(MiB - 4096))
    shapes = [
        BlockRequest(0, 0, BLOCK_SIZE, ((0, 4096),)),
        BlockRequest(0, 0, BLOCK_SIZE, ((4096, 4096),)),
        BlockRequest(0, 0, BLOCK_SIZE, ((0, 8192),)),
        BlockRequest(1, BLOCK_SIZE, MiB, ((0, 4096),)),
        BlockRequest(1, BLOCK_SIZE, MiB, ((8192, 4096),)),
    ] * 3
    with reader() as client, open_file_device(path) as local:
        remote = RemoteDisk(client, str(path), sector_size=512, live=True)
        assert list(remote.hash_blocks(shapes)) == list(local.hash_blocks(shapes))
        for ours, theirs in zip(local.fetch(shapes), remote.fetch(shapes), strict=True):
            assert (ours.data, ours.digest) == (theirs.data, theirs.digest)


def test_every_byte_that_came_is_told() -> None:
    answer = head(raw=4096) + bytes(4096)
    told: list[int] = []
    client = ReaderClient(Canned(answer), took=told.append)
    list(client.fetch(0, [BlockRequest(0, 0, BLOCK_SIZE, ((0, 4096),))]))
    assert sum(told) == len(answer)


def test_odd_ranges_are_read_exactly(disk: Path) -> None:
    content = disk.read_bytes()
    ranges = [(1, 10), (4095, 2), (BLOCK_SIZE - 3, 7), (len(content) - 5, 5), (100, 9 * MiB)]
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        assert list(remote.read_many(ranges)) == [content[at : at + size] for at, size in ranges]
        with pytest.raises(TransportError, match="outside the disk"):
            remote.read(len(content) - 1, 2)


def test_what_was_given_up_in_the_middle_does_not_spoil_the_next_question(disk: Path) -> None:
    """A map that gives up (`MapUnknown`) leaves answers on the line, and may still be referred to."""
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        given_up = remote.fetch(REQUESTS)
        next(given_up)
        assert client.open(str(disk))[1] == disk.stat().st_size
        half = remote.read_many([(0, 10), (BLOCK_SIZE, 10), (2 * BLOCK_SIZE, 10)])
        next(half)
        assert remote.read(0, 5) == disk.read_bytes()[:5]
        with pytest.raises(TransportError, match="another question"):
            next(given_up)


def test_what_was_given_up_before_it_was_sent_is_not_waited_for(disk: Path) -> None:
    """Small requests go out in groups: of those given up, some may still wait for theirs."""
    with reader() as client:
        remote = RemoteDisk(client, str(disk), sector_size=512, live=True)
        given_up = remote.read_many([(at * 4096, 10) for at in range(reader_client.IN_FLIGHT + 88)])
        for _ in range(3):
            next(given_up)
        assert remote.read(0, 5) == disk.read_bytes()[:5]


def test_more_is_asked_for_while_nothing_travels(tmp_path: Path) -> None:
    """Else an empty journal of a GiB costs one round trip after the other; a full disk must not be asked for
    more, for all of it is fetched once more after a bad sector.
    """
    size, half = 200 * BLOCK_SIZE, 100 * BLOCK_SIZE
    path = tmp_path / "disk.img"
    with path.open("wb") as image:
        image.truncate(size)
        for at in range(half, size, BLOCK_SIZE):
            image.seek(at)
            image.write(b"used")
    asked = 0

    def requests() -> Iterator[BlockRequest]:
        nonlocal asked
        for asked in range(size // BLOCK_SIZE):
            yield BlockRequest(asked, asked * BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),))

    ahead = []
    with reader() as client:
        remote = RemoteDisk(client, str(path), sector_size=512, live=True)
        for block in remote.fetch(requests()):
            ahead.append((asked - block.request.index) * BLOCK_SIZE)
    assert max(ahead[:10]) > reader_client.BYTES_IN_FLIGHT * 2
    assert max(ahead) <= reader_client.EMPTY_IN_FLIGHT + BLOCK_SIZE
    assert max(ahead[164:]) <= reader_client.BYTES_IN_FLIGHT


class SlowPipes(Pipes):
    """Takes what comes in small pieces, and not at once: the writer is always ahead."""

    def readinto(self, view: memoryview) -> None:
        for at in range(0, len(view), 96 * KiB):
            if at % (1152 * KiB) == 0:
                time.sleep(0.003)
            super().readinto(view[at : at + 96 * KiB])


def test_memory_that_is_still_in_the_pipe_is_not_used_again(tmp_path: Path) -> None:
    """Blocks of 4 MiB go as pages of the buffer that they were read into, with others between them."""
    chance = random.Random(5)
    content = chance.randbytes(15 * BLOCK_SIZE)
    image = tmp_path / "disk"
    image.write_bytes(content)
    sizes = [BLOCK_SIZE, BLOCK_SIZE, 100 * KiB, BLOCK_SIZE, MiB, MiB + 4096, 4096, BLOCK_SIZE] * 4
    wanted = [BlockRequest(-1, chance.randrange(11) * BLOCK_SIZE, size, ((0, size),)) for size in sizes]
    with sent(Path(remote_reader.__file__), pipes=SlowPipes) as client:
        client.hello()
        number, _ = client.open(str(image))
        for request, block in zip(wanted, client.fetch(number, wanted), strict=True):
            expected = content[request.offset : request.offset + request.length]
            assert bytes(block.data) == expected
            assert block.digest == hashlib.sha256(expected).digest()
        client.quit()


def test_where_pages_cannot_be_given_away_they_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel, or who guards it, may have the call and refuse it."""

    def refuse(*_words: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "splice", refuse)
    came, sink = os.pipe()
    taken = ThreadPoolExecutor(1).submit(lambda: Path(f"/proc/self/fd/{came}").read_bytes())
    with io.BytesIO() as nothing:
        line = remote_line.Line(nothing, sink)  # type: ignore[arg-type]
        buffers = remote_line.Buffers(line, 2, BLOCK_SIZE)
        expected = b""
        for number in range(5):
            buffer = buffers.take()
            buffer[:] = bytes([number]) * BLOCK_SIZE
            buffers.send(b"head", buffer[: 2 * MiB], buffer)
            expected += b"head" + bytes([number]) * 2 * MiB
    os.close(sink)
    assert taken.result(timeout=20) == expected
    os.close(came)


def test_a_talkative_profile_is_passed_over(disk: Path) -> None:
    with reader(noise=b"Welcome to metal12!\n\x00P2V it is not\n") as client:
        assert client.open(str(disk))[1] == disk.stat().st_size


def test_a_disk_that_is_not_there_is_an_error_and_the_line_lives(disk: Path) -> None:
    with reader() as client:
        with pytest.raises(TransportError, match="No such file"):
            client.open("/dev/nosuchdisk")
        assert client.open(str(disk))[0] == 0


@pytest.mark.parametrize("script", [remote_reader, remote_inventory], ids=lambda script: script.__name__)
def test_the_scripts_open_disks_for_reading_only(script: ModuleType) -> None:
    """Nothing over there can write: no open for writing, no command that changes anything."""
    tree = ast.parse(Path(str(script.__file__)).read_text())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"O_RDWR", "O_WRONLY", "O_CREAT", "pwrite", "ftruncate", "unlink", "rename", "system"}


def test_one_table_of_constants() -> None:
    for name in ("MAGIC", "MAX_LENGTH", "MAX_COUNT"):
        assert getattr(frames, name) == getattr(remote_reader, name)
    assert frames.MAGIC == remote_inventory.MAGIC
    for name in ("REQUEST", "PAIR", "RESPONSE"):
        assert getattr(frames, name).format == getattr(remote_reader, name).format
    assert {f"OP_{op.name}": op.value for op in Op} == _constants(remote_reader, "OP_")
    assert {f"STATUS_{status.name}": status.value for status in Status} == _constants(
        remote_reader, "STATUS_"
    )
    assert {f"CODEC_{codec.name}": codec.value for codec in Codec} == _constants(remote_packing, "CODEC_")


def _constants(script: ModuleType, prefix: str) -> dict[str, int]:
    return {name: value for name, value in vars(script).items() if name.startswith(prefix)}


def test_inventory_of_this_machine_is_a_machine() -> None:
    from p2v.transports.inventory import parse_inventory

    with sent(Path(remote_inventory.__file__)) as client:
        survey = parse_inventory(client.hello())
    assert survey.machine.hostname == os.uname().nodename
    assert survey.machine.kernel == os.uname().release
    assert survey.machine.memory > 64 * MiB
    assert survey.machine.live


class Canned:
    """A remote side that says exactly these bytes, whatever it is asked."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def write(self, data: bytes | memoryview) -> None:
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


ZSTD_BOMB = zstandard.ZstdCompressor().compress(bytes(256 * MiB))
ZSTD_SHORT = zstandard.ZstdCompressor().compress(bytes(4000))
ZSTD_OPEN = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(MiB))

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
    "a bomb": head(codec=1, payload=1100) + zlib.compress(bytes(MiB)).ljust(1100, b"\0"),
    "damaged zstd": head(codec=3, payload=100) + b"z" * 100,
    "a zstd bomb": head(codec=3, payload=len(ZSTD_BOMB)) + ZSTD_BOMB,
    "zstd of another size": head(codec=3, payload=len(ZSTD_SHORT)) + ZSTD_SHORT,
    "zstd without its size": head(codec=3, payload=len(ZSTD_OPEN)) + ZSTD_OPEN,
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

    facts = remote_inventory.inventory()
    for nonsense in ({"a": 1}, -1, None, [{"name": 1}], "x" * (3 * MiB)):
        with pytest.raises(TransportError, match=field):
            parse_inventory({**facts, field: nonsense})
