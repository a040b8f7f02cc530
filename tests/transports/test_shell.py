"""A source without Python: the shell that is really sent, under several shells, and one that lies."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from p2v.disk.device import BlockRequest, open_file_device
from p2v.errors import ConnectionLost, ReadError, TransportError
from p2v.model import BLOCK_SIZE, MiB
from p2v.transports import remote_inventory, shell_scripts, ssh_shell
from p2v.transports.inventory import parse_inventory
from p2v.transports.shell_answers import Codec, Incoming
from p2v.transports.shell_inventory import read_facts
from p2v.transports.ssh_shell import Packing, ShellDisk, describe, split
from tests.conftest import need_tools

SHELLS = [
    pytest.param(("sh",), id="sh"),
    pytest.param(("bash", "--posix"), id="bash", marks=pytest.mark.tools),
    pytest.param(("busybox", "sh"), id="busybox", marks=pytest.mark.tools),
]


class Pipes:
    """A line over the pipes of a child, as SSH would give it."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        assert child.stdin
        assert child.stdout
        self.sink, self.source = child.stdin, child.stdout

    def write(self, data: bytes) -> None:
        self.sink.write(data)
        self.sink.flush()

    def read(self, size: int) -> bytes:
        return os.read(self.source.fileno(), size)

    def readinto(self, view: memoryview) -> None:
        while view:
            piece = self.read(len(view))
            if not piece:
                raise ConnectionLost("the pipe ended")
            view[: len(piece)] = piece
            view = view[len(piece) :]

    def stderr_tail(self) -> str:
        return ""


