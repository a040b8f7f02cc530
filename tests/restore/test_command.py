"""`p2v restore` and `p2v rollback` as they are typed, against loop devices behind a real sshd.

What a refusal must not do is written down in the hash of the disk, before and after.
"""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from p2v.model import BLOCK_SIZE, Firmware, MiB
from tests.restore.commands import (
    SERIAL,
    SIZE,
    Place,
    check,
    killed,
    require_files,
)
from tests.restore.metal import metal_disk
from tests.sshd import Sshd

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(300)]


def test_an_image_becomes_a_disk(place: Place, image: Path) -> None:
    done = place.restore_well(image)
    assert done.code == 0, done.stderr
    receipt = done.json()
    require_files(place.metal.image, image)
    written = receipt["disks"][0]
    assert written["disk"] == SERIAL
    assert written["sent_size"] == written["verified_size"] == written["data_size"] < 90 * MiB
    assert (receipt["license"]["state"], receipt["license"]["units"]) == ("committed", 1)
    again = place.restore_well(image)
    # The same machine within thirty days.
    assert again.json()["license"]["units"] == 0
    assert place.p2v("show", place.runs / "image-restore", "--json").json() == receipt
    listed = place.p2v("runs", "--output", place.runs, "--json").json()
    assert [(one["name"], one["state"]) for one in listed] == [
        ("image-restore", "finished"),
        ("image-restore-2", "finished"),
    ]


def test_a_qcow2_becomes_a_disk(place: Place, image: Path) -> None:
    qcow2 = image.with_suffix(".qcow2")
    check("qemu-img", "convert", "-O", "qcow2", "-c", image, qcow2)
    assert place.restore_well(qcow2).code == 0
    require_files(place.metal.image, image)


def test_a_dry_run_touches_nothing(place: Place, image: Path) -> None:
    before = place.hash()
    shown = place.restore(image, "--as-is", "--disk", f"0={SERIAL}", "--dry-run")
    assert shown.code == 0, shown.stderr
    assert SERIAL in shown.stdout
    assert not place.runs.exists()
    assert place.hash() == before


REFUSED = {
    "wrong serial": (["--disk", "0=WD-OTHER", "--erase", "WD-OTHER"], 3, "No disk of the machine"),
    "no disk": ([], 2, "Onto which disk"),
    "no confirmation": (["--disk", f"0={SERIAL}"], 3, "nobody has confirmed"),
    "--yes is none": (["--disk", f"0={SERIAL}", "--yes"], 3, "nobody has confirmed"),
    "another disk is confirmed": (["--disk", f"0={SERIAL}", "--erase", "WD-2"], 3, "nobody has confirmed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_was_not_said_is_refused(place: Place, image: Path, case: str) -> None:
    words, code, said = REFUSED[case]
    before = place.hash()
    done = place.restore(image, "--as-is", *words)
    assert done.code == code, done.stderr
    assert said in done.stderr
    assert "bug" not in done.stderr
    assert place.hash() == before


def test_the_serial_is_typed(place: Place, image: Path) -> None:
    words: list[str | Path] = ["restore", image, "--to", place.sshd.url, *place.login(), "--as-is"]
    words += ["--output", place.runs, "--disk", f"0={SERIAL}"]
    before = place.hash()
    refused = place.typed("yes\n", *words)
    assert refused.code == 3
    assert "type its serial or WWN" in refused.stderr
    # What would be lost stands there before the question.
    assert "erases" in refused.stderr
    assert place.hash() == before
    assert place.typed(f"{SERIAL}\n", *words).code == 0
    require_files(place.metal.image, image)


def test_a_mounted_disk_is_refused(place: Place, image: Path, tmp_path: Path) -> None:
    check("mke2fs", "-q", "-F", "-t", "ext4", place.metal.disk.path)
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    check("mount", "-o", "ro", place.metal.disk.path, mounted)
    try:
        before = place.hash()
        done = place.restore_well(image)
        assert done.code == 3
        assert "is in use" in done.stderr
        assert place.hash() == before
    finally:
        check("umount", mounted)


def test_a_small_disk_is_refused(sshd: Sshd, image: Path, tmp_path: Path) -> None:
    disk = tmp_path / "small.disk"
    disk.write_bytes(random.Random(8).randbytes(SIZE - MiB))
    with metal_disk(disk, SERIAL) as metal:
        small = Place(sshd, tmp_path, metal)
        before = small.hash()
        done = small.restore_well(image)
        assert done.code == 3
        assert "too small" in done.stderr
        assert small.hash() == before


def test_another_firmware_is_refused(place: Place, image: Path) -> None:
    before = place.hash()
    words = ["--as-is", "--disk", f"0={SERIAL}", "--erase", SERIAL]
    done = place.restore(image, *words, changed={"P2V_TEST_FIRMWARE": Firmware.UEFI.value})
    assert done.code == 3
    assert "UEFI" in done.stderr
    assert place.hash() == before


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vmdk", "vhdx"])
def test_a_cut_image_is_refused(place: Place, image: Path, kind: str) -> None:
    cut = image.with_name(f"cut.{kind}")
    check("qemu-img", "convert", "-O", kind, image, cut)
    with cut.open("r+b") as file:
        file.truncate(40 * MiB)
    before = place.hash()
    done = place.restore_well(cut)
    assert done.code in (3, 4), done.stderr
    assert "bug" not in done.stderr
    assert place.hash() == before


def test_killed_in_the_middle_and_resumed(place: Place, image: Path) -> None:
    run = place.runs / "mine"
    words: list[str | Path] = [
        "restore",
        image,
        "--to",
        place.sshd.url,
        *place.login(),
        "--output",
        place.runs,
    ]
    words += ["--as-is", "--disk", f"0={SERIAL}", "--erase", SERIAL, "--name", "mine"]
    with killed(place, place.argv(*words), run / "write" / "disk0.written", 5):
        pass
    assert not (run / "receipt.json").exists()
    done = place.p2v("resume", run, "--json")
    assert done.code == 0, done.stderr
    written = done.json()["disks"][0]
    assert written["kept_size"] >= 4 * BLOCK_SIZE
    assert written["sent_size"] + written["kept_size"] == written["data_size"]
    require_files(place.metal.image, image)
    assert place.p2v("license", "verify", "--json").code == 0


def test_a_cut_line_is_tried_again(place: Place, image: Path) -> None:
    run = place.runs / "image-restore"
    words: list[str | Path] = [
        "restore",
        image,
        "--to",
        place.sshd.url,
        *place.login(),
        "--output",
        place.runs,
    ]
    words += ["--as-is", "--disk", f"0={SERIAL}", "--erase", SERIAL]
    journal = run / "write" / "disk0.written"
    child = subprocess.Popen(
        place.argv(*words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=place.environment({"P2V_TEST_SLOW": "1"}),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        if journal.exists() and journal.stat().st_size >= 5 * 36:
            place.sshd.cut()
            break
        time.sleep(0.005)
    _, said = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert b"trying again" in said
    require_files(place.metal.image, image)


def test_a_rollback_needs_a_run(place: Place, tmp_path: Path) -> None:
    done = place.p2v("rollback", tmp_path / "nothing", "--to", place.sshd.url, *place.login(), "--yes")
    assert done.code == 2
    assert "bug" not in done.stderr
