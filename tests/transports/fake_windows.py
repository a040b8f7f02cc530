"""What answers behind sshd like a Windows: its command line, its PowerShell, and what our script does there.

Stands alone, and knows frames and answers from their description, not from the product: `sshd` runs it in the
place of every command (ForceCommand) with the file that says what kind of Windows it is. Disks are files, the
snapshot of a volume is a copy of the files' bytes, made when it is asked for.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import struct
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

State = dict[str, Any]
Opened = tuple[int, int, list[tuple[int, int, int, int]]]

OUT, IN = 1, 0
SHADOW = "\\\\?\\GLOBALROOT\\Device\\HarddiskVolumeShadowCopy%d"


def log(state: State, text: str) -> None:
    with Path(state["log"]).open("a") as handle:
        handle.write(text + "\n")


def send(data: bytes) -> None:
    while data:
        data = data[os.write(OUT, data) :]


def take(size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = os.read(IN, size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def answer(value: object, before: bytes = b"") -> None:
    payload = json.dumps(value).encode()
    send(before + struct.pack(">I", len(payload)) + payload)


class Disks:
    """The devices of this Windows, by their names."""

    def __init__(self, state: State) -> None:
        self.state = state

    def open(self, name: str) -> tuple[int, int]:
        """A file handle and a size."""
        if name.startswith("bitmap:"):
            return self.bitmap(name[7:])
        known = {**self.state["disks"], **self.shadows()}
        if name not in known:
            raise OSError("The system cannot find the file specified")
        return self.file(known[name])

    def file(self, path: str) -> tuple[int, int]:
        return os.open(path, os.O_RDONLY), Path(path).stat().st_size

    def shadows(self) -> dict[str, str]:
        made = Path(self.state["shadows"]).glob("shadow*.img")
        return {SHADOW % int(path.stem.removeprefix("shadow")): str(path) for path in made}

    def bitmap(self, name: str) -> tuple[int, int]:
        self.shadows()[name]
        if not self.state.get("bitmap"):
            raise OSError("The request is not supported")
        return self.file(self.state["bitmap"])


class Reader:
    """Requests !BIHQII with pairs !II, responses !BIBII32s."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.disks = Disks(state)
        self.opened: list[Opened] = []
        self.count = 0

    def serve(self) -> None:
        while True:
            op, tag, disk, offset, length, pairs = struct.unpack(">BIHQII", take(23))
            if op == 6:
                return
            extra = take(length if op in (1, 7) else 8 * pairs)
            status = 0
            try:
                codec, raw, digest, payload = self.answer(op, disk, offset, length, extra)
            except (ReadFailed, OSError, KeyError, ValueError) as error:
                status = 2 if isinstance(error, ReadFailed) else 1
                payload = str(error).encode()
                codec, raw, digest = 0, len(payload), bytes(32)
            send(struct.pack(">BIBII32s", status, tag, codec, raw, len(payload), digest) + payload)

    def answer(
        self, op: int, disk: int, offset: int, length: int, extra: bytes
    ) -> tuple[int, int, bytes, bytes]:
        """Codec, raw size, digest, payload."""
        if op in (2, 3):
            return self.block(op, disk, offset, length, list(struct.iter_unpack(">II", extra)))
        said = b"{}" if op == 5 else self.open(op, extra)
        return 0, len(said), bytes(32), said

    def open(self, op: int, extra: bytes) -> bytes:
        name, pieces = json.loads(extra) if op == 7 else (extra.decode(), [])
        handle, size = self.disks.open(name)
        others = [(at, n, self.disks.open(other)[0], there) for at, n, other, there in pieces]
        self.opened.append((handle, size, others))
        return json.dumps({"disk": len(self.opened) - 1, "size": size}).encode()

    def block(
        self, op: int, disk: int, offset: int, length: int, pairs: list[tuple[int, int]]
    ) -> tuple[int, int, bytes, bytes]:
        self.count += 1
        fault(self.state, f"block {self.count}")
        whole = bytearray(length)
        for start, size in pairs:
            whole[start : start + size] = read(self.opened[disk], offset + start, size, self.state)
        digest = hashlib.sha256(whole).digest()
        data = b"".join(whole[start : start + size] for start, size in pairs)
        if op == 3:
            return 0, 0, digest, b""
        if not data.strip(b"\0"):
            return 2, len(data), digest, b""
        small = zlib.compress(data, 1)
        return (1, len(data), digest, small) if len(small) < len(data) * 0.9 else (0, len(data), digest, data)


class ReadFailed(Exception):
    pass


def read(disk: Opened, offset: int, size: int, state: State) -> bytes:
    fd, whole, pieces = disk
    if offset + size > whole:
        raise ValueError("request outside the block or the disk")
    found = bytearray(os.pread(fd, size, offset))
    for start, length, other, there in pieces:
        first, last = max(start, offset), min(start + length, offset + size)
        if first < last:
            found[first - offset : last - offset] = os.pread(other, last - first, there + first - start)
    bad = state.get("bad", -1)
    if not pieces and offset <= bad < offset + size:
        raise ReadFailed("Data error (cyclic redundancy check)")
    return bytes(found)


def fault(state: State, moment: str) -> None:
    """What goes wrong, once: at a moment that was said before, or now."""
    at, now = state.get("fault", ""), Path(state["log"] + ".now")
    if moment.startswith("block") and now.exists():
        what = now.read_text()
        now.unlink()
    elif at.endswith("@" + moment) and not Path(state["log"] + ".fault").exists():
        Path(state["log"] + ".fault").touch()
        what = at.partition("@")[0]
    else:
        return
    if what == "killed":
        os.kill(os.getpid(), 9)
    elif what == "nonsense":
        send(os.urandom(4096))
    elif what == "too much":
        send(struct.pack(">BIBII32s", 0, 0, 0, 2**31, 2**31, bytes(32)) + bytes(65536))
    elif what == "silence":
        time.sleep(600)


