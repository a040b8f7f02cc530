"""Whole conversions of guests whose packages cannot be had here: trees before and after."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import conversions
import drivers
from conversions.initramfs import read_initramfs
from conversions.os_release import identify
from drivers.virtio import PACK
from p2v.model import Choice, CleanUp, Conversion, DiskBus, NicModel, PlannedNic, Removal
from tests.conversions.cpio_writer import initramfs
from tests.conversions.guest_table import CASES, Case
from tests.conversions.machines import GUESTS, PLATFORM
from tests.conversions.standins import OLD_HARDWARE, PROGRAMS
from tests.tree_guest import TreeGuest

VIRTIO = {"virtio", "virtio_ring", "virtio_pci", "virtio_blk"}
UNSTABLE = re.compile(r"/dev/(?:sd[a-z]|hd[a-z]|nvme|cciss|mmcblk|disk/by-(?:id|path))")
LIVE = (
    *("etc/fstab", "etc/default/grub", "etc/kernel/cmdline", "etc/sysconfig/bootloader", "etc/crypttab"),
    *("boot/grub/grub.conf", "boot/grub/menu.lst", "boot/grub/grub.cfg", "boot/grub2/grub.cfg"),
    *("boot/efi/EFI/centos/grub.cfg", "boot/grub2/grubenv", "boot/extlinux.conf", "etc/update-extlinux.conf"),
)
"""Files that are read at a boot, or that the next update of the boot menu is made from."""


def made(folder: Path, case: Case) -> TreeGuest:
    shutil.copytree(GUESTS / case.name / "before", folder / "guest", symlinks=True)
    guest = TreeGuest(folder / "guest", **PROGRAMS)  # type: ignore[arg-type]
    for path in ("/var/lib", "/var/tmp"):
        guest.mkdir(path)
    for path, version in case.initramfs:
        modules = (*OLD_HARDWARE, *VIRTIO) if "fallback" in path else OLD_HARDWARE
        guest.write(path, initramfs(version, modules))
    return guest


def converted(
    guest: TreeGuest, case: Case, *, clean_up: CleanUp | None = None, first_boot: bytes = b""
) -> Conversion:
    def start(path: str) -> str:
        return guest.read(path).decode() if guest.exists(path) else ""

    system = identify(start, architecture="x86_64", machine_id="")
    machine = replace(case.machine, os=system)
    nics = tuple(PlannedNic(nic.mac, nic.name) for nic in machine.nics)
    return conversions.convert(
        guest,
        machine,
        nics=nics,
        firmware=machine.firmware,
        platform=PLATFORM,
        pack=drivers.pack(PACK.name),
        clean_up=clean_up,
        first_boot=first_boot,
    )


def contents(folder: Path, case: Case) -> dict[str, str]:
    """Every file by its path; of an initramfs, its modules."""
    archives = dict(case.initramfs)
    found: dict[str, str] = {}
    for place in sorted(folder.rglob("*")):
        path = str(place.relative_to(folder))
        if place.is_symlink():
            found[path] = f"link to {place.readlink()}"
        elif place.is_file() and f"/{path}" in archives:
            modules = read_initramfs(place.read_bytes()).modules(archives[f"/{path}"])
            found[f"{path}.modules"] = "".join(f"{name}\n" for name in sorted(modules))
        elif place.is_file():
            found[path] = place.read_text()
    return found


def store(folder: Path, files: dict[str, str], guest: TreeGuest) -> None:
    """The golden tree: links as links, lists of modules instead of archives."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, text in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("link to ") and (guest.root / path).is_symlink():
            place.symlink_to(text.removeprefix("link to "))
        else:
            place.write_text(text)


@dataclass(frozen=True, slots=True)
class Done:
    """A guest that was converted once; nobody changes it."""

    guest: TreeGuest
    before: dict[str, str]
    after: dict[str, str]
    conversion: Conversion


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, case: Case) -> Done:
    guest = made(tmp_path_factory.mktemp(case.name), case)
    before = contents(guest.root, case)
    conversion = converted(guest, case)
    return Done(guest, before, contents(guest.root, case), conversion)


def test_the_tree_afterwards_is_the_golden_one(case: Case, done: Done, *, regenerate: bool) -> None:
    golden = GUESTS / case.name / "after"
    after = done.after | {"warnings": "".join(f"{text}\n" for text in done.conversion.warnings)}
    if regenerate:
        store(golden, after, done.guest)
    assert after == contents(golden, case)
    assert done.conversion.family == case.family


def test_twice_is_as_once(tmp_path: Path, case: Case, done: Done) -> None:
    shutil.copytree(done.guest.root, tmp_path / "guest", symlinks=True)
    guest = TreeGuest(tmp_path / "guest", **PROGRAMS)  # type: ignore[arg-type]
    assert converted(guest, case).changes == ()
    assert contents(guest.root, case) == done.after


def test_it_gets_virtio_and_keeps_the_old_hardware(case: Case, done: Done) -> None:
    assert (done.conversion.disk_bus, done.conversion.nic_model) == (DiskBus.VIRTIO_BLK, NicModel.VIRTIO)
    path, version = case.initramfs[0]
    present = read_initramfs(done.guest.read(path)).modules(version)
    assert present >= VIRTIO | {"megaraid_sas", "sd_mod"}


def test_no_name_of_the_old_disks_is_left_where_a_boot_reads_it(done: Done) -> None:
    entries = [path for path in done.after if path.startswith("boot/loader/entries/")]
    for path in [*LIVE, *entries]:
        active = [line for line in done.after.get(path, "").splitlines() if not line.lstrip().startswith("#")]
        assert not [line for line in active if UNSTABLE.search(line)], path


def test_every_card_is_bound_to_its_address_somewhere(case: Case, done: Done) -> None:
    folders = ("etc/udev/rules.d/", "etc/mactab", "etc/sysconfig/network-scripts/ifcfg-")
    text = "".join(content.lower() for path, content in done.after.items() if path.startswith(folders))
    assert all(nic.mac in text for nic in case.machine.nics)


def test_every_change_is_in_the_record(done: Done) -> None:
    paths = done.before.keys() | done.after.keys()
    differing = {path for path in paths if done.before.get(path) != done.after.get(path)}
    changes = done.conversion.changes
    recorded = {str(done.guest.host(change.path).relative_to(done.guest.root)) for change in changes}
    assert {path.removesuffix(".modules") for path in differing} <= recorded
    assert all(change.reason for change in changes)


def test_warnings_are_those_that_a_person_must_know(case: Case, done: Done) -> None:
    warnings = done.conversion.warnings
    for part in case.warned:
        assert any(part in warning for warning in warnings), warnings


def test_all_clean_up_at_once_works_on_every_family(tmp_path: Path, case: Case) -> None:
    guest = made(tmp_path, case)
    chosen = CleanUp(tuple(Removal), Choice.NEW, "web01.example.net", None, ("nothing-of-that-name",))
    conversion = converted(guest, case, clean_up=chosen, first_boot=b"#!/bin/sh\ntrue\n")
    names = ("/etc/hostname", "/etc/HOSTNAME", "/etc/sysconfig/network")
    there = [path for path in names if guest.exists(path) and not guest.is_dir(path)]
    assert any("web01" in guest.read(path).decode() for path in there)
    assert any(change.path.endswith("sbin/p2v-first-boot") for change in conversion.changes)
