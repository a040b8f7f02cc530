"""Runs on the source, from memory: sent over the SSH channel, never written to its disk.

Only the standard library of Python 3.4 or newer: no f-strings, no annotated variables. Disks are opened
read-only. It answers framed requests on standard input with framed responses on standard output until it is
told to quit or the line ends; `p2v/transports/frames.py` holds the same table for the local side and a test
compares the two.

Request   !BIHQII  op, tag, disk, offset (bytes), length (bytes), count; then `count` pairs !II (start in the
                   block, length), or for OPEN `length` bytes of path, for COMPOSE as many of JSON: the path
                   of a disk, and a list of (start, length, other path, offset there) that are read instead.
Response  !BIBII32s  status, tag, codec, raw size, payload size, SHA-256; then the payload.
READ      payload = the bytes of the pairs, one after the other; digest = SHA-256 of the whole block, in which
          everything outside the pairs is zero.
HASH      the digest alone.

    requests ──► main thread: a buffer for each ──► workers: read, digest, compress ──► one writer, in order

Answers come in the order of the requests. Sent in front of this, `remote_line.py` has the line and the
memory, `remote_packing.py` the compression.
"""

import bisect
import collections.abc
import errno
import hashlib
import io
import json
import mmap
import os
import queue
import stat
import struct
import sys
import threading
import time

if __name__ != "__main__":  # where it runs, it stands behind the others, whose names are here then
    from p2v.transports.remote_line import Buffers, Line
    from p2v.transports.remote_packing import CODEC_NONE, CODEC_ZERO, WHOLE, ZEROS, Adaptive, is_zero

MAGIC = b"\x00P2V1\x00"
REQUEST = struct.Struct("!BIHQII")
PAIR = struct.Struct("!II")
RESPONSE = struct.Struct("!BIBII32s")
OP_OPEN, OP_READ, OP_HASH, OP_SYNC, OP_QUIT, OP_COMPOSE = 1, 2, 3, 5, 6, 7
STATUS_OK, STATUS_ERROR, STATUS_READ_ERROR = 0, 1, 2
MAX_LENGTH = 16 * 1024 * 1024
MAX_COUNT = 65536
NO_DIGEST = b"\x00" * 32
# Of a sparse block the zeros cost most to digest; blocks with little in them are often the same (bitmaps).
SMALL = 65536
# Blocks with no more than this are read by the main thread, and their answers sent so many bytes at a time:
# to wake another thread, or sshd, for each would cost more than the block.
INLINE = 16384
TOGETHER = 65536
REMEMBERED = 64
WORKERS = min(4, os.cpu_count() or 1)
BUFFERS = WORKERS + 4
# How Linux says that a sector is there and cannot be read; a bad medium is ENODATA to a direct read.
READ_ERRORS = (errno.EIO, errno.ENODATA, errno.EREMOTEIO, errno.EILSEQ, errno.EBADMSG, errno.ETIMEDOUT)