def questions(known: dict[str, Callable[[Any], object]]) -> None:
    waiting = b""
    while True:
        piece = os.read(IN, 65536)
        if not piece:
            return
        waiting += piece
        *lines, waiting = waiting.split(b"\n")
        for line in lines:
            question = json.loads(line)
            try:
                answer(known[question["do"]](question))
            except (KeyError, OSError) as error:
                answer({"error": str(error)})


class Keeper:
    """Makes copies of volumes; a process that is no child of the session removes them when this one goes."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.made: list[str] = []
        ours, self.pipe = os.pipe()
        if os.fork() == 0:
            os.close(self.pipe)
            if os.fork() == 0:
                os.setsid()
                self.keep(ours)
            os._exit(0)
        os.wait()
        os.close(ours)

    def keep(self, pipe: int) -> NoReturn:
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(null, number)
        names = b""
        while True:
            piece = os.read(pipe, 4096)
            if not piece:
                break
            names += piece
        for name in names.decode().split():
            Path(name).unlink(missing_ok=True)
        os._exit(0)

    def create(self, question: Any) -> object:
        name, number = question["volume"], len(self.made) + 1
        code = self.state.get("vss", {}).get(name, 0)
        if code:
            return {"device": "", "code": code}
        if self.state.get("fault") == "no keeper":
            return {"error": "WMI does not start a process that removes the snapshots (2)"}
        volume = next(one for one in self.state["inventory"]["volumes"] if one["name"] == name)
        path = f"{self.state['shadows']}/shadow{number}.img"
        os.write(self.pipe, path.encode() + b"\n")
        (extent,) = volume["extents"]
        size = extent["length"] - self.state.get("tail", 0)
        disk = self.state["disks"][f"\\\\.\\PhysicalDrive{extent['disk']}"]
        options = "bs=65536 conv=sparse status=none iflag=skip_bytes,count_bytes"
        os.system(f"dd if={disk} of={path} {options} skip={extent['start']} count={size}")
        os.truncate(path, size)
        self.made.append(path)
        log(self.state, "created " + name)
        return {"device": SHADOW % number, "code": 0}

    def remove(self, question: Any) -> object:
        gone = self.state.get("gone", [])
        for path in self.made:
            Path(path).unlink()
        log(self.state, f"removed {len(self.made)}")
        return {"gone": gone, "left": self.state.get("left", [])}


def powershell(state: State, encoded: str) -> int:
    bootstrap = base64.b64decode(encoded).decode("utf-16-le")
    (size,) = re.findall(r"New-Object byte\[\] (\d+);", bootstrap)
    (role,) = re.findall(r"'(\w+)'$", bootstrap)
    os.write(2, b'#< CLIXML\r\n<Objs Version="1.1.0.1"></Objs>')
    if state.get("language", "FullLanguage") != "FullLanguage":
        send(b"#< CLIXML\r\n<S>p2v: language mode %s</S></Objs>" % state["language"].encode())
        return 41
    script = take(int(size))
    log(state, f"{role} {hashlib.sha256(script).hexdigest()}")
    if role == "reader" and state.get("mono"):
        the_real_reader(state)
    send(state.get("noise", "").encode())
    fault(state, role)
    hello: State = {"administrator": True, "powershell": "5.1.19041.1", "problem": ""}
    if role == "inventory":
        hello.update(state["inventory"])
    hello.update(state.get("hello", {}))
    answer(hello, b"\0P2V1\0")
    if not hello["administrator"] or hello["problem"]:
        return 0
    if role == "reader":
        Reader(state).serve()
    elif role == "guard":
        questions({"usage": lambda _: {"volumes": state["inventory"]["volumes"]}, "flush": lambda _: {}})
    elif role == "snapshots":
        keeper = Keeper(state)
        questions({"create": keeper.create, "remove": keeper.remove})
    return 0


def the_real_reader(state: State) -> NoReturn:
    """The C# of the script, compiled, in the place of the one here."""
    devices = {**state["disks"], SHADOW % 1: f"{state['shadows']}/shadow1.img"}
    lines = "\n".join(f"{name}={path}" for name, path in devices.items())
    flushed = state["log"] + ".flushed"
    log(state, "the real reader")
    os.execvpe(
        "mono",
        ["mono", state["mono"], "reader"],
        {**os.environ, "P2V_DEVICES": lines, "P2V_FLUSHED": flushed},
    )


def main() -> int:
    state = json.loads(Path(sys.argv[1]).read_text())
    line = os.environ.get("SSH_ORIGINAL_COMMAND", "")
    log(state, "> " + line[:100])
    if len(line) > 8191:
        os.write(2, b"The command line is too long.\r\n")
        return 1
    words = line.split()
    if words[:1] == ["powershell.exe"] and words[-2] == "-EncodedCommand":
        try:
            return powershell(state, words[-1])
        except EOFError:
            return 3
    if words[:1] == ["echo"]:
        send(line[5:].replace("%OS%", "Windows_NT").encode() + b"\r\n")
        return 0
    os.write(2, b"'%s' is not recognized as an internal or external command,\r\n" % words[0].encode())
    return 1


if __name__ == "__main__":
    sys.exit(main())
