"""Runs on the source, in front of `remote_reader.py`, with which it is sent: what is compressed, and how.

Only the standard library of Python 3.4 or newer.
"""

import threading
import time
import zlib

CODEC_NONE, CODEC_ZLIB, CODEC_ZERO, CODEC_ZSTD = 0, 1, 2, 3
ZEROS = bytearray(1024 * 1024)
WHOLE = {len(ZEROS): ZEROS, 65536: ZEROS[:65536]}
SAMPLE = 131072
TRIAL_EVERY = 32
PIECE = 65536


def is_zero(view: memoryview) -> bool:
    """A bytearray compares with memcmp; a memoryview would go through its bytes one by one."""
    for at in range(0, len(view), len(ZEROS)):
        part = view[at : at + len(ZEROS)]
        zeros = WHOLE.get(len(part)) or ZEROS[: len(part)]
        if zeros != part:
            return False
    return True


def has_many_zeros(view: memoryview) -> bool:
    """Whether a quarter of it or more is zero, counted in pieces of 64 KiB."""
    pieces = range(0, len(view) - PIECE + 1, PIECE)
    zero = sum(1 for at in pieces if not view[at] and is_zero(view[at : at + PIECE]))
    return zero * 4 >= max(1, len(pieces))


class Zstd:
    """The system's own libzstd (systemd, dpkg and rpm bring it); raises OSError where there is none."""

    codec = CODEC_ZSTD

    def __init__(self) -> None:
        import ctypes

        self.ctypes = ctypes
        self.library = ctypes.CDLL("libzstd.so.1")
        self.library.ZSTD_compressBound.argtypes = [ctypes.c_size_t]
        self.library.ZSTD_compressBound.restype = ctypes.c_size_t
        self.library.ZSTD_compress.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
        ]
        self.library.ZSTD_compress.restype = ctypes.c_size_t
        self.library.ZSTD_isError.argtypes = [ctypes.c_size_t]

    def compress(self, raw: memoryview) -> "bytes | memoryview":
        room = self.library.ZSTD_compressBound(len(raw))
        target = bytearray(room)
        source = (self.ctypes.c_char * len(raw)).from_buffer(raw)
        sink = (self.ctypes.c_char * room).from_buffer(target)
        size = self.library.ZSTD_compress(
            self.ctypes.addressof(sink), room, self.ctypes.addressof(source), len(raw), 1
        )
        return raw if self.library.ZSTD_isError(size) else memoryview(target)[:size]


class Zlib:
    codec = CODEC_ZLIB

    def compress(self, raw: memoryview) -> "bytes | memoryview":
        return zlib.compress(raw, 1)


def best_packer() -> "Zstd | Zlib":
    try:
        return Zstd()
    except (ImportError, OSError, AttributeError):
        return Zlib()


class Adaptive:
    """Compresses where compressing a byte takes less time than the time on the wire that it saves.

    The wire's time is that of writes which had to wait: those of a writer that always had the next block. It
    is unknown at first, so that the first blocks go as they are; those with many zeros never do. What
    compression costs and saves is tried on a sample from time to time, and known of each block that was
    compressed.
    """

    def __init__(self, workers: int, packer: "Zstd | Zlib | None" = None) -> None:
        self.workers = workers
        self.made = packer
        self.lock = threading.Lock()
        self.wire = 0.0
        self.busy = 0
        self.cost, self.ratio = 0.0, 1.0
        self.untried = TRIAL_EVERY

    @property
    def packer(self) -> "Zstd | Zlib":
        if self.made is None:  # not before it is needed: ctypes takes 20 ms to load
            self.made = best_packer()
        return self.made

    def wrote(self, size: int, seconds: float, waited: bool) -> None:
        """One write: `waited` says that the writer waited for the block, not the block for the writer."""
        if size < SAMPLE:
            return
        self.busy = 0 if waited else self.busy + 1
        if self.busy >= 2:
            self.wire = self.mix(self.wire, seconds / size)
        elif waited:
            self.wire *= 0.99

    def mix(self, old: float, new: float) -> float:
        return old + (new - old) * 0.25 if old else new

    def pack(self, raw: memoryview) -> "tuple[int, bytes | memoryview]":
        if has_many_zeros(raw):  # cheap to compress, whatever the wire; says nothing of other blocks
            small = self.packer.compress(raw)
        elif self.pays(raw):
            small = self.attempt(raw)
        else:
            return CODEC_NONE, raw
        if len(small) < len(raw) * 0.9:
            return self.packer.codec, small
        return CODEC_NONE, raw

    def pays(self, raw: memoryview) -> bool:
        if not self.wire or len(raw) < 512:
            return False
        with self.lock:
            self.untried += 1
            trial = self.untried > TRIAL_EVERY
            self.untried = 0 if trial else self.untried
        if trial:
            middle = max(0, len(raw) - SAMPLE) // 2
            self.attempt(raw[middle : middle + SAMPLE])
        return self.cost / self.workers < self.wire * (1 - self.ratio)

    def attempt(self, raw: memoryview) -> "bytes | memoryview":
        started = time.monotonic()
        small = self.packer.compress(raw)
        seconds = time.monotonic() - started
        with self.lock:
            self.cost = self.mix(self.cost, seconds / len(raw))
            self.ratio = self.mix(self.ratio, min(1.0, float(len(small)) / len(raw)))
        return small
