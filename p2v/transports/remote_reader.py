"""Runs on the source, from memory: sent over the SSH channel, never written to its disk.

Only the standard library of Python 3.4 or newer: no f-strings, no annotated variables. Disks are opened
read-only. It answers framed requests on standard input with framed responses on standard output until it is
told to quit or the line ends; `p2v/transports/frames.py` holds the same table for the local side and a test
compares the two.

Request   !BIHQII  op, tag, disk, offset (bytes), length (bytes), count; then `count` pairs !II (start in the
                   block, length), or for OPEN `length` bytes of path.
Response  !BIBII32s  status, tag, codec, raw size, payload size, SHA-256; then the payload.
READ      payload = the bytes of the pairs, one after the other; digest = SHA-256 of the whole block, in which
          everything outside the pairs is zero.
HASH      the digest alone.
"""

import errno
import hashlib
import io
import json
import mmap
import os
import socket
import struct
import subprocess
import sys
import zlib

MAGIC = b"\x00P2V1\x00"
REQUEST = struct.Struct("!BIHQII")
PAIR = struct.Struct("!II")
RESPONSE = struct.Struct("!BIBII32s")
OP_OPEN, OP_READ, OP_HASH, OP_INVENTORY, OP_SYNC, OP_QUIT = 1, 2, 3, 4, 5, 6
STATUS_OK, STATUS_ERROR, STATUS_READ_ERROR = 0, 1, 2
CODEC_NONE, CODEC_ZLIB, CODEC_ZERO = 0, 1, 2
MAX_LENGTH = 16 * 1024 * 1024
MAX_COUNT = 65536
TEXT_LIMIT = 65536
NO_DIGEST = b"\x00" * 32


class Line:
    """Exact reads and writes on the two ends of the SSH channel."""

    def __init__(self, source: io.BufferedReader, sink: io.BufferedWriter) -> None:
        self.source = source
        self.sink = sink

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) != size:
            raise EOFError("the line ended")
        return data

    def answer(
        self, status: int, tag: int, codec: int, raw_size: int, digest: bytes, payload: "bytes | memoryview"
    ) -> None:
        self.sink.write(RESPONSE.pack(status, tag, codec, raw_size, len(payload), digest))
        self.sink.write(payload)
        self.sink.flush()


class Disk:
    """One disk, read past the page cache where the kernel allows it.

    A mounted filesystem writes through the cache of its partition, not through that of the whole disk: a
    page of the whole disk that was cached once would be served stale for ever. O_DIRECT does not look there.
    """

    def __init__(self, path: str) -> None:
        self.direct = True
        try:
            self.handle = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self.direct = False
            self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.lseek(self.handle, 0, os.SEEK_END)
        self.buffer = mmap.mmap(-1, MAX_LENGTH)
        self.view = memoryview(self.buffer)

    def fill(self, offset: int, length: int, pairs: "list[tuple[int, int]]") -> None:
        """Put the block into the buffer: the pairs read from the disk, everything else zero."""
        done = 0
        for start, size in pairs:
            if start < done or start + size > length or offset + start + size > self.size:
                raise ValueError("request outside the block or the disk")
            self.zero(done, start)
            self.read_into(offset + start, start, size)
            done = start + size
        self.zero(done, length)

    def zero(self, start: int, end: int) -> None:
        if end > start:
            self.view[start:end] = bytes(end - start)

    def read_into(self, offset: int, start: int, size: int) -> None:
        if not self.direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, offset, size, os.POSIX_FADV_DONTNEED)
        while size:
            got = self.read_once(offset, start, size)
            if got == 0:
                raise OSError(errno.EIO, "the disk ended early at byte %d" % offset)
            offset, start, size = offset + got, start + got, size - got

    def read_once(self, offset: int, start: int, size: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.handle, [self.view[start : start + size]], offset)
        # Python before 3.7: readinto through an unbuffered file keeps the aligned buffer for O_DIRECT.
        os.lseek(self.handle, offset, os.SEEK_SET)
        with os.fdopen(os.dup(self.handle), "rb", 0) as plain:
            return plain.readinto(self.view[start : start + size])


