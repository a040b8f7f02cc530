"""Registries whose values are anything: a conversion ends with a clear error or a result, never otherwise.

Damage of the files is for tests/test_hives.py; here the hives are sound, and what they hold is not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import conversions
import drivers
from conversions.nt.registry import Value, binary, dword, expand_sz, multi_sz, sz
from drivers.inf.index import DriverIndex, read_index
from fixtures.windows import packs, programs
from fixtures.windows.spec import GUESTS, STATIC_MAC
from p2v.errors import GuestError
from p2v.model import Firmware, PlannedNic
from tests.conversions.nt.memory_hives import MemoryHive, MemoryHives
from tests.conversions.nt.windows_guests import machine, platform_of
from tests.tree_guest import TreeGuest

SEED = 20261123
RUNS = 1000
CONFIG = "/Windows/System32/config"
DRIVERS = (
    "storahci",
    "intelide",
    "pciide",
    "atapi",
    "msahci",
    "vmbus",
    "storvsc",
    "storflt",
    "partmgr",
    "disk",
)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DriverIndex:
    return read_index(packs.virtio(tmp_path_factory.mktemp("virtio"), programs.bare))


def system_hive(chance: random.Random) -> MemoryHive:
    hive = MemoryHive()
    hive.put("Select", dword("Current", 1), dword("Default", 1), dword("LastKnownGood", 2))
    for number in (1, 2):
        controls = f"ControlSet{number:03d}"
        for name in DRIVERS:
            path = expand_sz("ImagePath", f"System32\\drivers\\{name}.sys")
            hive.put(f"{controls}\\Services\\{name}", dword("Start", 0), dword("Type", 1), path)
            hive.put(f"{controls}\\Services\\{name}\\StartOverride", dword("0", 3))
        hive.put(f"{controls}\\Control\\CrashControl", dword("AutoReboot", 1))
        hive.put(f"{controls}\\Control\\TimeZoneInformation", dword("RealTimeIsUniversal", 1))
        hive.put(
            f"{controls}\\Control\\Class\\{{4d36e967-e325-11ce-bfc1-08002be10318}}",
            multi_sz("UpperFilters", ["partmgr", "prl_strg"]),
        )
    if chance.random() < 0.7:
        hive.put("DriverDatabase", binary("OemInfMap", b"\xff\x80"))
        hive.put("DriverDatabase\\DeviceIds\\PCI\\VEN_1AF4&DEV_1042", binary("oem3.inf", b"\1\xff\0\0"))
        hive.put("DriverDatabase\\DriverInfFiles\\oem3.inf", sz("Active", "viostor.inf_amd64_0"))
        hive.put("DriverDatabase\\DriverPackages\\viostor.inf_amd64_0", sz("", "oem3.inf"))
    return hive


def software_hive() -> MemoryHive:
    hive = MemoryHive()
    return hive.put("Microsoft\\Windows\\CurrentVersion", expand_sz("DevicePath", "%SystemRoot%\\inf"))


def garbage(name: str, chance: random.Random) -> Value:
    kind = chance.choice((0, 1, 2, 3, 4, 7, 11, 0xFFFF0012, 99))
    size = chance.choice((0, 1, 2, 3, 4, 5, 8, 40, 5000, 300_000))
    match chance.randrange(4):
        case 0:
            data = chance.randbytes(size)
        case 1:
            data = b"\xff" * size
        case 2:
            data = ("..\\..\\%SystemRoot%\\\ud800" * (size // 40 + 1)).encode("utf-16-le", "surrogatepass")
        case _:
            data = ("[*?]/" * (size // 10 + 1)).encode("utf-16-le")
    return Value(name, kind, data)


def spoil(hive: MemoryHive, chance: random.Random) -> None:
    """Some values become anything, some keys go."""
    places = list(hive.content())
    for place in chance.sample(places, min(len(places), chance.choice((1, 2, 5, 20)))):
        key, _, name = place.rpartition("\\")
        if hive.has(key):
            if chance.random() < 0.2:
                hive.remove_key(key)
            else:
                hive.set(key, garbage(name, chance))


def hives(count: int) -> Iterator[tuple[MemoryHives, random.Random]]:
    for number in range(count):
        chance = random.Random(SEED + number)
        system, software = system_hive(chance), software_hive()
        spoil(system, chance)
        if chance.random() < 0.5:
            spoil(software, chance)
        yield MemoryHives(**{f"{CONFIG}/SYSTEM": system, f"{CONFIG}/SOFTWARE": software}), chance


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_registries_with_anything_in_them(index: DriverIndex, tmp_path: Path) -> None:
    failed = 0
    guest = TreeGuest(tmp_path / "guest")
    for name in DRIVERS:
        guest.mkdir("/Windows/System32/drivers")
        guest.write(f"/Windows/System32/drivers/{name}.sys", b"MZ")
    for folder in (CONFIG, "/Windows/inf", "/Windows/Temp"):
        guest.mkdir(folder)
    for name in ("SYSTEM", "SOFTWARE"):
        guest.write(f"{CONFIG}/{name}", b"regf")
    known = machine(replace(GUESTS["10"], root="Windows"))
    for opener, chance in hives(RUNS):
        platform = platform_of(chance.choice(("libvirt", "hyperv", "virtualserver", "vmware")))
        try:
            conversion = conversions.convert(
                guest,
                known,
                nics=(PlannedNic(STATIC_MAC, "Ethernet"),),
                firmware=chance.choice(tuple(Firmware)),
                platform=platform,
                pack=drivers.pack(platform.driver_pack),
                hives=opener,
                index=index if chance.random() < 0.5 else None,
            )
        except GuestError:
            failed += 1
        else:
            texts = [text for one in conversion.registry for text in (one.before, one.after)]
            assert all(text.isprintable() for text in (*texts, *conversion.warnings))
    assert failed < RUNS * 9 // 10
    assert [path.name for path in tmp_path.iterdir()] == ["guest"]
