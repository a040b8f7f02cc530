"""Runs on the machine that is restored, from memory: sent over the SSH channel, installed nowhere.

Only the standard library of Python 3.7 or newer, written like the other scripts. The one script that
writes: onto disks that the kernel lets it have alone (O_EXCL: nothing mounted, no swap, no volume on them),
whose size and serial are those of the plan. `p2v/transports/writer_frames.py` holds the same table for the
local side and a test compares the two.

Request   !BIHQII  op, tag, disk, offset (bytes), length (bytes), count; then `count` pairs !II (start in the
                   block, length), and what the op needs:
  OPEN    `length` bytes of JSON: path, size, serial, wwn (empty: there is none to compare).
  WRITE   !BI32s  codec, payload size, SHA-256 of the block in which everything outside the pairs is zero;
  then
          the payload, which unpacks to the bytes of the pairs, one after the other. ZERO has none: the pairs
          become zero. Nothing is written before the digest was found right.
  TRY     the same, and nothing is written: how fast the line is.
  HASH    answers with that digest, of what is on the disk.
  CLEAR   !QB  length, kind: 0 the disk may forget what is there (BLKDISCARD), 1 it becomes zero.
  FLUSH   everything that was written is on the disk, and not read from memory again.
  REREAD  the kernel looks at the partition table again.
Response  !BIBII32s  status, tag, codec, raw size, payload size, SHA-256; then the payload.

    requests ──► main thread: takes payloads ──► workers: unpack, digest, write ──► one thread answers in
    order

A handful of buffers goes round: memory does not grow, and the line waits for the disk.
"""

import collections.abc
import errno
import fcntl
import hashlib
import io
import json
import mmap
import os
import queue
import stat
import struct
import threading
import time
import zlib

MAGIC = b"\x00P2V1\x00"
REQUEST = struct.Struct("!BIHQII")
PAIR = struct.Struct("!II")
CONTENT = struct.Struct("!BI32s")
SPAN = struct.Struct("!QB")
RESPONSE = struct.Struct("!BIBII32s")
OP_OPEN, OP_HASH, OP_QUIT = 1, 3, 6
OP_WRITE, OP_CLEAR, OP_FLUSH, OP_REREAD, OP_TRY = 8, 9, 10, 11, 12
STATUS_OK, STATUS_ERROR, STATUS_DIFFERS, STATUS_REFUSED, STATUS_BUSY = 0, 1, 3, 4, 5
CODEC_NONE, CODEC_ZLIB, CODEC_ZERO, CODEC_ZSTD = 0, 1, 2, 3
CLEAR_FORGET, CLEAR_ZERO = 0, 1
MAX_LENGTH = 16 * 1024 * 1024
MAX_COUNT = 65536
NO_DIGEST = b"\x00" * 32
ZEROS = memoryview(mmap.mmap(-1, 1024 * 1024, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
WORKERS = min(4, os.cpu_count() or 1)
BUFFERS = WORKERS + 4
CLEAR_STEP = 256 * 1024 * 1024
IDLE_SECONDS = 120.0
# linux/fs.h: _IO(0x12, …).
BLKRRPART, BLKFLSBUF, BLKSSZGET, BLKDISCARD, BLKZEROOUT = 0x125F, 0x1261, 0x1268, 0x1277, 0x127F
SERIALS = ("SCSI_IDENT_SERIAL", "ID_SCSI_SERIAL", "ID_SERIAL_SHORT")
UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)


class Refused(Exception):
    """The disk is not the one of the plan, or somebody uses it; nothing was written."""


class Busy(Refused):
    """Somebody uses the disk, perhaps a writer whose line broke a moment ago."""


class Differs(Exception):
    """What arrived is not what was sent."""


class Line:
    """Exact reads and writes on the two ends of the SSH channel."""

    def __init__(self, source: io.BufferedReader, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.waiting = 0.0

    def read(self, size: int) -> bytes:
        self.waiting = time.monotonic()
        data = self.source.read(size)
        self.waiting = 0.0
        if len(data) != size:
            raise EOFError("the line ended")
        return data

    def end_when_silent(self) -> None:
        """A line that broke without a word would keep the disks locked for hours."""
        while True:
            time.sleep(min(1.0, IDLE_SECONDS / 4))
            since = self.waiting
            if since and time.monotonic() - since > IDLE_SECONDS:
                os._exit(7)

    def readinto(self, view: memoryview) -> None:
        while len(view):
            self.waiting = time.monotonic()
            got = self.source.readinto(view)
            self.waiting = 0.0
            if not got:
                raise EOFError("the line ended")
            view = view[got:]

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self.sink, rest) :]