class Server:
    def __init__(self, line: Line) -> None:
        self.line = line
        self.disks = []  # type: list[Disk]
        self.shrinks = True
        self.skipped = 0

    def serve(self) -> None:
        hello = {
            "python": list(sys.version_info[:3]),
            "uid": os.geteuid(),
            "codecs": ["none", "zlib", "zero"],
        }
        payload = json.dumps(hello).encode()
        self.line.sink.write(MAGIC + struct.pack("!I", len(payload)) + payload)
        self.line.sink.flush()
        while self.serve_one():
            pass

    def serve_one(self) -> bool:
        op, tag, disk, offset, length, count = REQUEST.unpack(self.line.read(REQUEST.size))
        if length > MAX_LENGTH or count > MAX_COUNT:
            raise ValueError("request too large")
        extra = self.line.read(length if op == OP_OPEN else PAIR.size * count)
        if op == OP_QUIT:
            return False
        try:
            self.dispatch(op, tag, disk, offset, length, extra)
        except (OSError, ValueError, IndexError) as error:
            failed_read = isinstance(error, OSError) and error.errno == errno.EIO
            status = STATUS_READ_ERROR if failed_read else STATUS_ERROR
            text = str(error).encode("utf-8", "replace")[:2000]
            self.line.answer(status, tag, CODEC_NONE, len(text), NO_DIGEST, text)
        return True

    def dispatch(self, op: int, tag: int, disk: int, offset: int, length: int, extra: bytes) -> None:
        if op == OP_OPEN:
            self.open(tag, extra.decode("utf-8", "surrogateescape"))
        elif op == OP_READ:
            self.read(tag, self.disks[disk], offset, length, list(PAIR.iter_unpack(extra)))
        elif op == OP_HASH:
            block = self.disks[disk]
            block.fill(offset, length, list(PAIR.iter_unpack(extra)))
            digest = hashlib.sha256(block.view[:length]).digest()
            self.line.answer(STATUS_OK, tag, CODEC_NONE, 0, digest, b"")
        elif op == OP_INVENTORY:
            self.json(tag, inventory())
        elif op == OP_SYNC:
            os.sync()
            self.json(tag, {})
        else:
            raise ValueError("unknown request %d" % op)

    def json(self, tag: int, value: object) -> None:
        payload = json.dumps(value).encode()
        self.line.answer(STATUS_OK, tag, CODEC_NONE, len(payload), NO_DIGEST, payload)

    def open(self, tag: int, path: str) -> None:
        self.disks.append(Disk(path))
        disk = self.disks[-1]
        self.json(tag, {"disk": len(self.disks) - 1, "size": disk.size, "direct": disk.direct})

    def read(self, tag: int, disk: Disk, offset: int, length: int, pairs: "list[tuple[int, int]]") -> None:
        disk.fill(offset, length, pairs)
        digest = hashlib.sha256(disk.view[:length]).digest()
        if len(pairs) == 1:
            raw = disk.view[pairs[0][0] : pairs[0][0] + pairs[0][1]]  # type: bytes | memoryview
        else:
            raw = b"".join([disk.view[start : start + size] for start, size in pairs])
        codec, payload = self.encode(raw)
        self.line.answer(STATUS_OK, tag, codec, len(raw), digest, payload)

    def encode(self, raw: "bytes | memoryview") -> "tuple[int, bytes | memoryview]":
        """Nothing for zeros, zlib where it pays, the bytes themselves elsewhere.

        A block that did not shrink is a sign that its neighbours will not: the next eight are sent as they
        are.
        """
        if not raw[0] and raw[:4096] == bytes(len(raw[:4096])) and raw == bytes(len(raw)):
            return CODEC_ZERO, b""
        if not self.shrinks and self.skipped < 8:
            self.skipped += 1
            return CODEC_NONE, raw
        small = zlib.compress(raw, 1)
        self.shrinks = len(small) < len(raw) * 0.9
        self.skipped = 0
        return (CODEC_ZLIB, small) if self.shrinks else (CODEC_NONE, raw)


def text(path: str, limit: int = TEXT_LIMIT) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def word(path: str) -> str:
    return text(path, 4096).replace("\x00", " ").strip()


def entries(path: str) -> "list[str]":
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def links(folder: str = "/dev/disk") -> "dict[str, list[str]]":
    """Every name under /dev/disk, by the kernel name that it leads to."""
    found = {}  # type: dict[str, list[str]]
    for kind in entries(folder):
        for name in entries(os.path.join(folder, kind)):
            path = os.path.join(folder, kind, name)
            found.setdefault(os.path.basename(os.path.realpath(path)), []).append(path)
    return found


