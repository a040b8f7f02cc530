"""What goes wrong on the way: a clear message, the right exit code, nothing half-made, no unit lost."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from p2v import command
from p2v.disk import digests
from p2v.disk.copy import ImageFiles, capture_disk
from p2v.disk.device import open_file_device
from p2v.disk.used import disk_map
from p2v.errors import ExitCode
from p2v.licensing.ledger import open_ledger
from p2v.model import Disk, MiB
from tests.conftest import need_tools
from tests.disk.images import sparse
from tests.e2e.cli import Answer, kill_in, p2v, started, wait_for_phase
from tests.e2e.conftest import sha256
from tests.sshd import Sshd, make_key, private_sshd


def units(home: Path) -> tuple[int, int]:
    """(used, left) of the license."""
    status = p2v("license", "show", "--json", home=home).json()
    return status["used"], status["left"]


def refused(answer: Answer, code: ExitCode, *words: str) -> None:
    """The exit code of who must act, every word said, no traceback, nothing on standard output."""
    assert answer.code == code, answer.stderr
    for word in words:
        assert word in answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""


@pytest.mark.guestfs
@pytest.mark.boot
@pytest.mark.timeout(2400)
def test_killed_at_random_moments_it_is_resumed_to_the_same_bytes(disk: BuiltDisk, tmp_path: Path) -> None:
    """Three kills while it copies, one in each later step; then it ends well, and cost one unit."""
    home, run = tmp_path / "home", tmp_path / "runs" / "metal12"
    before = sha256(disk.image)
    job = ("convert", disk.image, "--to", "libvirt", "--output", tmp_path / "runs")
    chance = random.Random(disk.image.stat().st_size)
    grown = Grown(run, chance.randrange(1, 30))
    assert kill_in("Copying", *job, home=home, when=grown) == -signal.SIGKILL
    assert units(home) == (0, 5)
    for _ in range(2):
        grown = Grown(run, chance.randrange(1, 30))
        assert kill_in("Copying", "resume", run, home=home, when=grown) == -signal.SIGKILL
    assert not (run / "capture" / "disk0.raw").exists()
    assert kill_in("Converting", "resume", run, home=home, after=2) == -signal.SIGKILL
    assert sha256(run / "capture" / "disk0.raw") == sha256(uninterrupted(disk, tmp_path))
    assert kill_in("Writing", "resume", run, home=home, after=0.1) == -signal.SIGKILL
    assert not list((run / "vm").rglob("*.qcow2.xml")) + list((run / "vm" / "libvirt").glob("*.qcow2"))
    assert units(home) == (0, 5)
    ended = p2v("resume", run, "--json", home=home)
    assert ended.code == 0, ended.stderr
    assert "Converting" not in ended.stderr
    assert units(home) == (1, 4)
    assert sha256(disk.image) == before


class Grown:
    """Whether the journal of the capture has so many blocks more than at first."""

    def __init__(self, run: Path, blocks: int) -> None:
        self.journal = run / "capture" / "disk0.digest.part"
        self.enough = self.size() + blocks * digests.RECORD.size

    def size(self) -> int:
        return self.journal.stat().st_size if self.journal.exists() else 0

    def __call__(self) -> bool:
        return self.size() >= self.enough


def uninterrupted(disk: BuiltDisk, folder: Path) -> Path:
    files = ImageFiles(folder / "whole.raw", folder / "whole.digest")
    with open_file_device(disk.image) as device:
        used = disk_map(device, Disk(str(disk.image), device.size))
        capture_disk(device, used.extents, files, progress=lambda _: None)
    return files.partial_image


@pytest.mark.guestfs
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, ExitCode.INTERRUPTED, "interrupted"),
        (signal.SIGTERM, ExitCode.TERMINATED, "terminated"),
    ],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_signal_ends_it_in_order(
    disk: BuiltDisk, tmp_path: Path, number: signal.Signals, code: ExitCode, word: str
) -> None:
    home = tmp_path / "home"
    with started("convert", disk.image, "--to", "libvirt", "--output", tmp_path / "runs", home=home) as child:
        wait_for_phase(child, "Copying", after=0.5)
        child.send_signal(number)
        said, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert said == ""
    assert word in errors
    assert f"p2v resume {tmp_path / 'runs' / 'metal12'}" in errors
    assert "Traceback" not in errors
    assert units(home) == (0, 5)
    history = p2v("license", "history", "--json", home=home).json()
    assert [entry["event"] for entry in history][-1] == "released"


@pytest.mark.guestfs
@pytest.mark.timeout(300)
def test_an_image_without_a_system_is_refused(blank: BuiltDisk, tmp_path: Path) -> None:
    answer = p2v(
        "convert", blank.image, "--to", "libvirt", "--output", tmp_path / "runs", home=tmp_path / "h"
    )
    refused(answer, ExitCode.PLAN_REFUSED, "operating system")
    assert not (tmp_path / "runs").exists()
    assert units(tmp_path / "h") == (0, 5)


@pytest.mark.guestfs
@pytest.mark.timeout(400)
def test_the_plan_of_a_dry_run_and_what_stands_in_its_way(disk: BuiltDisk, tmp_path: Path) -> None:
    home, output = tmp_path / "home", tmp_path / "runs"
    job = ("convert", disk.image, "--to", "libvirt", "--output", output)
    dry = p2v(*job, "--dry-run", "--json", "--cpus", "3", "--memory", "3G", home=home)
    assert dry.code == 0, dry.stderr
    plan = dry.json()
    assert (plan["name"], plan["cpus"], plan["units"], plan["firmware"]) == ("metal12", 3, 1, "bios")
    assert not output.exists()
    (output / "metal12").mkdir(parents=True)
    (output / "metal12" / "precious").write_text("of the user")
    refused(p2v(*job, home=home), ExitCode.USAGE, "metal12 exists")
    assert (output / "metal12" / "precious").read_text() == "of the user"
    refused(p2v(*job, "--disk", "sdq", home=home), ExitCode.PLAN_REFUSED, "no disk sdq", str(disk.image))
    spend_everything(home)
    refused(p2v(*job, "--name", "other", home=home), ExitCode.LICENSE, "p2v license show")
    assert not (output / "other").exists()


def spend_everything(home: Path) -> None:
    with open_ledger(home) as ledger:
        for number in range(5):
            ledger.reserve(run=f"{number:032x}", machine=f"m{number}", title=f"host{number}")
            ledger.commit(f"{number:032x}")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 300 MiB for the runs: too small for the machine."""
    need_tools("mkfs.ext4", "mount", "umount")
    image = sparse(tmp_path / "small.img", 300 * MiB)
    command.check(["mkfs.ext4", "-q", image], timeout=60, reason="make a filesystem")
    place = tmp_path / "small"
    place.mkdir()
    command.check(["mount", "-o", "loop", image, place], timeout=30, reason="mount it")
    try:
        yield place
    finally:
        command.check(["umount", place], timeout=30, reason="unmount it")


