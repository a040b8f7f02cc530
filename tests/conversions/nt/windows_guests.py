"""Windows guests as folders, converted without an appliance, and their registries as others read them."""

from __future__ import annotations

import os
import shutil
from functools import cache
from pathlib import Path

import pytest

import conversions
import drivers
from drivers.inf.index import DriverIndex, read_index
from fixtures.command import FixtureError
from fixtures.windows import guests, packs
from fixtures.windows.spec import GUESTS, STATIC_MAC, WindowsSpec
from p2v.hives import GuestHives
from p2v.model import (
    Conversion,
    Disk,
    Firmware,
    GiB,
    Machine,
    Nic,
    OperatingSystem,
    PlannedNic,
    Platform,
    ProductType,
    WindowsSystem,
)
from p2v.targets import find_target
from tests.conftest import need_tools
from tests.tree_guest import TreeGuest


def guest_tree(name: str, folder: Path) -> TreeGuest:
    """A guest of its own; a download or libwine that is missing fails in CI and skips elsewhere."""
    need_tools("reglookup")
    try:
        shutil.copytree(guests.tree(name), folder / f"guest-{name}")
    except FixtureError as error:
        missing(str(error))
    return TreeGuest(folder / f"guest-{name}", free=2 * GiB)


def missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def machine(spec: WindowsSpec) -> Machine:
    major, minor, build = spec.version
    kind = ProductType.SERVER if spec.server else ProductType.WORKSTATION
    system = WindowsSystem(major, minor, build, kind, spec.edition, f"/{spec.root}")
    name = f"{major}.{minor}.{build}"
    return Machine(
        hostname=spec.hostname,
        firmware=Firmware(spec.firmware),
        cpus=1,
        memory=GiB,
        disks=(Disk("/images/c.raw", spec.size),),
        nics=(Nic("Ethernet", STATIC_MAC),),
        os=OperatingSystem("windows", name, spec.product, "windows", spec.architecture, "", system),
    )


def platform_of(target: str) -> Platform:
    return find_target(target).platform


@cache
def pack_index(kind: str, folder: Path) -> DriverIndex:
    """An index of a pack of our own: `virtio` or `vmware`."""
    place = folder / kind
    if not place.exists():
        {"virtio": packs.virtio, "vmware": packs.vmware}[kind](place)
    return read_index(place)


def convert(guest: TreeGuest, name: str, platform: Platform, index: DriverIndex | None = None) -> Conversion:
    spec = GUESTS[name]
    return conversions.convert(
        guest,
        machine(spec),
        nics=(PlannedNic(STATIC_MAC, "Ethernet"),),
        firmware=Firmware(spec.firmware),
        platform=platform,
        pack=drivers.pack(platform.driver_pack),
        hives=GuestHives(guest),
        index=index,
    )