@contextmanager
def shell(
    path: Path, *, under: tuple[str, ...] = ("sh",), noise: str = "", tools: Path | None = None
) -> Iterator[ShellDisk]:
    """The disk behind the script, with what a talkative profile says before it; `tools` is its PATH."""
    need_tools(under[0])
    script = (f"echo '{noise}';" if noise else "") + shell_scripts.DISK
    if tools:
        script = script.replace("PATH=$PATH:/usr/sbin:/usr/bin:/sbin:/bin", f"PATH={tools}")
    child = subprocess.Popen(
        [*under, "-c", script, "p2v", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        line = Pipes(child)
        yield ShellDisk(line, str(path), sector_size=512)
        line.sink.close()
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        Pipes(child).source.close()


def only(folder: Path, *names: str) -> Path:
    """A folder with busybox alone, under these names: nothing else is there to be found."""
    need_tools("busybox")
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to("/usr/bin/busybox")
    return folder


APPLETS = ("dd", "sha256sum", "stat", "sync", "id", "readlink", "blockdev")


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """12 MiB and a bit: text, random bytes, zeros; whole sectors, but not whole pages."""
    path = tmp_path / "disk.img"
    path.write_bytes(b"compressible " * 102_400 + os.urandom(4 * MiB) + bytes(7 * MiB) + os.urandom(5120))
    os.truncate(path, path.stat().st_size // 512 * 512)
    return path


REQUESTS = (
    BlockRequest(0, 0, BLOCK_SIZE, ((0, 8192), (65536, MiB), (2 * MiB + 4096, MiB + 12288))),
    BlockRequest(1, BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),)),
    BlockRequest(2, 2 * BLOCK_SIZE, BLOCK_SIZE, ((4096, 2 * MiB),)),
)


@pytest.mark.parametrize("under", SHELLS)
def test_the_same_bytes_and_digests_as_a_local_read(disk: Path, under: tuple[str, ...]) -> None:
    with shell(disk, under=under) as remote, open_file_device(disk) as local:
        assert remote.size == disk.stat().st_size
        tail = remote.size - 3 * BLOCK_SIZE
        requests = (*REQUESTS, BlockRequest(3, 3 * BLOCK_SIZE, tail, ((0, tail),)))
        for ours, theirs in zip(local.fetch(requests), remote.fetch(requests), strict=True):
            assert (ours.request, ours.data, ours.digest) == (theirs.request, theirs.data, theirs.digest)
        assert list(remote.hash_blocks(requests)) == list(local.hash_blocks(requests))


@pytest.mark.tools
@pytest.mark.parametrize("names", [(), ("gzip",)], ids=["nothing to compress with", "gzip"])
def test_busybox_and_nothing_else(disk: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    tools = only(tmp_path / "tools", *APPLETS, *names)
    with shell(disk, under=("busybox", "sh"), tools=tools) as remote, open_file_device(disk) as local:
        for _ in range(8):  # enough to try the compressor
            for ours, theirs in zip(local.fetch(REQUESTS), remote.fetch(REQUESTS), strict=True):
                assert (ours.data, ours.digest) == (theirs.data, theirs.digest)
        assert list(remote.hash_blocks(REQUESTS)) == list(local.hash_blocks(REQUESTS))


@pytest.mark.tools
def test_without_sha256sum_the_digests_are_made_here(disk: Path, tmp_path: Path) -> None:
    tools = only(tmp_path / "tools", *(name for name in APPLETS if name != "sha256sum"))
    with shell(disk, tools=tools) as remote, open_file_device(disk) as local:
        assert list(remote.hash_blocks(REQUESTS)) == list(local.hash_blocks(REQUESTS))


@pytest.mark.tools
@pytest.mark.parametrize("ask", [ShellDisk.fetch, ShellDisk.hash_blocks], ids=["read", "digest"])
def test_a_dd_that_dies_is_noticed(disk: Path, tmp_path: Path, ask: Ask) -> None:
    tools = only(tmp_path / "tools", *APPLETS)
    (tools / "dd").unlink()
    (tools / "dd").write_text("#!/bin/busybox sh\n/bin/busybox dd if=/dev/zero bs=1000 count=1\nkill -9 $$\n")
    (tools / "dd").chmod(0o755)
    with pytest.raises(TransportError), shell(disk, tools=tools) as remote:
        list(ask(remote, REQUESTS))


Ask = Callable[[ShellDisk, Sequence[BlockRequest]], Iterator[object]]


def test_odd_ranges_are_read_exactly(disk: Path) -> None:
    content = disk.read_bytes()
    ranges = [(1, 10), (4095, 2), (BLOCK_SIZE - 3, 7), (len(content) - 5, 5), (100, 9 * MiB), (50, 0)]
    with shell(disk) as remote:
        assert list(remote.read_many(ranges)) == [content[at : at + size] for at, size in ranges]
        with pytest.raises(TransportError, match="outside the disk"):
            remote.read(len(content) - 1, 2)
        outside = BlockRequest(3, 3 * BLOCK_SIZE, BLOCK_SIZE, ((0, BLOCK_SIZE),))
        with pytest.raises(TransportError, match="outside the disk"):
            list(remote.fetch([outside]))
        assert remote.read(0, 10) == content[:10]


def test_what_was_given_up_in_the_middle_does_not_spoil_the_next_question(disk: Path) -> None:
    with shell(disk) as remote:
        given_up = remote.fetch(REQUESTS)
        next(given_up)
        half = remote.read_many([(0, 10), (BLOCK_SIZE, 10), (2 * BLOCK_SIZE, 10)])
        next(half)
        assert remote.read(0, 5) == disk.read_bytes()[:5]
        with pytest.raises(TransportError, match="another question"):
            next(given_up)


class Counting(Pipes):
    """Counts the bytes of questions that were not answered yet."""

    def __init__(self, said: bytes, tail: int) -> None:
        self.canned, self.tail = Canned(said), tail
        self.waiting: deque[int] = deque()
        self.most = 0

    def write(self, data: bytes) -> None:
        self.waiting.append(len(data))
        self.most = max(self.most, sum(self.waiting))

    def readinto(self, view: memoryview) -> None:
        self.canned.readinto(view)
        if len(view) == self.tail:
            self.waiting.popleft()


@pytest.mark.slow
def test_questions_do_not_pile_up() -> None:
    """More than fits into the pipe between sshd and the shell, and both would wait for each other."""
    pairs = tuple((at, 4096) for at in range(0, BLOCK_SIZE, 20480))
    requests = [BlockRequest(0, 0, BLOCK_SIZE, pairs)] * 50
    answers = [answer(tag=tag, body=bytes(requests[0].data_size)) for tag in range(1, 51)]
    line = Counting(hello('{"size": 8388608, "uid": 0}') + b"".join(answers), 208)
    assert len(list(ShellDisk(line, "/dev/x", sector_size=512).fetch(requests))) == 50
    assert 16 * 1024 < line.most <= 64 * 1024


def test_a_talkative_profile_is_passed_over(disk: Path) -> None:
    with shell(disk, noise="Welcome to metal12! P2V it is not") as remote:
        assert remote.size == disk.stat().st_size


def test_a_disk_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="cannot open"), shell(tmp_path / "nothing"):
        pass


def test_a_strange_name_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a 'b' $(touch c) ;d\\"
    path.write_bytes(b"x" * 8192)
    with shell(path) as remote:
        assert remote.read(0, 3) == b"xxx"
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, BLOCK_SIZE), (512, 1024), (4096, 3 * MiB + 512), (65536 * 3, 65536 * 40), (7 * 512, 8 * MiB)],
)
def test_pieces_are_exactly_the_range(start: int, end: int) -> None:
    at = start
    for size, skip, number in split(start, end):
        assert at == size * skip
        at += size * number
    assert at == end


