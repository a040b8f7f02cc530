"""A machine gets its own disks back: only what differs travels, and nothing of another machine is touched."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from p2v.model import BLOCK_SIZE, KiB, LicenseUse, MiB
from p2v.run import open_run
from tests.restore.commands import SERIAL, SIZE, Place, check, killed, make_image, require_files
from tests.restore.metal import metal_disk
from tests.sshd import Sshd

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(300)]

OTHER = {"P2V_TEST_UUID": "4c4c4544-0000-1000-8000-0000000000bb"}


@pytest.fixture
def place(sshd: Sshd, tmp_path: Path) -> Iterator[Place]:
    """A machine whose disk was captured and converted."""
    image = make_image(tmp_path / "original.raw", tmp_path / "files")
    disk = tmp_path / "metal.disk"
    check("cp", "--sparse=never", image, disk)
    with metal_disk(disk, SERIAL) as metal:
        place = Place(sshd, tmp_path, metal)
        capture: list[str | Path] = [
            "capture",
            sshd.url,
            *place.login(),
            "--output",
            place.runs,
            "--name",
            "web01",
        ]
        done = place.p2v(*capture)
        assert done.code == 0, done.stderr
        pay(place.runs / "web01")
        yield place


def pay(run: Path) -> None:
    """As a finished conversion leaves its receipt; what it made in the appliance is not needed here."""
    with open_run(run) as held:
        receipt = held.receipt()
        assert receipt is not None
        held.write_receipt(replace(receipt, license=LicenseUse("committed", "evaluation", 1, 4)))


def change(place: Place) -> int:
    """Write into 1 % of the files' content, in the middle of them, as a system does; the bytes changed."""
    changed = 0
    for number in (3, 8):
        said = check("debugfs", "-R", f"blocks /file{number}", f"{place.metal.image}?offset=1048576")
        block = int(said.split()[100]) // 16 * 16
        with Path(place.metal.disk.path).open("r+b") as file:
            file.seek(MiB + block * 4096)
            file.write(random.Random(number).randbytes(256 * KiB))
        changed += 256 * KiB
    return changed


def rollback(place: Place, *words: str, changed: dict[str, str] | None = None) -> Any:
    arguments: list[str | Path] = ["rollback", place.runs / "web01", "--to", place.sshd.url]
    return place.p2v(*arguments, *place.login(), *words, changed=changed)


def test_only_what_differs_goes_back(place: Place, tmp_path: Path) -> None:
    before = place.hash()
    changed = change(place)
    spoiled = place.hash()
    forecast = rollback(place, "--check", "--json")
    assert forecast.code == 0, forecast.stderr
    said = forecast.json()
    assert changed <= said["differing_size"] <= 1.5 * changed
    assert said["rate"] > 0
    assert said["seconds"] > 0
    assert place.hash() == spoiled != before
    done = rollback(place, "--yes", "--json")
    assert done.code == 0, done.stderr
    assert place.hash() == before
    receipt = done.json()
    assert receipt["disks"][0]["sent_size"] == said["differing_size"]
    assert receipt["disks"][0]["wire_size"] <= 1.1 * said["differing_size"] + 8 * KiB
    assert receipt["license"]["units"] == 0
    assert (place.runs / "web01-rollback" / "receipt.json").exists()
    again = rollback(place, "--yes", "--json").json()
    assert again["disks"][0]["sent_size"] == 0
    assert again["plan"]["name"] == "web01-rollback-2"


def test_a_disk_that_lost_everything(place: Place, tmp_path: Path) -> None:
    with place.metal.image.open("r+b") as file:
        file.write(random.Random(9).randbytes(SIZE))
    done = rollback(place, "--yes", "--json")
    assert done.code == 0, done.stderr
    require_files(place.metal.image, tmp_path / "original.raw")


def test_killed_and_repeated(place: Place, tmp_path: Path) -> None:
    with place.metal.image.open("r+b") as file:
        file.write(random.Random(9).randbytes(SIZE))
    words: list[str | Path] = ["rollback", place.runs / "web01", "--to", place.sshd.url, *place.login()]
    journal = place.runs / "web01-rollback" / "write" / "disk0.written"
    with killed(place, place.argv(*words, "--yes"), journal, 5):
        pass
    done = rollback(place, "--yes", "--json")
    assert done.code == 0, done.stderr
    written = done.json()["disks"][0]
    assert written["kept_size"] >= 4 * BLOCK_SIZE
    require_files(place.metal.image, tmp_path / "original.raw")


@pytest.mark.parametrize(
    ("words", "changed", "said"),
    [
        (["--yes"], OTHER, "not the machine that was captured"),
        ([], {}, "nobody has confirmed"),
        (["--yes"], {"P2V_TEST_DISKS": ""}, "no disk any more"),
    ],
    ids=["another machine", "not confirmed", "no disk"],
)
def test_what_is_refused(place: Place, words: list[str], changed: dict[str, str], said: str) -> None:
    change(place)
    before = place.hash()
    if "P2V_TEST_DISKS" in changed:
        changed = {"P2V_TEST_DISKS": f"{place.metal.disk.path}=WD-ANOTHER"}
    done = rollback(place, *words, changed=changed)
    assert done.code == 3, done.stderr
    assert said in done.stderr
    assert place.hash() == before


def test_an_image_that_is_not_as_captured_is_refused(place: Place) -> None:
    image = place.runs / "web01" / "capture" / "disk0.raw"
    image.chmod(0o600)
    with image.open("r+b") as file:
        file.seek(2 * MiB)
        file.write(b"rotten")
    before = place.hash()
    done = rollback(place, "--yes")
    assert done.code == 3
    assert "is not what was captured" in done.stderr
    assert place.hash() == before


def test_a_capture_alone_is_no_conversion(place: Place) -> None:
    receipt = place.runs / "web01" / "receipt.json"
    with open_run(place.runs / "web01") as held:
        kept = held.receipt()
        assert kept is not None
        held.write_receipt(replace(kept, license=None))
    assert receipt.exists()
    done = rollback(place, "--yes")
    assert done.code == 2
    assert "no finished conversion" in done.stderr