def udev(numbers: str) -> "dict[str, str]":
    """The properties in udev's database of the block device with these numbers (`8:0`)."""
    lines = text("/run/udev/data/b" + numbers).splitlines()
    pairs = [line[2:].partition("=") for line in lines if line.startswith("E:")]
    return {name: value for name, _, value in pairs}


def serial_of(base: str, properties: "dict[str, str]") -> str:
    page = text(base + "/device/vpd_pg80", 256)[4:].strip("\x00 \t\n")
    return (
        properties.get("ID_SERIAL_SHORT")
        or properties.get("ID_SCSI_SERIAL")
        or word(base + "/device/serial")
        or page
    )


def block_device(name: str, names: "dict[str, list[str]]") -> "dict[str, object]":
    base = "/sys/block/" + name
    properties = udev(word(base + "/dev"))
    parts = [part for part in entries(base) if os.path.exists(base + "/" + part + "/partition")]
    return {
        "name": name,
        "size": int(word(base + "/size") or 0) * 512,
        "sector_size": int(word(base + "/queue/logical_block_size") or 512),
        "removable": word(base + "/removable") == "1",
        "model": word(base + "/device/model"),
        "serial": serial_of(base, properties),
        "wwn": properties.get("ID_WWN_WITH_EXTENSION") or properties.get("ID_WWN") or word(base + "/wwid"),
        "links": names.get(name, []),
        "partitions": [
            {
                "name": part,
                "number": int(word(base + "/" + part + "/partition") or 0),
                "start": int(word(base + "/" + part + "/start") or 0) * 512,
            }
            for part in parts
        ],
    }


def block_devices() -> "list[dict[str, object]]":
    skipped = ("loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "drbd")
    names = links()
    return [block_device(name, names) for name in entries("/sys/block") if not name.startswith(skipped)]


def addresses() -> str:
    """What `ip` says, one line an address; empty where there is no `ip`."""
    for tool in ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"):
        if os.path.exists(tool):
            try:
                return subprocess.check_output([tool, "-o", "addr", "show"], timeout=20).decode(
                    "utf-8", "replace"
                )
            except (OSError, subprocess.SubprocessError):
                return ""
    return ""


def network_cards() -> "list[dict[str, str]]":
    base = "/sys/class/net/"
    return [
        {
            "name": name,
            "mac": word(base + name + "/address"),
            "driver": os.path.basename(os.path.realpath(base + name + "/device/driver")),
        }
        for name in entries(base)
        if os.path.exists(base + name + "/device")
    ]


def memory() -> int:
    """Bytes of memory that are plugged in; what the kernel calls all of it is some per cent less."""
    base = "/sys/devices/system/memory/"
    blocks = [
        name for name in entries(base) if name.startswith("memory") and word(base + name + "/online") == "1"
    ]
    size = int(word(base + "block_size_bytes") or "0", 16) * len(blocks)
    return size or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def inventory() -> "dict[str, object]":
    dmi = "/sys/class/dmi/id/"
    return {
        "hostname": socket.gethostname(),
        "kernel": os.uname()[2],
        "architecture": os.uname()[4],
        "cpus": os.sysconf("SC_NPROCESSORS_ONLN"),
        "memory": memory(),
        "uefi": os.path.isdir("/sys/firmware/efi"),
        "os_release": text("/etc/os-release") or text("/usr/lib/os-release"),
        "machine_id": word("/etc/machine-id"),
        "vendor": word(dmi + "sys_vendor"),
        "product": word(dmi + "product_name"),
        "uuid": word(dmi + "product_uuid"),
        "hypervisor": " hypervisor" in text("/proc/cpuinfo"),
        "cmdline": word("/proc/cmdline"),
        "mounts": text("/proc/self/mounts", 1048576),
        "swaps": text("/proc/swaps"),
        "disks": block_devices(),
        "nics": network_cards(),
        "addresses": addresses(),
        "routes": text("/proc/net/route"),
    }


def main() -> None:
    line = Line(io.open(0, "rb"), io.open(1, "wb"))
    try:
        Server(line).serve()
    except EOFError:
        pass


if __name__ == "__main__":
    main()