def test_what_is_no_whole_sector_is_refused() -> None:
    with pytest.raises(TransportError, match="whole sectors"):
        split(0, 100)
    with pytest.raises(TransportError, match="outside"):
        describe(BlockRequest(0, 0, BLOCK_SIZE, ((4096, 4096), (0, 4096))), zeros=False, size=BLOCK_SIZE)


class Canned:
    """A remote side that says exactly these bytes, whatever it is asked."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def write(self, data: bytes) -> None:
        pass

    def read(self, size: int) -> bytes:
        piece, self.said = self.said[:size], self.said[size:]
        return piece

    def readinto(self, view: memoryview) -> None:
        if len(view) > len(self.said):
            raise ConnectionLost("nothing more")
        view[:] = self.read(len(view))

    def stderr_tail(self) -> str:
        return ""


def hello(about: str = '{"size": 4096, "uid": 0, "zstd": false, "sha256sum": true}') -> bytes:
    return b"\0P2V1\0\0\0\1\0" + about.encode().ljust(256)


def answer(
    *, tag: int = 1, codec: str = "n", body: bytes = bytes(4096), status: str = "0", said: str = ""
) -> bytes:
    return f"P2V> {tag:010} {codec}\n".encode() + body + f"P2V< {status} {said:200}\n".encode()


ZSTD = hello('{"size": 4096, "uid": 0, "zstd": true, "sha256sum": true}')

LIES: dict[str, bytes] = {
    "nothing": b"",
    "noise": b"sh: not found\n" * 6000,
    "no json": hello("nonsense"),
    "no object": hello("[1]"),
    "no size": hello('{"uid": 0}'),
    "negative size": hello('{"size": -5, "uid": 0}'),
    "not root": hello('{"size": 4096, "uid": 1000}'),
    "no answer": hello(),
    "another answer": hello() + answer(tag=7),
    "another codec": hello() + answer(codec="g"),
    "too much": hello() + answer(body=bytes(5000)),
    "too little": hello() + answer(body=bytes(40)) + answer(tag=2),
    "no tail": hello() + answer()[:-208] + b"x" * 208,
    "unknown status": hello() + answer(status="7"),
    "a bomb": ZSTD + answer(codec="z", body=zstandard.ZstdCompressor().compress(bytes(256 * MiB))),
    "a large window": ZSTD + answer(codec="z", body=b"\x28\xb5\x2f\xfd\x00\x90" + bytes(300)),
    "damaged": ZSTD + answer(codec="z", body=b"z" * 100),
    "less than asked": ZSTD + answer(codec="z", body=zstandard.compress(bytes(4000))),
    "cut short": ZSTD + answer(codec="z", body=zstandard.compress(os.urandom(4096))[:2000])[:-208],
    "bad sector": hello() + answer(status="1", said="dd: error reading"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_shell_is_a_transport_error(lie: str) -> None:
    with pytest.raises(TransportError):
        list(
            ShellDisk(Canned(LIES[lie]), "/dev/x", sector_size=512).fetch(
                [BlockRequest(0, 0, 4096, ((0, 4096),))]
            )
        )


def test_a_read_error_is_one_and_the_next_answer_is_read() -> None:
    said = hello() + answer(status="1", said="dd: I/O error") + answer(tag=2, body=b"x" * 4096)
    remote = ShellDisk(Canned(said), "/dev/x", sector_size=512)
    request = BlockRequest(0, 0, 4096, ((0, 4096),))
    with pytest.raises(ReadError, match="I/O error"):
        list(remote.fetch([request]))
    assert [bytes(block.data) for block in remote.fetch([request])] == [b"x" * 4096]


def test_what_is_no_digest_is_refused() -> None:
    remote = ShellDisk(Canned(hello() + answer(body=b"x" * 68)), "/dev/x", sector_size=512)
    with pytest.raises(TransportError, match="not a digest"):
        list(remote.hash_blocks([BlockRequest(0, 0, 4096, ((0, 4096),))]))


def test_a_bomb_of_gzip_stops_at_what_was_asked_for() -> None:
    incoming = Incoming(Canned(gzip.compress(bytes(64 * MiB))), None)
    with pytest.raises(TransportError, match="more than the 4096 bytes"):
        incoming.content(Codec.GZIP, 4096)


def test_every_byte_that_came_is_told() -> None:
    said = hello() + answer()
    told: list[int] = []
    remote = ShellDisk(Canned(said), "/dev/x", sector_size=512, took=told.append)
    list(remote.fetch([BlockRequest(0, 0, 4096, ((0, 4096),))]))
    assert sum(told) == len(said)


def test_compression_only_where_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("p2v.transports.ssh_shell.time.monotonic", lambda: now[0])

    def take(packing: Packing, ratio: float, plain: float, packed: float) -> str:
        codec = packing.choose()
        now[0] += MiB / (plain if codec is Codec.PLAIN else packed)
        packing.learn(codec, MiB, MiB if codec is Codec.PLAIN else int(MiB * ratio))
        return codec

    zstd = Packing([Codec.ZSTD, Codec.GZIP])
    assert [take(zstd, 0.5, 100e6, 50e6) for _ in range(40)] == ["z"] * 40
    assert [take(zstd, 1.0, 100e6, 50e6) for _ in range(35)] == ["z", *"n" * 16, "z", *"n" * 16, "z"]
    slow_line = Packing([Codec.GZIP])
    assert "".join(take(slow_line, 0.5, 10e6, 20e6) for _ in range(20)) == "n" * 16 + "g" * 4
    fast_line = Packing([Codec.GZIP])
    assert "".join(take(fast_line, 0.5, 200e6, 80e6) for _ in range(34)) == "n" * 16 + "g" + "n" * 16 + "g"
    assert Packing([]).choose() is Codec.PLAIN


@pytest.mark.parametrize("under", SHELLS)
def test_the_inventory_is_that_of_the_script_in_python(under: tuple[str, ...]) -> None:
    need_tools(under[0])
    said = subprocess.run(
        [*under, "-c", shell_scripts.INVENTORY], capture_output=True, timeout=20, check=True
    )
    assert said.stderr == b""
    facts, wanted = read_facts(said.stdout.decode()), remote_inventory.inventory()
    assert {name: facts.get(name) for name in wanted} == wanted


SAID = """Welcome to metal12!
=disk
+sda

