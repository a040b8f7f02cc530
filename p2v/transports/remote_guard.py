"""Runs on the source, from memory, as root: says who uses its disks, and holds their filesystems still.

Only the standard library of Python 3.4 or newer: no f-strings, no annotated variables. Nothing is written
to a file. It starts with the reader's first words (magic, size !I, JSON); then each line of JSON on standard
input is a question, and each answer is a size (!I) and JSON. `p2v/transports/guard.py` asks.

    freeze: fork the watchdog ──► FIFREEZE, the newest mount first ──► …copy… ──► FITHAW, the other way round

A filesystem that stays frozen takes the machine down with it. So whatever ends the guard thaws: an error, the
end of its input (the line broke, the local side was killed), a signal. And the watchdog, a process of its own
that needs nothing but memory, thaws when its time is up or when the guard is gone, whichever comes first.
"""

import collections.abc
import errno
import fcntl
import json
import mmap
import os
import re
import select
import signal
import stat
import struct
import sys
import time

try:
    import ctypes

    LIBC = ctypes.CDLL(None)  # type: ctypes.CDLL | None
except (ImportError, OSError):
    LIBC = None

MAGIC = b"\x00P2V1\x00"
# include/uapi/linux/fs.h on x86: _IOWR('X', 119, int) and _IOWR('X', 120, int).
FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
LINE_LIMIT = 1048576
UNTOUCHED, FREEZING, FROZEN, FAILED, THAWED = range(5)
HEAD = struct.Struct("!d")
# Seconds between two thaws of a watchdog whose time is up while the guard still freezes.
AGAIN = 0.2
QUIET_ARRAYS = ("clean", "readonly", "read-auto", "inactive")
COPYING_VOLUMES = re.compile("_(rimage|rmeta|mimage|mlog|pvmove)")
ESCAPED = re.compile(r"\\([0-7]{3})")


