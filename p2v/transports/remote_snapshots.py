"""Runs on the source, from memory, as root: snapshots of logical volumes, which go whatever happens.

Only the standard library of Python 3.4 or newer: no f-strings, no annotated variables. Nothing is written
to a file: LVM keeps no backup of its metadata for what is gone again in a while. It starts with the reader's
first words (magic, size !I, JSON); then each line of JSON on standard input is a question, and each answer is
a size (!I) and JSON. `p2v/transports/snapshots.py` asks.

Before the first snapshot is made, a process of its own is started that removes all of them when this one is
gone, however it went. What even that could not do, because the source went down, the next capture does: a
name says which process it belonged to.
"""

import collections.abc
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time

MAGIC = b"\x00P2V1\x00"
LINE_LIMIT = 1048576
NAME = re.compile(r"p2v-([0-9]+)-([0-9]+)-[0-9]+$")
# LVM would write to /etc/lvm, on a filesystem that may stand still.
QUIET = ["--config", "backup { backup=0 archive=0 }"]
TABLE = ["--noheadings", "--separator", "|", "--units", "b", "--nosuffix"]
SECONDS = 60.0
# How long a snapshot may be open still: the readers of a line that broke end a little later.
BUSY_SECONDS = 120.0
FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def lvm(*words: str) -> str:
    """What a command of LVM says. Raises OSError where it fails, does not end, or is not there."""
    folders = os.pathsep.join([os.environ.get("PATH", ""), FOLDERS])
    child = subprocess.Popen(
        list(words) + QUIET,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"LC_ALL": "C", "PATH": folders},
    )
    try:
        said, errors = child.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired as error:
        # Never SIGKILL: it may hold a volume suspended, which it lets go before it heeds this.
        child.terminate()
        raise OSError("%s did not finish within %d s" % (words[0], SECONDS)) from error
    if child.returncode:
        raise OSError("%s: %s" % (words[0], errors.decode("utf-8", "replace").strip()[-500:]))
    return said.decode("utf-8", "replace")


def rows(*words: str) -> "list[list[str]]":
    return [[cell.strip() for cell in line.split("|")] for line in lvm(*words).splitlines() if line.strip()]


def mapped(group: str, name: str) -> str:
    """The name that device-mapper gives a volume."""
    return group.replace("-", "--") + "-" + name.replace("-", "--")


def facts() -> "dict[str, object]":
    """Groups and volumes; a volume is plain where all its segments are linear and it is no snapshot."""
    groups = [
        {
            "name": name,
            "uuid": uuid,
            "free": int(free),
            "extent_size": int(extent),
            "revision": int(revision),
            "usable": attributes[0] == "w" and attributes[2:4] == "--" and attributes[5] == "-",
        }
        for name, uuid, free, extent, revision, attributes in rows(
            "vgs", "-o", "vg_name,vg_uuid,vg_free,vg_extent_size,vg_seqno,vg_attr", *TABLE
        )
    ]
    volumes = collections.OrderedDict()  # type: collections.OrderedDict[str, dict[str, object]]
    for group, name, size, kind, attributes in rows(
        "lvs", "--segments", "-o", "vg_name,lv_name,lv_size,segtype,lv_attr", *TABLE
    ):
        one = volumes.setdefault(
            mapped(group, name), {"group": group, "name": name, "size": int(size), "plain": True}
        )
        one["plain"] = bool(one["plain"]) and kind == "linear" and attributes[0] in "-owO"
    return {"groups": groups, "volumes": [dict(one, mapped=name) for name, one in volumes.items()]}


def create_snapshot(group: str, origin: str, name: str, size: int) -> None:
    """Read-only; `size` is the bytes for what is written to the origin meanwhile."""
    place = "%s/%s" % (group, origin)
    options = ("--yes", "--snapshot", "--permission", "r", "--name", name, "--size", "%db" % size, place)
    lvm("lvcreate", *options)


def started(pid: str) -> str:
    """When a process began (clock ticks since the start of the machine); empty where there is none."""
    try:
        with open("/proc/%s/stat" % pid) as handle:
            return handle.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def remove(group: str, name: str) -> None:
    """Raises OSError where it cannot be removed within some time."""
    end = time.monotonic() + BUSY_SECONDS
    while exists(group, name):
        try:
            lvm("lvremove", "-f", group + "/" + name)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def exists(group: str, name: str) -> bool:
    return any(row == [group, name] for row in rows("lvs", "-o", "vg_name,lv_name", *TABLE))