class Disk:
    """One disk, read past the page cache where the kernel allows it.

    A mounted filesystem writes through the cache of its partition, not through that of the whole disk: a
    page of the whole disk that was cached once would be served stale for ever. O_DIRECT does not look there.
    An image file has one cache only.
    """

    def __init__(self, path: str) -> None:
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.direct = False
        self.moving = threading.Lock()
        self.regular = stat.S_ISREG(os.fstat(self.handle).st_mode)
        if self.regular:
            self.read_no_further()
        else:
            self.past_the_cache(path)
        self.size = os.lseek(self.handle, 0, os.SEEK_END)

    def read_no_further(self) -> None:
        """What the kernel reads ahead into a hole is data from then on, as far as it tells."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, 0, 0, os.POSIX_FADV_RANDOM)

    def past_the_cache(self, path: str) -> None:
        try:
            direct = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return
        os.close(self.handle)
        self.handle, self.direct = direct, True

    def fill(self, view: memoryview, offset: int, length: int, pairs: "list[tuple[int, int]]") -> int:
        """Read the pairs into the view, one after the other; returns their bytes."""
        self.check(offset, length, pairs)
        done = 0
        for start, size in pairs:
            self.read_into(view[done : done + size], offset + start)
            done += size
        return done

    def check(self, offset: int, length: int, pairs: "list[tuple[int, int]]") -> None:
        end = 0
        for start, size in pairs:
            if start < end or start + size > length or offset + start + size > self.size:
                raise ValueError("request outside the block or the disk")
            end = start + size

    def is_empty(self, offset: int, length: int, pairs: "list[tuple[int, int]]") -> bool:
        """Whether an image file has nothing in all of the pairs, so that there is nothing to read."""
        if not self.regular:
            return False
        self.check(offset, length, pairs)
        return all(self.is_hole(offset + start, size) for start, size in pairs)

    def read_into(self, view: memoryview, offset: int) -> None:
        if not self.direct and not self.regular and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self.handle, offset, len(view), os.POSIX_FADV_DONTNEED)
        if self.regular and self.is_hole(offset, len(view)):
            self.clear(view)
            return
        while len(view):
            got = self.read_once(view, offset)
            if got == 0:
                raise OSError(errno.EIO, "the disk ended early at byte %d" % offset)
            offset, view = offset + got, view[got:]

    def is_hole(self, offset: int, size: int) -> bool:
        """Whether an image file has nothing there; reading it would only fill the page cache with zeros."""
        try:
            with self.moving:
                return os.lseek(self.handle, offset, os.SEEK_DATA) >= offset + size
        except OSError as error:
            return error.errno == errno.ENXIO and offset + size <= self.size

    def clear(self, view: memoryview) -> None:
        for at in range(0, len(view), len(ZEROS)):
            part = view[at : at + len(ZEROS)]
            part[:] = WHOLE.get(len(part)) or ZEROS[: len(part)]

    def read_once(self, view: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self.handle, [view], offset)
        # Python before 3.7: readinto through an unbuffered file keeps the aligned buffer for O_DIRECT.
        with self.moving, os.fdopen(os.dup(self.handle), "rb", 0) as plain:
            os.lseek(self.handle, offset, os.SEEK_SET)
            return plain.readinto(view)


class Composed(Disk):
    """A disk of which some pieces are read from other devices: logical volumes from their snapshots."""

    def __init__(self, path: str, pieces: "list[tuple[int, int, str, int]]") -> None:
        Disk.__init__(self, path)
        self.pieces = sorted(pieces)
        self.starts = [piece[0] for piece in self.pieces]
        self.others = {name: Disk(name) for _, _, name, _ in self.pieces}

    def read_into(self, view: memoryview, offset: int) -> None:
        while len(view):
            disk, at, length = self.locate(offset)
            part = view[: min(len(view), length)]
            if disk is None:
                Disk.read_into(self, part, offset)
            else:
                disk.read_into(part, at)
            offset, view = offset + len(part), view[len(part) :]

    def is_empty(self, offset: int, length: int, pairs: "list[tuple[int, int]]") -> bool:
        return False

    def locate(self, offset: int) -> "tuple[Disk | None, int, int]":
        """Which disk holds the byte, where, and how many bytes go on there; None is this disk itself."""
        index = bisect.bisect_right(self.starts, offset)
        if index:
            start, length, name, at = self.pieces[index - 1]
            if offset < start + length:
                return self.others[name], at + offset - start, start + length - offset
        end = self.starts[index] if index < len(self.starts) else self.size
        return None, offset, end - offset


class Digester:
    """SHA-256 of zero-filled blocks. Remembers those with little in them, by their whole content."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.known = {}  # type: dict[tuple[int, tuple[tuple[int, int], ...], bytes], bytes]

    def digest(self, length: int, pairs: "list[tuple[int, int]]", raw: memoryview, zero: bool) -> bytes:
        if zero:
            pairs, raw = [], raw[:0]
        if len(raw) > SMALL or length <= SMALL:
            return self.compute(length, pairs, raw)
        key = (length, tuple(pairs), bytes(raw))
        found = self.known.get(key)
        if found is None:
            found = self.compute(length, pairs, raw)
            with self.lock:
                if len(self.known) >= REMEMBERED:
                    self.known.clear()
                self.known[key] = found
        return found

    def compute(self, length: int, pairs: "list[tuple[int, int]]", raw: memoryview) -> bytes:
        digest = hashlib.sha256()
        end, done = 0, 0
        for start, size in pairs:
            self.zeros(digest, start - end)
            digest.update(raw[done : done + size])
            end, done = start + size, done + size
        self.zeros(digest, length - end)
        return digest.digest()

    def zeros(self, digest: "hashlib._Hash", size: int) -> None:
        while size > 0:
            digest.update(memoryview(ZEROS)[: min(size, len(ZEROS))])
            size -= len(ZEROS)