def text(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(LINE_LIMIT).decode("utf-8", "surrogateescape")
    except OSError:
        return ""


def word(path: str) -> str:
    return text(path).strip()


def entries(path: str) -> "list[str]":
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def node(name: str) -> str:
    """The device file of a kernel name."""
    return "/dev/" + name.replace("!", "/")


def number_of(path: str) -> str:
    """`8:1` of a block device; empty where the path is none."""
    try:
        facts = os.stat(path)
    except OSError:
        return ""
    if not stat.S_ISBLK(facts.st_mode):
        return ""
    return "%d:%d" % (os.major(facts.st_rdev), os.minor(facts.st_rdev))


def folder_of(number: str) -> str:
    """Where the kernel describes the block device with this number; empty where it knows none."""
    link = "/sys/dev/block/" + number
    return os.path.realpath(link) if number and os.path.exists(link) else ""


def disk_folder(folder: str) -> str:
    """That of the whole disk, for one of a partition."""
    return os.path.dirname(folder) if os.path.exists(folder + "/partition") else folder


def numbers_below(number: str) -> "set[str]":
    """The device's whole disk, and every disk that it stands on: through LVM, MD, encryption, loop files."""
    folder = folder_of(number)
    if not folder:
        return set()
    folder = disk_folder(folder)
    found = {word(folder + "/dev")}
    for slave in entries(folder + "/slaves"):
        found |= numbers_below(word(folder + "/slaves/" + slave + "/dev"))
    backing = word(folder + "/loop/backing_file")
    if backing:
        try:
            device = os.stat(backing).st_dev
        except OSError:
            return found
        found |= numbers_below("%d:%d" % (os.major(device), os.minor(device)))
    return found


class Mounted:
    """One filesystem that is mounted, wherever and however often."""

    def __init__(self, number: str, kind: str, source: str, options: str) -> None:
        self.number = number
        self.kind = kind
        self.writable = "rw" in options.split(",")
        self.places = []  # type: list[str]
        self.devices = self.find_devices(source)

    def find_devices(self, source: str) -> "list[str]":
        """The numbers of the block devices that it stands on; those of Btrfs are not in its own number."""
        if not self.number.startswith("0:"):
            return [self.number]
        first = number_of(source) if source.startswith("/") else ""
        for identity in entries("/sys/fs/btrfs"):
            folder = "/sys/fs/btrfs/" + identity + "/devices/"
            members = [word(folder + name + "/dev") for name in entries(folder)]
            if first and first in members:
                return members
        return [first] if first else []

    def disks(self) -> "set[str]":
        return set().union(*[numbers_below(number) for number in self.devices])

    def open(self) -> int:
        """A handle on it: of a place that something else was mounted over, the path leads elsewhere."""
        for place in self.places:
            handle = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            device = os.fstat(handle).st_dev
            found = "%d:%d" % (os.major(device), os.minor(device))
            if found == self.number or (self.number.startswith("0:") and found.startswith("0:")):
                return handle
            os.close(handle)
        raise OSError(errno.ENOENT, "something else is mounted over it")

    def describe(self, names: "dict[str, str]") -> "dict[str, object]":
        """`names` are the paths of the wanted disks by their numbers."""
        folder = folder_of(self.devices[0])
        plain = len(self.devices) == 1 and word(disk_folder(folder) + "/dev") in names
        part = os.path.exists(folder + "/partition")
        return {
            "place": self.places[0],
            "kind": self.kind,
            "disks": sorted(names[number] for number in self.disks() if number in names),
            "start": int(word(folder + "/start") or 0) * 512 if plain and part else 0,
            "length": int(word(folder + "/size") or 0) * 512 if plain else 0,
            "volume": word(folder + "/dm/name") if word(folder + "/dm/uuid").startswith("LVM-") else "",
        }


def all_mounted() -> "list[Mounted]":
    """Every filesystem on a block device, in the order of their first mounts."""
    found = {}  # type: dict[str, Mounted]
    order = []
    for line in text("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        fields, rest = head.split(), tail.split()
        if len(fields) < 6 or len(rest) < 3:
            continue
        if fields[2] not in found:
            found[fields[2]] = Mounted(fields[2], rest[0], unescape(rest[1]), rest[2])
            order.append(found[fields[2]])
        found[fields[2]].places.append(unescape(fields[4]))
    return [one for one in order if one.devices]


def unescape(name: str) -> str:
    return ESCAPED.sub(lambda found: chr(int(found.group(1), 8)), name)


def swaps() -> "set[str]":
    return {number_of(unescape(line.split()[0])) for line in text("/proc/swaps").splitlines()[1:]}


def mounted_on(paths: "list[str]") -> "tuple[dict[str, str], list[Mounted]]":
    """The wanted disks by their numbers, and what is mounted for writing on any of them."""
    names = {number_of(path): path for path in paths}
    return names, [one for one in all_mounted() if one.writable and one.disks() & set(names)]


class Users:
    """Who uses one disk, its partitions, and what stands on them."""

    def __init__(self, known: "set[str]") -> None:
        self.known = known
        self.used = False
        self.unknown = []  # type: list[str]

    def look(self, folder: str) -> bool:
        """Whether somebody has claimed the device, or a partition of it."""
        name = os.path.basename(folder)
        inner = False
        for part in entries(folder):
            if os.path.exists(folder + "/" + part + "/partition"):
                inner = self.look(folder + "/" + part) or inner
        holders = entries(folder + "/holders")
        for holder in holders:
            self.look(os.path.realpath("/sys/class/block/" + holder))
            self.used = self.used or not is_quiet(holder)
        claimed = is_claimed(node(name))
        if word(folder + "/dev") in self.known:
            self.used = True
        elif claimed and not inner and not holders:
            self.used = True
            self.unknown.append(node(name))
        return claimed


def is_claimed(path: str) -> bool:
    """Ask the kernel: it lets one user only claim a device, and mounts, swap and device-mapper all do."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in (errno.ENXIO, errno.ENOMEDIUM)
    return False


def is_quiet(holder: str) -> bool:
    """Whether an array or volume writes nothing to its disks while nobody uses it."""
    folder = "/sys/class/block/" + holder
    if os.path.isdir(folder + "/md"):
        busy = word(folder + "/md/sync_action") not in ("", "idle")
        return not busy and word(folder + "/md/array_state") in QUIET_ARRAYS
    return bool(word(folder + "/dm/uuid")) and not COPYING_VOLUMES.search(word(folder + "/dm/name"))


def usage(disks: "list[str]") -> "dict[str, object]":
    names, mounted = mounted_on(disks)
    known = swaps().union(*[one.devices for one in all_mounted()])
    found = []
    for path in disks:
        users = Users(known)
        folder = folder_of(number_of(path))
        if folder:
            users.look(folder)
        found.append({"path": path, "used": users.used or not folder, "unknown": users.unknown})
    return {"disks": found, "mounted": [one.describe(names) for one in mounted]}


class Window:
    """The time from freezing to thawing: the handles, what became of each, and the watchdog.

    Shared with the watchdog: one byte a filesystem, and before them when the watchdog fired (0 = not yet).
    """

    def __init__(self, mounted: "list[Mounted]", seconds: float) -> None:
        self.failed = []  # type: list[tuple[Mounted, str]]
        self.targets = []  # type: list[tuple[Mounted, int]]
        for one in mounted:
            try:
                self.targets.append((one, one.open()))
            except OSError as error:
                self.failed.append((one, str(error.strerror)))
        self.shared = mmap.mmap(-1, HEAD.size + len(self.targets) + 1)
        self.seconds = seconds
        self.began = time.monotonic()
        self.lost = []  # type: list[str]
        self.pipe = self.start_watchdog()

    def start_watchdog(self) -> int:
        """Returns our end of its pipe. It is nobody's child: what ends a session with all below must miss
        it.
        """
        ours, theirs = os.pipe()
        child = os.fork()
        if child:
            os.close(ours)
            if os.waitpid(child, 0)[1]:
                raise OSError("no watchdog could be started")
            return theirs
        try:
            if os.fork() == 0:
                os.close(theirs)
                self.watch(ours)
                self.thaw_all()
        except BaseException:
            self.thaw_all()
            os._exit(1)
        os._exit(0)

    def watch(self, guard: int) -> None:
        """The watchdog's whole life; `guard` says a byte when all is well, and ends with the guard."""
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        for handle in (0, 1, 2):
            os.close(handle)
        never_kill_me()
        if not self.wait(guard, self.began + self.seconds - time.monotonic()):
            HEAD.pack_into(self.shared, 0, time.monotonic())
            self.thaw_all()
            # The guard may still wait for a filesystem to freeze, and be served after this.
            while not self.wait(guard, AGAIN):
                self.thaw_all()

    def wait(self, guard: int, seconds: float) -> bool:
        """Whether the guard has spoken, or is gone."""
        return bool(select.select([guard], [], [], max(0.0, seconds))[0])

    def thaw_all(self) -> None:
        """A thaw waits for a freeze under way, and that one perhaps for another filesystem: those first."""
        for state in (FROZEN, FREEZING):
            for index, (_, handle) in reversed(list(enumerate(self.targets))):
                if self.shared[HEAD.size + index] == state:
                    try:
                        fcntl.ioctl(handle, FITHAW, 0)
                    except OSError:
                        pass

    def freeze(self) -> None:
        for index, (one, handle) in enumerate(self.targets):
            self.shared[HEAD.size + index] = FREEZING
            try:
                fcntl.ioctl(handle, FIFREEZE, 0)
                self.shared[HEAD.size + index] = FROZEN
            except OSError as error:
                self.shared[HEAD.size + index] = FAILED
                busy = error.errno == errno.EBUSY
                reason = "somebody else has frozen it" if busy else str(error.strerror)
                self.failed.append((one, reason))

    def fired(self) -> bool:
        return bool(HEAD.unpack_from(self.shared, 0)[0])

    def thaw(self) -> None:
        """Thaw what this window froze; `lost` are those that somebody, or the watchdog, thawed before."""
        for index, (one, handle) in reversed(list(enumerate(self.targets))):
            if self.shared[HEAD.size + index] != FROZEN:
                continue
            try:
                fcntl.ioctl(handle, FITHAW, 0)
            except OSError:
                self.lost.append(one.places[0])
            self.shared[HEAD.size + index] = THAWED
        ended = HEAD.unpack_from(self.shared, 0)[0] or time.monotonic()
        self.seconds = ended - self.began
        os.write(self.pipe, b"x")
        self.close()

    def close(self) -> None:
        os.close(self.pipe)
        for _, handle in self.targets:
            os.close(handle)

    def flush(self) -> None:
        """Have what could not be frozen write out its caches: only that, for a frozen one would wait."""
        for index, (_, handle) in enumerate(self.targets):
            if self.shared[HEAD.size + index] == FAILED and LIBC is not None:
                LIBC.syncfs(handle)


def never_kill_me() -> None:
    """Out of memory is when a thaw matters most."""
    try:
        with open("/proc/self/oom_score_adj", "w") as handle:
            handle.write("-1000")
    except OSError:
        pass


class Guard:
    def __init__(self) -> None:
        self.window = None  # type: Window | None

    def serve(self) -> None:
        self.say({"uid": os.geteuid(), "python": list(sys.version_info[:3])}, MAGIC)
        waiting = b""
        while True:
            piece = os.read(0, 65536)
            waiting += piece
            if not piece or len(waiting) > LINE_LIMIT:
                return
            lines = waiting.split(b"\n")
            waiting = lines.pop()
            for line in lines:
                self.say(self.answer(line))

    def say(self, value: "dict[str, object]", before: bytes = b"") -> None:
        payload = json.dumps(value).encode()
        rest = before + struct.pack("!I", len(payload)) + payload
        while rest:
            rest = rest[os.write(1, rest) :]

    def answer(self, line: bytes) -> "dict[str, object]":
        try:
            question = json.loads(line.decode())
            return self.question(question.pop("do"))(**question)
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            return {"error": "%s: %s" % (type(error).__name__, error)}

    def question(self, name: str) -> "collections.abc.Callable[..., dict[str, object]]":
        known = {
            "usage": usage,
            "freeze": self.freeze,
            "flush": self.flush,
            "thaw": self.thaw,
        }  # type: dict[str, collections.abc.Callable[..., dict[str, object]]]
        return known[name]

    def freeze(
        self, disks: "list[str]", seconds: float, only: "list[str] | None" = None
    ) -> "dict[str, object]":
        """Everything that is mounted for writing on these disks, for so many seconds at the most.

        With `only`, what is mounted at these places and nothing else.
        """
        if self.window is not None:
            raise ValueError("frozen already")
        names, mounted = mounted_on(disks)
        mounted = [one for one in mounted if only is None or one.places[0] in only]
        # The dirty pages of hours, before anybody has to wait for them.
        os.sync()
        # One that was mounted later may lie in a file on one that was mounted before.
        self.window = window = Window(mounted[::-1], seconds)
        window.freeze()
        failed = [dict(one.describe(names), reason=reason) for one, reason in window.failed]
        bad = [one for one, _ in window.failed]
        frozen = [one.describe(names) for one in mounted if one not in bad]
        return {"frozen": frozen, "failed": failed, "fired": window.fired()}

    def flush(self) -> "dict[str, object]":
        if self.window is not None:
            self.window.flush()
        return {}

    def thaw(self) -> "dict[str, object]":
        if self.window is None:
            raise ValueError("not frozen")
        window, self.window = self.window, None
        window.thaw()
        return {"seconds": window.seconds, "lost": window.lost, "fired": window.fired()}

    def end(self) -> None:
        if self.window is not None:
            self.thaw()


def on_signal(number: int, frame: object) -> None:
    raise SystemExit(0)


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    # Nobody may be there to take an error message any more.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    guard = Guard()
    try:
        guard.serve()
    finally:
        guard.end()


if __name__ == "__main__":
    main()
