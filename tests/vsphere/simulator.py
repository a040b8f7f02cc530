"""govmomi's simulator of a vCenter, built from the distribution's packages and started on the loopback.

What is asked of it through `/control` is read from the simulator's own memory, without pyvmomi.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2v import command
from p2v.vsphere.credentials import PasswordKind, PasswordSource, Secret
from p2v.vsphere.settings import Limits, Server
from tests.conftest import need_tools

SOURCES = sorted((Path(__file__).parent / "vcsim").glob("*.go"))
LIBRARY = "golang-github-vmware-govmomi-dev"
GOPATH = Path("/usr/share/gocode")
BUILD_SECONDS = 280.0
USER = "administrator@vsphere.local"
PASSWORD = "s3cret of vcsim"

LIMITS = Limits(
    connect=5, call=10, block=10, answer=10, ready=10, task=10, lost=2, cleanup=6, keep_alive=0.05
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Simulator:
    """A running simulator; `host` is the second address, that of an ESXi host with its own certificate."""

    address: str
    host: str
    ca_file: Path
    sha256: str
    sha1: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def server(self, **changes: Any) -> Server:
        values = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": USER,
            "password": PasswordSource(PasswordKind.ENVIRONMENT, "VC_PASSWORD"),
            "ca_file": self.ca_file,
        }
        return Server(**{**values, **changes})

    def behave(self, **behaviour: Any) -> None:
        """From now on; nothing given = without trouble."""
        self.order(Behaviour=behaviour)

    def order(self, **order: Any) -> dict[str, Any]:
        data = json.dumps(order).encode() if order else None
        context = ssl.create_default_context(cafile=str(self.ca_file))
        with urllib.request.urlopen(
            f"https://{self.address}/control", data=data, timeout=10, context=context
        ) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def seen(self) -> dict[str, Any]:
        return self.order()

    def first_upload(self) -> dict[str, Any]:
        """The simulator notes an upload when it has seen its end, which may be after we have."""
        limit = time.monotonic() + 10
        while not (uploads := self.seen()["uploads"]):
            assert time.monotonic() < limit, "nothing was uploaded"
            time.sleep(0.05)
        found: dict[str, Any] = uploads[0]
        return found

    def inventory(self) -> tuple[Any, ...]:
        """What must be as before after an import that failed: objects, machines, files."""
        seen = self.seen()
        machines = sorted(seen["machines"], key=lambda machine: str(machine["Ref"]))
        return tuple(seen["objects"]), json.dumps(machines), tuple(seen["files"])

    def machine(self, name: str) -> dict[str, Any]:
        found = [item for item in self.seen()["machines"] if item["Name"] == name]
        assert len(found) == 1, f"{len(found)} machines named {name}"
        machine: dict[str, Any] = found[0]
        return machine


SECRET = Secret(PASSWORD)


def binary() -> Path:
    """The simulator, kept by content in the user's cache: source, compiler and library name it."""
    need_tools("go")
    if not (GOPATH / "src/github.com/vmware/govmomi/simulator").is_dir():
        need_tools(LIBRARY)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "p2v/vcsim"
    base.mkdir(parents=True, exist_ok=True)
    with (base / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = base / f"vcsim-{_key()}"
        if not path.exists():
            _build(base, path)
        return path


def _key() -> str:
    library = command.run(["dpkg-query", "-W", "-f", "${Version}", LIBRARY], timeout=20).stdout
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES))
    digest.update(f"{command.run(['go', 'version'], timeout=20).stdout} {library}".encode())
    return digest.hexdigest()[:16]


def _build(base: Path, path: Path) -> None:
    for old in base.glob("vcsim-*"):
        old.unlink()
    with tempfile.TemporaryDirectory(dir=base) as scratch:
        made = Path(scratch) / "vcsim"
        command.check(
            ["go", "build", "-trimpath", "-o", made, *SOURCES],
            reason="build the simulator",
            timeout=BUILD_SECONDS,
            env={
                "GO111MODULE": "off",
                "GOPATH": str(GOPATH),
                "GOCACHE": f"{scratch}/cache",
                "CGO_ENABLED": "0",
            },
        )
        made.rename(path)


@contextlib.contextmanager
def running(folder: Path, kind: str = "vpx") -> Iterator[Simulator]:
    """A simulator of a vCenter (`vpx`) or of a single ESXi host (`esx`) for the length of the block."""
    with subprocess.Popen(
        [binary(), kind, USER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "VCSIM_PASSWORD": PASSWORD},
    ) as child:
        try:
            assert child.stdout
            told = json.loads(child.stdout.readline())
            ca_file = folder / f"{kind}-ca.pem"
            ca_file.write_text(told["ca"])
            yield Simulator(told["address"], told["host"], ca_file, told["sha256"], told["sha1"], child.pid)
        finally:
            assert child.stdin
            child.stdin.close()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
