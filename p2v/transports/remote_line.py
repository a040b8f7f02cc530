"""Runs on the source, in front of `remote_reader.py`, with which it is sent: the line to sshd, and the
memory.

Only the standard library of Python 3.4 or newer. What is read and what is sent is the same memory where the
kernel allows it (a pipe, Linux 3.17, Python 3.10): the pipe then holds the pages themselves, not copies.
"""

import array
import collections
import collections.abc
import errno
import fcntl
import io
import mmap
import os
import queue
import time

F_SETPIPE_SZ = 1031  # linux/fcntl.h; fcntl has it since Python 3.10
FIONREAD = 0x541B  # asm-generic/ioctls.h
ROOM = 1024 * 1024
SHORTEST, LONGEST = 0.0002, 0.02
NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.EOPNOTSUPP)


def widen(sink: int) -> bool:
    """Make a pipe hold 1 MiB instead of 64 KiB, and not wait where it is full; False for what is no pipe."""
    try:
        fcntl.fcntl(sink, F_SETPIPE_SZ, ROOM)
        fcntl.fcntl(sink, fcntl.F_SETFL, fcntl.fcntl(sink, fcntl.F_GETFL) | os.O_NONBLOCK)
    except OSError:
        return False
    return True


class Line:
    """Exact reads and writes on the two ends of the SSH channel. `sent` counts bytes.

    sshd takes 32 KiB at a time. A writer that waits for room in the pipe is woken for each of them, which
    costs more than the bytes: this one sleeps for about as long as half of the pipe takes to go.
    """

    def __init__(self, source: io.BufferedReader, sink: int) -> None:
        self.source = source
        self.sink = sink
        self.wide = widen(sink)
        self.sent = 0
        self.pause = SHORTEST

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        if len(data) != size:
            raise EOFError("the line ended")
        return data

    def write(self, head: bytes, payload: "bytes | memoryview") -> None:
        done = self.put(os.writev, self.sink, [head, payload]) - len(head)
        if done < 0:
            self.write(head[done:], payload)
            return
        rest = memoryview(payload)[done:]
        while rest:
            rest = rest[self.put(os.write, self.sink, rest) :]

    def splice(self, handle: int, size: int) -> bool:
        """The first `size` bytes of a file, which must not change before `taken` says so.

        False where the system does not allow it; nothing was sent then.
        """
        at = 0
        while at < size:
            try:
                at += self.put(os.splice, handle, self.sink, size - at, at)
            except OSError as error:
                if at or error.errno not in NOT_HERE:
                    raise
                return False
        return True

    def put(self, call: "collections.abc.Callable[..., int]", *words: object) -> int:
        slept = False
        while True:
            try:
                done = call(*words)
            except BlockingIOError:
                time.sleep(self.pause)
                slept = True
                continue
            if slept and done < ROOM // 4:
                self.pause = min(self.pause * 2, LONGEST)
            elif slept and done > ROOM // 2:
                self.pause = max(self.pause / 2, SHORTEST)
            self.sent += done
            return done

    def taken(self) -> int:
        """How much of what was sent sshd has taken out of the pipe."""
        left = array.array("i", [0])
        fcntl.ioctl(self.sink, FIONREAD, left)
        return self.sent - left[0]


class Buffers:
    """`count` pieces of memory of `size` bytes, which go round: memory does not grow.

    Those that were sent as pages are free again when sshd has taken all of them.
    """

    def __init__(self, line: Line, count: int, size: int) -> None:
        self.line = line
        self.free = queue.Queue()  # type: queue.Queue[memoryview]
        self.handles = {}  # type: dict[int, int]
        self.lent = collections.deque()  # type: collections.deque[tuple[memoryview, int]]
        for _ in range(count):
            self.free.put(self.make(size))

    def make(self, size: int) -> memoryview:
        if self.line.wide and hasattr(os, "splice") and hasattr(os, "memfd_create"):
            try:
                handle = os.memfd_create("p2v")
                os.ftruncate(handle, size)
                view = memoryview(mmap.mmap(handle, size, mmap.MAP_SHARED))
            except OSError:
                pass
            else:
                self.handles[id(view)] = handle
                return view
        return memoryview(mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    def take(self) -> memoryview:
        """Waits for one that is free; some always are, or will be, for `send` keeps but one."""
        return self.free.get()

    def send(self, head: bytes, payload: "bytes | memoryview", buffer: "memoryview | None") -> None:
        """An answer; `buffer` is the one that it was made from, if any, and not to be used any more."""
        # No less than the pipe holds: when the next of these is in it, this one is out of it.
        handle = self.handles.get(id(buffer)) if len(payload) >= ROOM else None
        if buffer is not None and handle is not None and starts(buffer, payload):
            self.line.write(head, b"")
            if self.line.splice(handle, len(payload)):
                self.lent.append((buffer, self.line.sent))
                self.collect()
                return
            self.handles.clear()  # then none of them
            head = b""
        self.line.write(head, payload)
        if buffer is not None:
            self.free.put(buffer)
        self.collect()

    def collect(self) -> None:
        if self.lent:
            taken = self.line.taken()
            while self.lent and self.lent[0][1] <= taken:
                self.free.put(self.lent.popleft()[0])


def starts(buffer: memoryview, payload: "bytes | memoryview") -> bool:
    """Whether the payload is the start of the buffer itself, and not something that was made from it."""
    return isinstance(payload, memoryview) and payload.obj is buffer.obj
