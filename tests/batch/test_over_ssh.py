"""Sources over real SSH servers: credentials by reference, and one bandwidth budget for all of them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from p2v import rooms
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import Disk, Firmware, GiB, Machine
from tests.batch import stub
from tests.batch.test_batch import p2v
from tests.conftest import need_tools
from tests.sshd import Sshd, private_sshd

pytestmark = [pytest.mark.ssh, pytest.mark.timeout(120)]

SIZE = 6_000_000
RATE = 4_000_000


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Sshd]]:
    need_tools("sshd", "ssh-keygen")
    if os.geteuid() != 0:
        pytest.skip("the reader must run as root")
    with ExitStack() as stack:
        yield [stack.enter_context(private_sshd(tmp_path / f"sshd{number}")) for number in range(2)]


def write(folder: Path, servers: list[Sshd], more: str = "") -> Path:
    """A manifest with one machine behind each server; its disk is a file of random bytes."""
    lines = [f"defaults: {{to: libvirt{more}}}", "machines:"]
    for number, server in enumerate(servers):
        (folder / f"disk{number}").write_bytes(os.urandom(SIZE))
        lines.append(
            f"  - {{source: '{server.url}', name: m{number}, identity: {server.identity}, "
            f"known_hosts: {server.known_hosts}}}"
        )
    path = folder / "manifest.yaml"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each machine has the one disk that the test made for it; its guest is a stub."""
    monkeypatch.setenv("P2V_ACCEL", "tcg")
    stub.install(monkeypatch.setattr)

    def look(job: Job, source: Source, _house: House) -> Machine:
        source.transport()
        path = str(tmp_path / job.name.replace("m", "disk"))
        disk = Disk(path, SIZE // 512 * 512, serial=job.name)
        os.truncate(path, disk.size)
        return Machine(job.name, Firmware.BIOS, 1, GiB, (disk,), os=stub.SYSTEM, uuid=f"uuid-{job.name}")

    monkeypatch.setattr(rooms, "look", look)


def test_one_budget_holds_for_all_sources_together(tmp_path: Path, servers: list[Sshd]) -> None:
    path = write(tmp_path, servers)
    started = time.monotonic()
    code, out, err = p2v(
        "batch", path, "--output", tmp_path / "runs", "--parallel", "2", "--limit", str(RATE)
    )
    seconds = time.monotonic() - started
    assert code == 0, out + err
    # Each for itself, they would take half of this.
    assert seconds > 0.8 * len(servers) * SIZE / RATE
    for number in range(2):
        copy = (tmp_path / "runs" / f"m{number}" / "capture" / "disk0.raw").read_bytes()
        assert copy == (tmp_path / f"disk{number}").read_bytes()


def test_a_source_that_is_down_stops_no_other(tmp_path: Path, servers: list[Sshd]) -> None:
    path = write(tmp_path, servers, ", retry_for: 0s")
    text = path.read_text()
    path.write_text(text.replace(servers[0].url, "ssh://root@127.0.0.1:1"))
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs", "--parallel", "2")
    assert code == 9
    assert re.search(r"m0 +failed: ", out)
    assert re.search(r"m1 +done in ", out)
    # It is up again: only that one is made.
    path.write_text(text)
    code, out, _ = p2v("batch", path, "--output", tmp_path / "runs")
    assert (code, bool(re.search(r"m1 +done before", out))) == (0, True)