@pytest.mark.guestfs
@pytest.mark.timeout(300)
def test_no_space_is_said_before_the_first_byte(disk: BuiltDisk, small_disk: Path, tmp_path: Path) -> None:
    job = ("convert", disk.image, "--to", "libvirt", "--output", small_disk)
    answer = p2v(*job, home=tmp_path / "home")
    refused(answer, ExitCode.TARGET, "Not enough disk space", "available", "--output")
    assert not (small_disk / "metal12").exists()
    assert units(tmp_path / "home") == (0, 5)


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[Sshd]:
    need_tools("sshd", "ssh-keygen")
    with private_sshd(tmp_path / "sshd") as server:
        yield server


def scan(server: Sshd, home: Path, *options: str | Path, source: str = "") -> Answer:
    return p2v("scan", source or server.url, *options, home=home, timeout=60)


@pytest.mark.ssh
@pytest.mark.timeout(120)
def test_who_cannot_be_reached(sshd: Sshd, tmp_path: Path) -> None:
    login = ("--identity", sshd.identity, "--known-hosts", sshd.known_hosts)
    nobody = "ssh://root@127.0.0.1:1"
    refused(scan(sshd, tmp_path, *login, source=nobody), ExitCode.TRANSPORT, "127.0.0.1:1")
    unknown = "ssh://root@no-such-host.invalid"
    refused(scan(sshd, tmp_path, *login, source=unknown), ExitCode.TRANSPORT, "no-such-host.invalid")
    refused(scan(sshd, tmp_path, *login, source="telnet://x"), ExitCode.USAGE, "telnet", "ssh://")
    missing = str(tmp_path / "no.img")
    refused(scan(sshd, tmp_path, source=missing), ExitCode.USAGE, "no.img")


