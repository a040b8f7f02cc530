"""One machine of metal, built, booted, converted once, and shared by all tests that look at the result."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.build import SPECS, BuiltDisk, build
from fixtures.metal import start_metal
from p2v.accelerator import Accelerator, find_accelerator
from p2v.journal import RECEIPT
from p2v.model import Output, Receipt
from tests.conftest import need_tools
from tests.e2e.cli import Answer, p2v


@dataclass(frozen=True, slots=True)
class Facts:
    """What makes a machine itself, asked of it over SSH."""

    hostname: str
    machine_id: str
    host_keys: str
    addresses: str


IDENTITY = (
    ("hostname",),
    ("cat", "/etc/machine-id"),
    ("sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub"),
    ("sh", "-c", "ip -o -4 addr show scope global | awk '{print $2, $4}'"),
)
"""Commands whose answers are the fields of `Facts`."""


@dataclass(frozen=True, slots=True)
class Converted:
    """A run of the whole pipeline over SSH, from a machine that was running."""

    folder: Path
    home: Path
    receipt: Receipt
    before: Facts
    scan: Answer
    scan_sudo: Answer
    scan_nobody: Answer
    convert: Answer
    again: Answer

    @property
    def output(self) -> Output:
        return self.receipt.outputs[0]


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> Accelerator:
    """What the product itself finds out about KVM on this machine."""
    need_tools("qemu-system-x86_64", "qemu-img", "mmdebstrap")
    return find_accelerator(tmp_path_factory.mktemp("accelerator")).accelerator


@pytest.fixture(scope="module")
def blank() -> BuiltDisk:
    need_tools("mke2fs", "sfdisk")
    return build(SPECS["blank"])


@pytest.fixture(scope="session")
def disk() -> BuiltDisk:
    need_tools("mmdebstrap", "qemu-img")
    return build(SPECS["debian12-bios"])


@pytest.fixture(scope="session")
def converted(
    disk: BuiltDisk, accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory
) -> Converted:
    """Scan, convert with proof, and convert again: the way of a user, machine running all the time."""
    folder = tmp_path_factory.mktemp("converted")
    home = folder / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with start_metal(disk) as metal:
            metal.wait_for_ssh()
            known_hosts = folder / "known_hosts"
            known_hosts.write_text(metal.known_hosts_line + "\n")
            place = f"127.0.0.1:{metal.port}"
            source = f"ssh://root@{place}"
            login = ("--identity", str(disk.key), "--known-hosts", known_hosts)
            before = Facts(*(metal.ssh(command).strip() for command in IDENTITY))
            scan = p2v("scan", source, *login, "--json", home=home)
            scan_sudo = p2v("scan", f"ssh://operator@{place}", *login, "--json", home=home)
            scan_nobody = p2v("scan", f"ssh://nobodyelse@{place}", *login, home=home)
            # In emulation a pass takes a minute, however little has changed.
            patient = ("--freeze-limit", "600")
            job = (source, "--to", "libvirt", "--output", folder / "runs", "--prove", *patient, *login)
            first = p2v("convert", *job, "--json", home=home)
            assert first.code == 0, first.stderr
            again = p2v("convert", *job, "--json", home=home)
    receipt = RECEIPT.validate_json(first.stdout)
    run = folder / "runs" / "metal12"
    return Converted(run, home, receipt, before, scan, scan_sudo, scan_nobody, first, again)


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
