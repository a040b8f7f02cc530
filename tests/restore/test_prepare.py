"""Images that are not converted on their way to a disk: passed on, or made to fit, and made once."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import pytest

from p2v import command
from p2v.errors import PlanRefused, TargetError
from p2v.guest_unlock import Keys
from p2v.house import House
from p2v.model import Disk, Firmware, ImageFormat, Machine, MiB
from p2v.restore.model import DiskMove, Metal, Resize, RestorePlan, SourceDisk
from p2v.restore.prepare import NOTE, is_prepared, prepare
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.restore.test_tables import GPT, SIZE, assert_verified, build, look

pytestmark = [pytest.mark.tools, pytest.mark.timeout(240)]


@pytest.fixture
def house(tmp_path: Path) -> House:
    need_tools("sfdisk", "sgdisk", "qemu-img", "qemu-nbd")
    return House(UI(style=ProgressStyle.NONE, stderr=io.StringIO()), tmp_path / "home")


def plan_for(folder: Path, size: int, resize: Resize = Resize.GROW) -> RestorePlan:
    image = build(folder, GPT)
    disk = look(image, 0)
    guest = Machine("data", Firmware.BIOS, 1, MiB, (disk,))
    target = Disk("/dev/sdz", size, serial="S1")
    move = DiskMove(0, SourceDisk(image, ImageFormat.RAW, disk), target, resize)
    metal = Metal(replace(guest, disks=(target,)))
    return RestorePlan("data", str(image), "ssh://rescue", guest, metal, (move,), (), False, 1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("more", [0, 100 * MiB])
def test_what_goes_as_it_is_is_passed_on(tmp_path: Path, house: House, more: int) -> None:
    plan = plan_for(tmp_path, SIZE + more, Resize.KEEP)
    (disk,) = prepare(plan, tmp_path, house, Keys()).disks
    assert disk.path == plan.moves[0].source.path
    assert disk.size == SIZE
    assert list(tmp_path.glob("*.qcow2")) == []


def test_a_disk_that_grows_gets_the_table_at_its_end(tmp_path: Path, house: House) -> None:
    plan = plan_for(tmp_path, SIZE + 100 * MiB)
    before = sha256(plan.moves[0].source.path)
    (disk,) = prepare(plan, tmp_path, house, Keys()).disks
    assert disk.size == SIZE + 100 * MiB
    assert disk.path.stat().st_mode & 0o077 == 0
    result = tmp_path / "result.raw"
    command.check(["qemu-img", "convert", "-O", "raw", disk.path, result], timeout=60, reason="read")
    assert result.stat().st_size == disk.size
    assert_verified(result, "gpt")
    assert sha256(plan.moves[0].source.path) == before


def test_what_is_finished_is_not_made_again(tmp_path: Path, house: House) -> None:
    plan = plan_for(tmp_path, SIZE + 100 * MiB)
    first = prepare(plan, tmp_path, house, Keys())
    stamp = first.disks[0].path.stat().st_mtime_ns
    assert prepare(plan, tmp_path, house, Keys()) == first
    assert first.disks[0].path.stat().st_mtime_ns == stamp


@pytest.mark.parametrize("damage", ["killed", "cut", "overlay", "plan", "image"])
def test_what_is_not_is(tmp_path: Path, house: House, damage: str) -> None:
    """Killed before the note, the note cut short, the overlay gone, another plan; or the virtual machine ran
    in between, and the overlay stands on what is not there any more.
    """
    plan = plan_for(tmp_path, SIZE + 100 * MiB)
    (disk,) = prepare(plan, tmp_path, house, Keys()).disks
    stamp = disk.path.stat().st_mtime_ns
    match damage:
        case "killed":
            (tmp_path / NOTE).unlink()
        case "cut":
            (tmp_path / NOTE).write_bytes((tmp_path / NOTE).read_bytes()[:50])
        case "overlay":
            disk.path.unlink()
        case "plan":
            target = replace(plan.moves[0].target, size=SIZE + 200 * MiB)
            plan = replace(plan, moves=(replace(plan.moves[0], target=target),))
        case "image":
            with plan.moves[0].source.path.open("r+b") as image:
                image.write(b"\xfa")  # the first byte of boot code that is not there
    assert not is_prepared(plan, tmp_path)
    (again,) = prepare(plan, tmp_path, house, Keys()).disks
    assert again.path.stat().st_mtime_ns != stamp
    assert again.size == plan.moves[0].target.size


def test_an_image_that_is_gone_is_named(tmp_path: Path, house: House) -> None:
    plan = plan_for(tmp_path, SIZE + 100 * MiB)
    prepare(plan, tmp_path, house, Keys())
    image = plan.moves[0].source.path
    image.unlink()
    with pytest.raises(TargetError, match=f"{image} cannot be read"):
        prepare(plan, tmp_path, house, Keys())


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(tmp_path: Path, house: House) -> None:
    plan = plan_for(tmp_path, SIZE - 150 * MiB, Resize.KEEP)
    with pytest.raises(PlanRefused, match="too small"):
        prepare(plan, tmp_path, house, Keys())
    assert list(tmp_path.glob("*.qcow2")) == []