class Job:
    """One answer on its way: the bytes in their buffer, then what is sent."""

    def __init__(self, tag: int, length: int, pairs: "list[tuple[int, int]]") -> None:
        self.tag = tag
        self.length = length
        self.pairs = pairs
        self.wanted = False
        self.buffer = None  # type: memoryview | None
        self.head = b""
        self.payload = b""  # type: bytes | memoryview
        self.ready = threading.Event()

    def answer(
        self, status: int, codec: int, raw_size: int, digest: bytes, payload: "bytes | memoryview"
    ) -> None:
        self.head = RESPONSE.pack(status, self.tag, codec, raw_size, len(payload), digest)
        self.payload = payload
        self.ready.set()

    def fail(self, error: Exception) -> None:
        failed_read = isinstance(error, OSError) and error.errno in READ_ERRORS
        text = str(error).encode("utf-8", "replace")[:2000]
        self.answer(
            STATUS_READ_ERROR if failed_read else STATUS_ERROR, CODEC_NONE, len(text), NO_DIGEST, text
        )


class Server:
    def __init__(self, line: Line) -> None:
        self.line = line
        self.disks = []  # type: list[Disk]
        self.digester = Digester()
        self.adaptive = Adaptive(WORKERS)
        self.buffers = Buffers(line, BUFFERS, MAX_LENGTH)
        self.desk = memoryview(mmap.mmap(-1, INLINE))
        self.small = bytearray()
        self.work = queue.Queue()  # type: queue.Queue[tuple[Job, Disk, int]]
        self.order = queue.Queue(256)  # type: queue.Queue[Job | None]
        self.writer = self.start(self.write)
        for _ in range(WORKERS):
            self.start(self.read_and_pack)

    def start(self, call: "collections.abc.Callable[[], None]") -> threading.Thread:
        thread = threading.Thread(target=call)
        thread.daemon = True
        thread.start()
        return thread

    def serve(self) -> None:
        hello = {
            "python": list(sys.version_info[:3]),
            "uid": os.geteuid(),
            "codecs": ["none", "zlib", "zero", "zstd"],
        }
        payload = json.dumps(hello).encode()
        self.line.write(MAGIC + struct.pack("!I", len(payload)), payload)
        while self.serve_one():
            pass
        self.order.put(None)
        self.writer.join()

    def serve_one(self) -> bool:
        op, tag, disk, offset, length, count = REQUEST.unpack(self.line.read(REQUEST.size))
        if length > MAX_LENGTH or count > MAX_COUNT:
            raise ValueError("request too large")
        opens = op in (OP_OPEN, OP_COMPOSE)
        extra = self.line.read(length if opens else PAIR.size * count)
        if op == OP_QUIT:
            return False
        job = Job(tag, length, [] if opens else list(PAIR.iter_unpack(extra)))
        try:
            self.dispatch(job, op, disk, offset, extra)
        except (OSError, ValueError, IndexError) as error:
            job.fail(error)
        self.order.put(job)
        return True

    def dispatch(self, job: Job, op: int, disk: int, offset: int, extra: bytes) -> None:
        if op == OP_OPEN:
            self.json(job, self.add(Disk(extra.decode("utf-8", "surrogateescape"))))
        elif op == OP_COMPOSE:
            self.json(job, self.add(Composed(*json.loads(extra.decode()))))
        elif op in (OP_READ, OP_HASH):
            self.read(job, self.disks[disk], offset, op == OP_READ)
        elif op == OP_SYNC:
            os.sync()
            self.json(job, {})
        else:
            raise ValueError("unknown request %d" % op)

    def json(self, job: Job, value: object) -> None:
        payload = json.dumps(value).encode()
        job.answer(STATUS_OK, CODEC_NONE, len(payload), NO_DIGEST, payload)

    def add(self, disk: Disk) -> "dict[str, object]":
        self.disks.append(disk)
        return {"disk": len(self.disks) - 1, "size": disk.size, "direct": disk.direct}

    def read(self, job: Job, disk: Disk, offset: int, wanted: bool) -> None:
        if disk.is_empty(offset, job.length, job.pairs):
            digest = self.digester.digest(job.length, [], memoryview(b""), True)
            size = sum(size for _, size in job.pairs) if wanted else 0
            job.answer(STATUS_OK, CODEC_ZERO if wanted else CODEC_NONE, size, digest, b"")
            return
        job.wanted = wanted
        if sum(size for _, size in job.pairs) <= INLINE:
            self.finish(job, disk, offset, self.desk)
            job.payload = bytes(job.payload)
        else:
            job.buffer = self.buffers.take()
            self.work.put((job, disk, offset))

    def read_and_pack(self) -> None:
        while True:
            job, disk, offset = self.work.get()
            assert job.buffer is not None
            try:
                self.finish(job, disk, offset, job.buffer)
            except Exception as error:
                job.fail(error)

    def finish(self, job: Job, disk: Disk, offset: int, memory: memoryview) -> None:
        raw = memory[: disk.fill(memory, offset, job.length, job.pairs)]
        zero = is_zero(raw)
        digest = self.digester.digest(job.length, job.pairs, raw, zero)
        if not job.wanted:
            job.answer(STATUS_OK, CODEC_NONE, 0, digest, b"")
        elif zero:
            job.answer(STATUS_OK, CODEC_ZERO, len(raw), digest, b"")
        else:
            codec, payload = self.adaptive.pack(raw)
            job.answer(STATUS_OK, codec, len(raw), digest, payload)

    def write(self) -> None:
        try:
            while self.write_one(self.next()):
                pass
        except OSError:
            os._exit(7)  # the line is gone, and the main thread may wait for a buffer for ever

    def next(self) -> "Job | None":
        """Waits for one, but not while small answers wait to be sent."""
        if self.small:
            try:
                return self.order.get_nowait()
            except queue.Empty:
                self.flush()
        return self.order.get()

    def write_one(self, job: "Job | None") -> bool:
        if job is None:
            self.flush()
            return False
        waited = not job.ready.is_set()
        if job.buffer is None and not waited and len(job.payload) <= INLINE:
            self.small += job.head
            self.small += job.payload
            if len(self.small) >= TOGETHER:
                self.flush()
            return True
        self.flush()
        job.ready.wait()
        started = time.monotonic()
        self.buffers.send(job.head, job.payload, job.buffer)
        self.adaptive.wrote(len(job.payload), time.monotonic() - started, waited)
        return True

    def flush(self) -> None:
        if self.small:
            self.line.write(bytes(self.small), b"")
            self.small.clear()


def main() -> None:
    line = Line(io.open(0, "rb"), 1)
    try:
        Server(line).serve()
    except EOFError:
        pass


if __name__ == "__main__":
    main()
