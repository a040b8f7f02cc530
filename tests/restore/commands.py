"""Commands as they are typed, against loop devices behind a real sshd."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2v import command
from p2v.model import MiB
from tests.conftest import need_tools
from tests.restore.metal import MetalDisk, environment
from tests.sshd import Sshd

SIZE = 192 * MiB
SERIAL = "WD-TEST-1"


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        return json.loads(self.stdout)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commands run: the server, an empty home, the machine's disk."""

    sshd: Sshd
    folder: Path
    metal: MetalDisk

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def login(self) -> list[str]:
        return ["--identity", str(self.sshd.identity), "--known-hosts", str(self.sshd.known_hosts)]

    def environment(self, changed: Mapping[str, str]) -> dict[str, str]:
        home = {"P2V_HOME": str(self.folder / "home"), "HOME": str(self.folder)}
        return {**os.environ, **environment(self.metal), **home, **changed}

    def argv(self, *words: str | Path) -> list[str]:
        return [sys.executable, "-m", "tests.restore.metal", *map(str, words)]

    def p2v(self, *words: str | Path, changed: Mapping[str, str] | None = None) -> Answer:
        done = subprocess.run(
            self.argv(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200,
            env=self.environment(changed or {}), check=False,
        )  # fmt: skip
        return Answer(done.returncode, done.stdout, done.stderr)

    def typed(self, text: str, *words: str | Path) -> Answer:
        """The command at a terminal, where this is typed."""
        person, terminal = os.openpty()
        try:
            os.write(person, text.encode())
            done = subprocess.run(
                self.argv(*words), stdin=terminal, capture_output=True, text=True, timeout=200,
                env=self.environment({}), check=False,
            )  # fmt: skip
        finally:
            os.close(person)
            os.close(terminal)
        return Answer(done.returncode, done.stdout, done.stderr)

    def restore(self, image: Path, *words: str, changed: Mapping[str, str] | None = None) -> Answer:
        arguments: list[str | Path] = [
            "restore",
            image,
            "--to",
            self.sshd.url,
            *self.login(),
            "--output",
            self.runs,
            *words,
        ]
        return self.p2v(*arguments, changed=changed)

    def restore_well(self, image: Path, *words: str) -> Answer:
        return self.restore(image, "--as-is", "--disk", f"0={SERIAL}", "--erase", SERIAL, "--json", *words)

    def hash(self) -> str:
        """Of the disk as the machine reads it."""
        return hashlib.sha256(Path(self.metal.disk.path).read_bytes()).hexdigest()


def make_image(path: Path, files: Path) -> Path:
    need_tools("sfdisk", "mke2fs", "qemu-img")
    files.mkdir()
    for number in range(12):
        (files / f"file{number}").write_bytes(random.Random(number).randbytes(4 * MiB))
    filesystem = path.with_suffix(".ext4")
    with filesystem.open("wb") as file:
        file.truncate(SIZE - 2 * MiB)
    check("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", files, filesystem)
    with path.open("wb") as file:
        file.truncate(SIZE)
    command.check(
        [tool("sfdisk"), "--quiet", path], timeout=30, reason="partition", input_text="start=2048,type=83\n"
    )
    check("dd", f"if={filesystem}", f"of={path}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
    filesystem.unlink()
    return path


def tool(name: str) -> str:
    return command.need_tool(name, reason="make a disk", package="fdisk e2fsprogs")


def check(name: str, *words: str | Path) -> str:
    return command.check([tool(name), *words], timeout=60, reason="make a disk")


def require_files(disk: Path, image: Path) -> None:
    """The filesystem on a disk is whole, and all that it uses is as in the image."""
    part = disk.with_suffix(".part")
    check("dd", f"if={disk}", f"of={part}", "bs=1M", "skip=1", "status=none")
    check("e2fsck", "-fn", part)
    original = image.with_suffix(".part")
    check("dd", f"if={image}", f"of={original}", "bs=1M", "skip=1", "status=none")
    for number in range(12):
        names = [f"cat /file{number}"]
        one, other = (
            subprocess.run(
                [tool("debugfs"), "-R", *names, path], capture_output=True, check=True, timeout=30
            ).stdout
            for path in (part, original)
        )
        assert one == other == random.Random(number).randbytes(4 * MiB)
    part.unlink()
    original.unlink()


@contextmanager
def killed(place: Place, argv: Sequence[str], journal: Path, records: int) -> Iterator[None]:
    """The command runs until so many blocks are written down, and is then killed."""
    child = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        env=place.environment({"P2V_TEST_SLOW": "1"}), start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.stat().st_size < records * 36:
            assert child.poll() is None, child.stderr.read() if child.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=30)