def text(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(65536).decode("utf-8", "replace")
    except OSError:
        return ""


def names_of(number: int) -> "dict[str, set[str]]":
    """Every serial and WWN that udev and the kernel have for a block device; as the inventory finds them."""
    place = "%d:%d" % (os.major(number), os.minor(number))
    lines = [line[2:] for line in text("/run/udev/data/b" + place).splitlines() if line.startswith("E:")]
    known = dict(line.split("=", 1) for line in lines if "=" in line)
    base = os.path.realpath("/sys/dev/block/" + place)
    page = text(base + "/device/vpd_pg80")[4:].strip("\x00 \t\n")
    serial = text(base + "/device/serial").replace("\x00", " ").strip()
    wwn = text(base + "/wwid").replace("\x00", " ").strip()
    return {
        "serial": {known.get(name, "") for name in SERIALS} | {serial, page},
        "wwn": {known.get("ID_WWN_WITH_EXTENSION", ""), known.get("ID_WWN", ""), wwn},
    }


class Disk:
    """One disk, open for this script alone, written and read past the page cache where that is possible."""

    def __init__(self, path: str, size: int, serial: str, wwn: str) -> None:
        self.path = path
        self.regular = stat.S_ISREG(os.stat(path).st_mode)
        self.handle = self.open(path)
        self.size = os.lseek(self.handle, 0, os.SEEK_END)
        self.require_planned(size, serial, wwn)
        self.sector_size = 512 if self.regular else self.number(BLKSSZGET)

    def open(self, path: str) -> int:
        flags = os.O_RDWR | os.O_CLOEXEC | (0 if self.regular else os.O_EXCL | os.O_DIRECT)
        try:
            return os.open(path, flags)
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise Refused(
                    "%s is in use: something on it is mounted, swap, or part of a volume" % path
                ) from error
            if error.errno == errno.EINVAL:
                return os.open(path, flags & ~os.O_DIRECT)
            raise

    def require_planned(self, size: int, serial: str, wwn: str) -> None:
        if self.size != size:
            raise Refused("%s has %d bytes, not %d as planned" % (self.path, self.size, size))
        names = {} if self.regular else names_of(os.fstat(self.handle).st_rdev)
        for kind, wanted in (("serial", serial), ("wwn", wwn)):
            if wanted and wanted not in names.get(kind, ()):
                raise Refused("%s has not the %s %s that was planned" % (self.path, kind, wanted))

    def number(self, request: int) -> int:
        return int(struct.unpack("=i", fcntl.ioctl(self.handle, request, b"\x00" * 4))[0])

    def check(self, offset: int, length: int, pairs: "list[tuple[int, int]]") -> None:
        end = 0
        for start, size in pairs:
            if start < end or start + size > length or offset + start + size > self.size:
                raise ValueError("request outside the block or the disk")
            end = start + size

    def write(self, view: memoryview, offset: int) -> None:
        while len(view):
            done = os.pwrite(self.handle, view, offset)
            offset, view = offset + done, view[done:]

    def read_into(self, view: memoryview, offset: int) -> None:
        while len(view):
            got = os.preadv(self.handle, [view], offset)
            if got == 0:
                raise OSError(errno.EIO, "the disk ended early at byte %d" % offset)
            offset, view = offset + got, view[got:]

    def zero(self, offset: int, length: int) -> None:
        if not self.regular and self.told(BLKZEROOUT, offset, length):
            return
        for at in range(offset, offset + length, len(ZEROS)):
            self.write(ZEROS[: min(len(ZEROS), offset + length - at)], at)

    def told(self, request: int, offset: int, length: int) -> bool:
        """Whether the device did what the ioctl asks for; False where it cannot."""
        try:
            fcntl.ioctl(self.handle, request, struct.pack("=QQ", offset, length))
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            return False
        return True

    def clear(self, offset: int, length: int, kind: int) -> bool:
        """Whether anything was done: a disk that cannot forget stays as it is."""
        if offset + length > self.size:
            raise ValueError("request outside the disk")
        for at in range(offset, offset + length, CLEAR_STEP):
            size = min(CLEAR_STEP, offset + length - at)
            if kind == CLEAR_ZERO:
                self.zero(at, size)
            elif self.regular or not self.told(BLKDISCARD, at, size):
                return False
        return True

    def flush(self) -> None:
        os.fsync(self.handle)
        if not self.regular:
            fcntl.ioctl(self.handle, BLKFLSBUF)

    def reread(self) -> bool:
        if self.regular:
            return False
        try:
            fcntl.ioctl(self.handle, BLKRRPART)
        except OSError:
            return False  # a device without partitions, as loop devices may be
        return True


def digest_of(length: int, pairs: "list[tuple[int, int]]", raw: memoryview) -> bytes:
    digest = hashlib.sha256()
    end, done = 0, 0
    for start, size in pairs:
        add_zeros(digest, start - end)
        digest.update(raw[done : done + size])
        end, done = start + size, done + size
    add_zeros(digest, length - end)
    return digest.digest()


def add_zeros(digest: "hashlib._Hash", size: int) -> None:
    while size > 0:
        digest.update(ZEROS[: min(size, len(ZEROS))])
        size -= len(ZEROS)


def new_buffer() -> memoryview:
    return memoryview(mmap.mmap(-1, MAX_LENGTH, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class Zstd:
    """The system's own libzstd; raises OSError where there is none."""

    def __init__(self) -> None:
        import ctypes

        self.ctypes = ctypes
        self.call = ctypes.CDLL("libzstd.so.1").ZSTD_decompress
        self.call.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t]
        self.call.restype = ctypes.c_size_t

    def unpack(self, payload: memoryview, target: memoryview) -> int:
        source = (self.ctypes.c_char * len(payload)).from_buffer(payload)
        sink = (self.ctypes.c_char * len(target)).from_buffer(target)
        # An error is a number larger than any size.
        return int(
            self.call(self.ctypes.addressof(sink), len(target), self.ctypes.addressof(source), len(payload))
        )


def find_zstd() -> "Zstd | None":
    try:
        return Zstd()
    except (ImportError, OSError, AttributeError):
        return None


def inflate(payload: memoryview, target: memoryview) -> int:
    data = zlib.decompressobj().decompress(payload, len(target) + 1)
    if len(data) <= len(target):
        target[: len(data)] = data
    return len(data)


class Job:
    """One request on its way: its payload in a buffer, then its answer."""

    def __init__(self, op: int, tag: int, disk: int, offset: int, length: int) -> None:
        self.op, self.tag, self.disk, self.offset, self.length = op, tag, disk, offset, length
        self.pairs = []  # type: list[tuple[int, int]]
        self.codec, self.size, self.digest = CODEC_NONE, 0, NO_DIGEST
        self.buffer = None  # type: memoryview | None
        self.words = b""
        self.ready = threading.Event()

    @property
    def raw_size(self) -> int:
        return sum(size for _, size in self.pairs)

    def answer(self, status: int, digest: bytes, payload: bytes) -> None:
        size = len(payload)
        self.words = RESPONSE.pack(status, self.tag, CODEC_NONE, size, size, digest) + payload
        self.ready.set()

    def fail(self, error: Exception) -> None:
        status = STATUS_REFUSED if isinstance(error, Refused) else STATUS_ERROR
        status = STATUS_BUSY if isinstance(error, Busy) else status
        status = STATUS_DIFFERS if isinstance(error, Differs) else status
        self.answer(status, NO_DIGEST, str(error).encode("utf-8", "replace")[:2000])


class Server:
    def __init__(self, line: Line) -> None:
        self.line = line
        self.disks = []  # type: list[Disk]
        self.zstd = find_zstd()
        self.buffers = queue.Queue()  # type: queue.Queue[memoryview]
        for _ in range(BUFFERS):
            self.buffers.put(new_buffer())
        self.work = queue.Queue()  # type: queue.Queue[Job]
        self.order = queue.Queue(4 * BUFFERS)  # type: queue.Queue[Job | None]
        self.answering = self.start(self.answer_all)
        self.start(self.line.end_when_silent)
        for _ in range(WORKERS):
            self.start(self.do_all)

    def start(self, call: "collections.abc.Callable[[], None]") -> threading.Thread:
        thread = threading.Thread(target=call)
        thread.daemon = True
        thread.start()
        return thread

    def serve(self) -> None:
        codecs = ["none", "zlib", "zero"] + (["zstd"] if self.zstd else [])
        payload = json.dumps({"uid": os.geteuid(), "codecs": codecs}).encode()
        self.line.write(MAGIC + struct.pack("!I", len(payload)) + payload)
        while self.serve_one():
            pass
        self.order.put(None)
        self.answering.join()

    def serve_one(self) -> bool:
        op, tag, disk, offset, length, count = REQUEST.unpack(self.line.read(REQUEST.size))
        if length > MAX_LENGTH or count > MAX_COUNT:
            raise ValueError("request too large")
        if op == OP_QUIT:
            return False
        job = Job(op, tag, disk, offset, length)
        job.pairs = list(PAIR.iter_unpack(self.line.read(PAIR.size * count)))
        extra = self.line.read(length if op == OP_OPEN else SPAN.size if op == OP_CLEAR else 0)
        if op in (OP_WRITE, OP_TRY):
            self.take_content(job)
        if op in (OP_WRITE, OP_TRY, OP_HASH):
            job.buffer = job.buffer or self.buffers.get()
            self.work.put(job)
        else:
            self.work.join()  # alone: everything before is done
            self.do(job, extra)
        self.order.put(job)
        return True

    def take_content(self, job: Job) -> None:
        job.codec, job.size, job.digest = CONTENT.unpack(self.line.read(CONTENT.size))
        if job.size > MAX_LENGTH:
            raise ValueError("payload too large")
        job.buffer = self.buffers.get()
        self.line.readinto(job.buffer[: job.size])

    def do(self, job: Job, extra: bytes) -> None:
        try:
            payload = json.dumps(self.dispatch(job, extra)).encode()
            job.answer(STATUS_OK, NO_DIGEST, payload)
        except Exception as error:
            job.fail(error)

    def dispatch(self, job: Job, extra: bytes) -> "dict[str, object]":
        if job.op == OP_OPEN:
            return self.open(**json.loads(extra.decode("utf-8", "surrogateescape")))
        disk = self.disks[job.disk]
        if job.op == OP_CLEAR:
            length, kind = SPAN.unpack(extra)
            return {"done": disk.clear(job.offset, length, kind)}
        if job.op == OP_FLUSH:
            disk.flush()
            return {"done": True}
        if job.op == OP_REREAD:
            return {"done": disk.reread()}
        raise ValueError("unknown request %d" % job.op)

    def open(self, path: str, size: int, serial: str, wwn: str) -> "dict[str, object]":
        disk = Disk(path, size, serial, wwn)
        self.disks.append(disk)
        return {"disk": len(self.disks) - 1, "size": disk.size, "sector_size": disk.sector_size}

    def do_all(self) -> None:
        room = new_buffer()
        while True:
            job = self.work.get()
            try:
                if job.op == OP_HASH:
                    self.hash(job, room)
                else:
                    self.write(job, room)
            except Exception as error:
                job.fail(error)
            self.work.task_done()

    def hash(self, job: Job, room: memoryview) -> None:
        disk, done = self.disks[job.disk], 0
        disk.check(job.offset, job.length, job.pairs)
        for start, size in job.pairs:
            disk.read_into(room[done : done + size], job.offset + start)
            done += size
        job.answer(STATUS_OK, digest_of(job.length, job.pairs, room[:done]), b"")

    def write(self, job: Job, room: memoryview) -> None:
        disk = self.disks[job.disk]
        disk.check(job.offset, job.length, job.pairs)
        if job.codec == CODEC_ZERO:
            raw = room[:0]
            right = digest_of(job.length, [], raw)
        else:
            raw = self.unpack(job, room)
            right = digest_of(job.length, job.pairs, raw)
        if right != job.digest:
            raise Differs("the block at byte %d arrived with another digest" % job.offset)
        if job.op == OP_WRITE:
            self.put(disk, job, raw)
        job.answer(STATUS_OK, right, b"")

    def unpack(self, job: Job, room: memoryview) -> memoryview:
        assert job.buffer is not None
        payload, size = job.buffer[: job.size], job.raw_size
        if job.codec == CODEC_NONE:
            done, raw = job.size, payload
        elif job.codec == CODEC_ZSTD and self.zstd is not None:
            done, raw = self.zstd.unpack(payload, room[:size]), room[:size]
        elif job.codec == CODEC_ZLIB:
            done, raw = inflate(payload, room[:size]), room[:size]
        else:
            raise ValueError("unknown codec %d" % job.codec)
        if done != size:
            raise Differs("the block at byte %d arrived with another size" % job.offset)
        return raw

    def put(self, disk: Disk, job: Job, raw: memoryview) -> None:
        done = 0
        for start, size in job.pairs:
            if job.codec == CODEC_ZERO:
                disk.zero(job.offset + start, size)
            else:
                disk.write(raw[done : done + size], job.offset + start)
            done += size

    def answer_all(self) -> None:
        try:
            while self.answer_one(self.order.get()):
                pass
        except OSError:
            os._exit(7)  # the line is gone, and the main thread may wait for a buffer for ever

    def answer_one(self, job: "Job | None") -> bool:
        if job is None:
            return False
        job.ready.wait()
        self.line.write(job.words)
        if job.buffer is not None:
            self.buffers.put(job.buffer)
        return True


def main() -> None:
    line = Line(io.open(0, "rb"), 1)
    try:
        Server(line).serve()
    except EOFError:
        pass


if __name__ == "__main__":
    main()
