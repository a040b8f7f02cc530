"""Every way to boot and to store, on the target: as it is the machine is lost there, converted it is itself.

Two machines belong to `make test`; all of them run with `make matrix`, which also writes the table of the
README to the file that P2V_MATRIX names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fixtures.matrix import HOSTS, BuiltHost, Host, build_host
from fixtures.matrix.hosts import PASSPHRASE
from fixtures.matrix.spec import Kind, mounts_of
from p2v.accelerator import Accelerator
from p2v.journal import RECEIPT
from p2v.model import Receipt, Verdict
from tests.conftest import need_tools
from tests.e2e.cli import p2v
from tests.e2e.conftest import sha256
from tests.e2e.trial import as_it_is, source_of, try_out

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.timeout(3600)]

IN_EVERY_RUN = ("debian12-uefi-lvm", "debian12-md")

LOST = (
    Verdict.EMERGENCY,
    Verdict.INITRAMFS_SHELL,
    Verdict.KERNEL_PANIC,
    Verdict.BOOTLOADER,
    Verdict.NO_BOOT_DEVICE,
)
"""How a machine fails to boot for reasons of its own."""


@dataclass(frozen=True, slots=True)
class Guest:
    """A machine of the matrix."""

    host: Host
    built: BuiltHost


@dataclass(frozen=True, slots=True)
class Converted:
    """What p2v made of the images of a machine."""

    guest: Guest
    receipt: Receipt
    images: Path


def _parameters() -> list[object]:
    return [
        pytest.param(name, id=name, marks=() if name in IN_EVERY_RUN else pytest.mark.matrix)
        for name in HOSTS
    ]


@pytest.fixture(scope="module", params=_parameters())
def guest(request: pytest.FixtureRequest) -> Guest:
    need_tools("mmdebstrap", "mcopy", "pvcreate", "vgcfgrestore", "mkfs.xfs", "mkfs.btrfs", "qemu-img")
    host = HOSTS[request.param]
    return Guest(host, build_host(host))


@pytest.fixture(scope="module")
def converted(guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp(guest.host.name)
    key = folder / "key"
    key.write_text(f"{PASSPHRASE}\n")
    options = ("--luks-key-file", key) if "luks" in guest.host.name else ()
    job = (source_of(guest.built), "--to", "libvirt", "--output", folder / "runs", "--json", *options)
    answer = p2v("convert", *job, home=folder / "home")
    assert answer.code == 0, answer.stderr
    images = folder / "runs" / guest.host.hostname / "vm" / "libvirt"
    return Converted(guest, RECEIPT.validate_json(answer.stdout), images)


@pytest.fixture(scope="module")
def rows() -> Iterator[list[str]]:
    """Lines of the table, written when the last machine is done."""
    lines: list[str] = []
    yield lines
    if target := os.environ.get("P2V_MATRIX"):
        head = ["| guest | firmware | target | as it is | converted | network up | date |", "|---" * 7 + "|"]
        Path(target).write_text("\n".join([*head, *sorted(lines)]) + "\n")


@pytest.fixture(scope="module")
def lost(guest: Guest, accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What became of the machine on the target as it was."""
    before = [sha256(image) for image in guest.built.images]
    vm = as_it_is(guest.host, guest.built)
    folder = guest.built.images[0].parent
    found = try_out(vm, folder, guest.built, tmp_path_factory.mktemp("asis"), accelerator)
    assert [sha256(image) for image in guest.built.images] == before
    if found.verdict.passed:
        assert found.facts is None, "unconverted it booted and had its network: nothing is shown by it"
        return "no network"
    assert found.verdict in LOST, found
    return str(found.verdict)


def test_unconverted_it_is_lost_on_the_target(lost: str) -> None:
    assert lost


def test_converted_it_is_the_same_machine(
    converted: Converted, accelerator: Accelerator, tmp_path: Path, rows: list[str], lost: str
) -> None:
    host, built = converted.guest.host, converted.guest.built
    found = try_out(converted.receipt.outputs[0].vm, converted.images, built, tmp_path, accelerator)
    assert found.verdict is Verdict.BOOTED, (found, converted.receipt.warnings)
    assert found.facts is not None, f"{host.name} booted without its network: {converted.receipt.warnings}"
    assert found.inside is not None
    facts, inside = found.facts, found.inside
    assert (facts.hostname, facts.machine_id) == (host.hostname, host.machine_id)
    assert built.host_key in facts.host_keys
    assert facts.addresses == f"{built.interface} {built.address}"
    assert (inside.failed, inside.damage) == ("", "")
    expected = {mount for volume in host.volumes() for mount in mounts_of(volume)}
    assert expected <= set(inside.mounts.split())
    swaps = sum(volume.kind is Kind.SWAP for volume in host.volumes())
    assert len(inside.swap.split()) == swaps
    marks = [text.strip() for name, text in host.extra if name.endswith("/WHO")]
    assert inside.data.splitlines() == marks
    cells = (
        host.name,
        built.firmware,
        "libvirt",
        lost,
        found.verdict.value,
        "yes",
        f"{datetime.now(UTC):%Y-%m-%d}",
    )
    rows.append(f"| {' | '.join(cells)} |")