class Snapshots:
    """Those of this run, as (group, name), in the order in which they were asked for."""

    def __init__(self) -> None:
        self.made = []  # type: list[tuple[str, str]]
        self.pipe = -1

    def start_keeper(self) -> None:
        """It is nobody's child, so that what ends a session with all below misses it."""
        ours, self.pipe = os.pipe()
        child = os.fork()
        if child:
            os.close(ours)
            if os.waitpid(child, 0)[1]:
                raise OSError("no process could be started that removes the snapshots")
            return
        try:
            if os.fork() == 0:
                os.close(self.pipe)
                self.keep(ours)
        except BaseException:
            os._exit(1)
        os._exit(0)

    def keep(self, guarded: int) -> None:
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(null, handle)
        select.select([guarded], [], [])
        if not os.read(guarded, 1):
            self.remove_all()

    def remove_all(self) -> "list[str]":
        """Returns those that are still there."""
        left = []
        for group, name in reversed(self.made):
            try:
                remove(group, name)
            except OSError:
                left.append(group + "/" + name)
        return left


class Keeper:
    def __init__(self) -> None:
        self.snapshots = None  # type: Snapshots | None

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
        except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
            return {"error": "%s: %s" % (type(error).__name__, error)}

    def question(self, name: str) -> "collections.abc.Callable[..., dict[str, object]]":
        known = {
            "facts": facts,
            "clean": self.clean,
            "create": self.create,
            "remove": self.remove,
        }  # type: dict[str, collections.abc.Callable[..., dict[str, object]]]
        return known[name]

    def clean(self) -> "dict[str, object]":
        """Remove what an earlier run left behind that went down with the source."""
        found = []
        for group, name, attributes in rows("lvs", "-o", "vg_name,lv_name,lv_attr", *TABLE):
            owner = NAME.match(name)
            if owner and attributes[0] in "sS" and started(owner.group(1)) != owner.group(2):
                remove(group, name)
                found.append(group + "/" + name)
        return {"removed": found}

    def create(self, volumes: "list[tuple[str, str, int]]") -> "dict[str, object]":
        """A snapshot of each (group, name, bytes for what is written meanwhile), one after the other."""
        if self.snapshots is not None:
            raise ValueError("there are snapshots already")
        revisions = {row[0]: int(row[1]) for row in rows("vgs", "-o", "vg_name,vg_seqno", *TABLE)}
        owner = "p2v-%d-%s-" % (os.getpid(), started("self"))
        self.snapshots = Snapshots()
        self.snapshots.made = [(group, owner + str(at)) for at, (group, _, _) in enumerate(volumes)]
        self.snapshots.start_keeper()
        moments = []
        for index, (group, origin, size) in enumerate(volumes):
            name = self.snapshots.made[index][1]
            create_snapshot(group, origin, name, size)
            moments.append(time.monotonic())
        return {
            "devices": ["/dev/mapper/" + mapped(*one) for one in self.snapshots.made],
            "revisions": revisions,
            "span": moments[-1] - moments[0] if moments else 0.0,
        }

    def remove(self) -> "dict[str, object]":
        """Remove them; `overflown` are those whose content was lost, because more was written than fits."""
        if self.snapshots is None:
            raise ValueError("there are no snapshots")
        names = ["%s/%s" % one for one in self.snapshots.made]
        states = {
            "%s/%s" % (group, name): (attributes, percent)
            for group, name, attributes, percent in rows(
                "lvs", "-o", "vg_name,lv_name,lv_attr,snap_percent", *TABLE
            )
        }
        overflown = [name for name in names if is_lost(*states.get(name, ("S", "")))]
        left = self.snapshots.remove_all()
        if not left:
            os.write(self.snapshots.pipe, b"x")
        os.close(self.snapshots.pipe)
        self.snapshots = None
        return {
            "overflown": overflown,
            "left": left,
            "fill": [states.get(name, ("", ""))[1] for name in names],
        }


def is_lost(attributes: str, percent: str) -> bool:
    """`I` and `S` stand for a snapshot that is invalid (lvs(8), lv_attr)."""
    return attributes[:1] == "S" or attributes[4:5] == "I" or percent.startswith("100")


def on_signal(number: int, frame: object) -> None:
    raise SystemExit(0)


def main() -> None:
    for number in (signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    # Whatever it leaves, the keeper removes.
    Keeper().serve()


if __name__ == "__main__":
    main()