=disk size
+2048000

=disk removable
+0

=disk queue/logical_block_size
+4096

=disk udev
+S:disk/by-id/ata-X
+E:ID_SERIAL_SHORT=5000
+E:ID_SCSI_SERIAL=S3RIAL
+E:ID_WWN=0x5000

=partition
+sda1

=partition number
+1

=partition start
+2048

=partition
+sda2

=partition number
+2

=partition start
+40960

=disk
+nvme0n1

=disk size
+4096000

=disk wwid
+eui.0025

=disk device/serial
+N7

=link
+sda /dev/disk/by-id/ata-X

=link
+sda1 /dev/disk/by-uuid/1

=link
+nvme0n1 /dev/disk/by-id/nvme a b

=nic
+eth0

=nic mac
+52:54:00:00:00:01

=nic driver
+e1000e
"""


def test_disks_partitions_and_cards_are_told_apart() -> None:
    facts = read_facts(SAID)
    assert facts["disks"] == [
        {
            "name": "sda", "size": 2048000 * 512, "sector_size": 4096, "removable": False, "model": "",
            "serial": "S3RIAL", "wwn": "0x5000", "links": ["/dev/disk/by-id/ata-X"],
            "partitions": [
                {"name": "sda1", "number": 1, "start": 2048 * 512},
                {"name": "sda2", "number": 2, "start": 40960 * 512},
            ],
        },
        {
            "name": "nvme0n1", "size": 4096000 * 512, "sector_size": 512, "removable": False, "model": "",
            "serial": "N7", "wwn": "eui.0025", "links": ["/dev/disk/by-id/nvme a b"], "partitions": [],
        },
    ]  # fmt: skip
    assert facts["nics"] == [{"name": "eth0", "mac": "52:54:00:00:00:01", "driver": "e1000e"}]
    assert facts["uid"] == -1


@pytest.mark.parametrize("said", ["", "=disk", "=cpus\n+x\n=memory_block\n+zz\n", "+\n" * 1000, "=" * 1000])
def test_an_inventory_of_nonsense_is_refused(said: str) -> None:
    with pytest.raises(TransportError):
        parse_inventory(read_facts(said))


def test_the_shell_writes_nothing_over_there() -> None:
    for script in (shell_scripts.DISK, shell_scripts.INVENTORY):
        code = script.replace("2>/dev/null", "").replace(">/dev/null", "").replace("of=/dev/null", "")
        assert "of=" not in code
        assert "<<" not in code  # some shells keep such text in a file
        for word in code.split():
            assert not word.startswith(">") or word in (">&3;", ">&3)", ">&2;"), word


def test_the_warning_says_what_to_do() -> None:
    assert "Python" in ssh_shell.SLOW_WAY.message
    assert "install" in ssh_shell.SLOW_WAY.hint