@pytest.mark.ssh
@pytest.mark.timeout(120)
def test_host_keys(sshd: Sshd, tmp_path: Path) -> None:
    known = tmp_path / "known_hosts"
    login = ("--identity", sshd.identity, "--known-hosts", known)
    answer = scan(sshd, tmp_path, *login)
    refused(answer, ExitCode.TRANSPORT, "SHA256:", "--accept-new-host-key")
    assert not known.exists()
    other = make_key(tmp_path / "other")
    key = other.with_suffix(".pub").read_text().split()[1]
    known.write_text(f"[127.0.0.1]:{sshd.port} ssh-ed25519 {key}\n")
    changed = scan(sshd, tmp_path, *login, "--accept-new-host-key")
    refused(changed, ExitCode.TRANSPORT, "ssh-keygen", "-R")
    assert known.read_text().count("\n") == 1


@pytest.mark.ssh
@pytest.mark.timeout(120)
def test_a_wrong_key(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    wrong = make_key(tmp_path / "wrong")
    answer = scan(sshd, tmp_path, "--identity", wrong, "--known-hosts", sshd.known_hosts)
    refused(answer, ExitCode.TRANSPORT, "127.0.0.1")


@pytest.mark.ssh
@pytest.mark.timeout(60)
def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    answer = p2v("scan", "ssh://root:geheim@127.0.0.1", home=tmp_path)
    refused(answer, ExitCode.USAGE, "assword")
    assert "geheim" not in answer.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("convert", "x.img", "--to", "libvirt"), ExitCode.USAGE),
        (("convert", "x.img", "--to", "libvrt", "--output", "o"), ExitCode.USAGE),
        (("convert", "x.img", "--to", "libvirt", "--output", "o", "--memory", "lots"), ExitCode.USAGE),
        (("convert", "x.img", "--to", "libvirt", "--output", "o", "--limit", "fast"), ExitCode.USAGE),
        (("convert", "x.img", "--to", "libvirt", "--output", "o", "--retry-for", "soon"), ExitCode.USAGE),
        (("resume", "nowhere"), ExitCode.USAGE),
        (("show", "nowhere"), ExitCode.USAGE),
        (("prove", "nowhere"), ExitCode.USAGE),
        (("runs", "--output", "nowhere"), ExitCode.USAGE),
        (("frobnicate",), ExitCode.USAGE),
    ],
)
def test_wrong_words(words: tuple[str, ...], code: ExitCode, tmp_path: Path) -> None:
    answer = p2v(*words, home=tmp_path)
    refused(answer, code)
    assert "error: " in answer.stderr


@pytest.mark.slow
def test_without_a_command_the_help_is_shown(tmp_path: Path) -> None:
    answer = p2v(home=tmp_path)
    assert (answer.code, answer.stderr) == (0, "")
    assert "convert" in answer.stdout


@pytest.mark.slow
def test_targets_and_license_without_anything_else(tmp_path: Path) -> None:
    assert "libvirt" in p2v("targets", home=tmp_path).stdout
    rows = p2v("targets", "--json", home=tmp_path).json()
    assert {"libvirt", "vmware", "hyperv"} <= {row["name"] for row in rows}
    assert "5 left" in p2v("license", "show", home=tmp_path).stdout
    assert json.loads(p2v("license", "history", "--json", home=tmp_path).stdout)[0]["event"] == "installed"
