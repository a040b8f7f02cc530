"""What is compared: p2v, and what a user would reach for instead, each as one command line.

Every side starts from nothing (its own SSH login included) and ends with the image in a file. Bytes on the
wire are what `ssh -v` says it received; for p2v, what it counted itself.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.model import Disk
from tests.bench.report import Sample
from tests.sshd import Sshd, free_port

CIPHER = "aes128-gcm@openssh.com"
TIME_LIMIT = 600.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where one measurement happens; `used` bytes of the image are in use."""

    server: Sshd
    image: Path
    folder: Path
    used: int

    def ssh(self, *options: str, cipher: str = CIPHER) -> str:
        """`ssh`, which says at its end how much it received."""
        return ssh_command(self.server, "-v", *options, cipher=cipher)

    @property
    def source(self) -> str:
        return shlex.quote(str(self.image))

    @property
    def target(self) -> str:
        return shlex.quote(str(self.folder / "out.raw"))

    @property
    def log(self) -> Path:
        return self.folder / "ssh.log"


def ssh_command(server: Sshd, *options: str, cipher: str = CIPHER) -> str:
    """`ssh` to the server, with its own choice of a cipher where that is empty."""
    words = ["ssh", *(["-c", cipher] if cipher else [])]
    words += ["-p", str(server.port), "-i", str(server.identity)]
    words += ["-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "IdentitiesOnly=yes", *options]
    return shlex.join([*words, "-F", "none", f"{server.user}@127.0.0.1"])


def used(image: Path) -> list[tuple[int, int]]:
    """Start and length (bytes) of what is in use on an image."""
    with open_file_device(image) as device:
        found = disk_map(device, Disk(path=str(image), size=device.size))
    return [(extent.start, extent.length) for extent in found.extents]


Side = Callable[[Place], Sample]


def p2v(place: Place) -> Sample:
    started = time.monotonic()
    server = place.server
    argv: list[str | Path] = [sys.executable, "-m", "tests.bench.child", server.url]
    argv += [server.identity, server.known_hosts, place.image, place.folder]
    said = command.check(argv, timeout=TIME_LIMIT, reason="capture")
    seconds = time.monotonic() - started
    report = json.loads(said)
    return Sample(seconds, report["wire"], report["peak"])


def dd(place: Place) -> Sample:
    return _shell(
        place, f"{place.ssh()} 'dd bs=4M status=none if={place.source}' 2>{place.log} >{place.target}"
    )


def dd_zstd(place: Place) -> Sample:
    remote = f"dd bs=4M status=none if={place.source} | zstd -1 -q -c"
    return _shell(
        place, f"{place.ssh()} {shlex.quote(remote)} 2>{place.log} | zstd -d -q -c | {_sparse(place)}"
    )


def partclone(place: Place) -> Sample:
    remote = f"partclone.ext4 -q -c -s {place.source} -o - -L /dev/null | zstd -1 -q -c"
    size = place.image.stat().st_size
    return _shell(
        place,
        f"truncate -s {size} {place.target}; {place.ssh()} {shlex.quote(remote)} 2>{place.log}"
        f" | zstd -d -q -c | partclone.ext4 -q -r -s - -O {place.target} -L {place.folder}/partclone.log",
    )


def nbdcopy(place: Place) -> Sample:
    """nbdkit on the source, its port forwarded by ssh: what virt-p2v does, which names no cipher (ssh.c)."""
    return _nbdcopy(place, cipher="")


def nbdcopy_gcm(place: Place) -> Sample:
    """The same with the cipher of the others, which virt-p2v could have but has not."""
    return _nbdcopy(place, cipher=CIPHER)


def _nbdcopy(place: Place, *, cipher: str) -> Sample:
    there, here = free_port(), free_port()
    forward = place.ssh("-L", f"127.0.0.1:{here}:127.0.0.1:{there}", cipher=cipher)
    # nbdkit ends when the standard input of ssh does, so that ssh can say how much it received.
    remote = f"nbdkit -f -r -i 127.0.0.1 -p {there} file {place.source} & cat; kill $!"
    script = (
        f"exec 3> >(exec {forward} {shlex.quote(remote)} 2>{place.log}); child=$!; "
        f"for i in $(seq 200); do nbdinfo --size nbd://127.0.0.1:{here} >/dev/null 2>&1 && break; sleep .05; "
        f"done; nbdcopy nbd://127.0.0.1:{here} {place.target}; code=$?; exec 3>&-; wait $child; exit $code"
    )
    return _shell(place, script)


def limit(place: Place) -> Sample:
    """As many bytes as are in use, through ssh, into nothing."""
    return _shell(place, f"{place.ssh()} 'head -c {place.used} {place.source}' 2>{place.log} >/dev/null")


SIDES: dict[str, Side] = {
    "p2v": p2v,
    "dd | ssh": dd,
    "dd | zstd -1 | ssh": dd_zstd,
    "nbdcopy over ssh": nbdcopy,
    "nbdcopy over ssh, aes128-gcm": nbdcopy_gcm,
    "partclone | zstd | ssh": partclone,
    "limit: used bytes through ssh": limit,
}


def _sparse(place: Place) -> str:
    return f"dd bs=4M iflag=fullblock status=none of={place.target}"


def _shell(place: Place, script: str) -> Sample:
    started = time.monotonic()
    argv = ["bash", "-o", "pipefail", "-c", script]
    with ExitStack() as stack:
        stack.callback(place.log.unlink, missing_ok=True)
        command.check(argv, timeout=TIME_LIMIT, reason="copy a disk")
        return Sample(time.monotonic() - started, _received(place.log))


def _received(log: Path) -> int:
    """OpenSSH, at the end of `ssh -v`: `Transferred: sent 3316, received 2764 bytes, in 0.1 seconds`."""
    found = re.search(r"Transferred: sent \d+, received (\d+) bytes", log.read_text(errors="replace"))
    return int(found[1]) if found else 0
