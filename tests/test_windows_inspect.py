"""Finding the Windows on a guest's volumes: any folder, any spelling, either firmware; and what it says."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from conversions.nt.cards import cards
from conversions.nt.identify import host_name, identify, pe_machine
from conversions.nt.places import BOOT, ESP, ROOT
from conversions.nt.registry import Value, dword, multi_sz, sz
from fixtures.command import FixtureError
from fixtures.windows import guests
from fixtures.windows.spec import GUESTS, STATIC_MAC
from p2v.errors import GuestError
from p2v.guest import Access, Guest
from p2v.guest_systems import open_system
from p2v.guest_volumes import MOUNT_POINTS, Volumes
from p2v.model import (
    Disk,
    Filesystem,
    Firmware,
    GiB,
    Machine,
    MiB,
    Nic,
    OperatingSystem,
    Partition,
    ProductType,
    Severity,
    TableKind,
    WindowsSystem,
)
from p2v.windows_condition import about_architecture
from p2v.windows_condition import findings as condition
from p2v.windows_inspect import WindowsRoot, find_windows
from tests.conversions.nt.memory_hives import MemoryHive
from tests.tree_guest import TreeGuest

ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
CONTROL = "ControlSet001\\Control"
GUEST_10 = WindowsSystem(10, 0, 19041)


class VolumeGuest(TreeGuest):
    """Each device is a folder; `mount` makes it appear at its place. Access can be taken away."""

    access = Access.READ_WRITE

    def __init__(self, folder: Path, *devices: str, active: int = 0) -> None:
        super().__init__(folder / "appliance", free=GiB)
        self.root.mkdir(parents=True)
        self.folder = folder
        self.devices = devices
        self.protected: list[str] = []
        self.sector = bytearray(512)
        if active:
            self.sector[430 + 16 * active] = 0x80
        self.locked = ""
        self.kinds: dict[str, str] = {}
        for device in devices:
            self.volume(device).mkdir(parents=True, exist_ok=True)

    def as_guest(self) -> Guest:
        return cast(Guest, self)

    def volume(self, device: str) -> Path:
        return self.folder / device.rpartition("/")[2]

    def make_mountpoint(self, place: str) -> None:
        (self.root / place.lstrip("/")).mkdir()

    def mount(self, device: str, at: str, *, options: str = "") -> None:
        if at == "/":
            self.unmount_all()
            self.root.rmdir()
            self.root.symlink_to(self.volume(device))
        else:
            place = self.root / at.lstrip("/")
            place.rmdir()
            place.symlink_to(self.volume(device))

    def host(self, path: str) -> Path:
        """Links of the volumes are not met in these tests; those of mounts lead out of the root."""
        return self.root / path.lstrip("/")

    def unmount_all(self) -> None:
        if self.root.is_symlink():
            self.root.unlink()
        else:
            shutil.rmtree(self.root)
        self.root.mkdir()

    def overwrite(self, path: str, content: bytes) -> None:
        if self.locked and path.startswith(self.locked):
            raise GuestError("Read-only file system")
        self.host(path).write_bytes(content)

    def protect(self, path: str) -> None:
        if path.startswith("/p2v-esp"):
            raise GuestError("Operation not permitted")
        self.protected.append(path)

    def read_start(self, path: str, *, count: int) -> bytes:
        return self.read(path)[:count]

    def read_device(self, device: str, offset: int, count: int) -> bytes:
        return bytes(self.sector)[offset : offset + count]

    def filesystems(self) -> tuple[tuple[str, str], ...]:
        return tuple((device, self.kinds.get(device, "ntfs")) for device in self.devices)

    def encrypted_devices(self) -> tuple[str, ...]:
        return tuple(device for device, kind in self.kinds.items() if kind == "crypto_LUKS")

    def partition_device(self, index: int, number: int) -> str:
        return f"/dev/sd{'abcd'[index]}{number or ''}"


def machine(firmware: Firmware, *partitions: tuple[str, str]) -> Machine:
    """Of one disk; each partition has a type and a filesystem."""
    parts = tuple(
        Partition(number, number * MiB, MiB, kind, filesystem=Filesystem(filesystem, MiB))
        for number, (kind, filesystem) in enumerate(partitions, 1)
    )
    table = TableKind.GPT if firmware is Firmware.UEFI else TableKind.MBR
    return Machine("image", firmware, 1, GiB, (Disk("/dev/sda", GiB, table=table, partitions=parts),))


def registry(volume: Path, folder: str) -> None:
    config = volume / folder / "config"
    config.mkdir(parents=True)
    (config / "SYSTEM").write_bytes(b"regf")


@pytest.mark.parametrize(
    "folder", ["Windows/System32", "WINNT/system32", "WINDOWS/SYSTEM32", "win.98/System32"]
)
def test_any_folder_with_a_registry(tmp_path: Path, folder: str) -> None:
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2")
    registry(tmp_path / "sda2", folder)
    assert find_windows(guest.as_guest(), None) == (
        WindowsRoot("/dev/sda2", f"/{folder.split('/', maxsplit=1)[0]}"),
    )
    assert not guest.root.is_symlink()


def test_of_two_on_a_volume_the_one_that_the_loader_starts(tmp_path: Path) -> None:
    """An upgrade may leave the old one beside it; boot.ini of XP says which."""
    guest = VolumeGuest(tmp_path, "/dev/sda1")
    for folder in ("Windows.old/System32", "WINDOWS/system32", "WINNT.0/system32"):
        registry(tmp_path / "sda1", folder)
    assert find_windows(guest.as_guest(), None)[0].folder == "/WINDOWS"
    loader = "[boot loader]\r\ndefault=multi(0)disk(0)rdisk(0)partition(1)\\WINNT.0\r\n"
    (tmp_path / "sda1" / "Boot.ini").write_bytes(loader.encode("cp1252"))
    assert find_windows(guest.as_guest(), None)[0].folder == "/WINNT.0"


@pytest.mark.parametrize("locked", [False, True])
def test_beside_other_filesystems(tmp_path: Path, *, locked: bool) -> None:
    """Beside data of a Linux it is the system; beside a Linux that is locked it is not what was meant."""
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2")
    registry(tmp_path / "sda1", "Windows/System32")
    guest.kinds = {"/dev/sda2": "crypto_LUKS" if locked else "ext4"}
    if locked:
        with pytest.raises(GuestError, match="LUKS"):
            open_system(guest.as_guest(), machine=None)
    else:
        assert open_system(guest.as_guest(), machine=None).files.exists("/Windows")


def test_two_systems_are_refused(tmp_path: Path) -> None:
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2")
    for volume in ("sda1", "sda2"):
        registry(tmp_path / volume, "Windows/System32")
    with pytest.raises(GuestError, match=r"several systems.*sda1.*sda2"):
        open_system(guest.as_guest(), machine=None)


def test_a_volume_that_cannot_be_written_says_how_to_mend_it(tmp_path: Path) -> None:
    """ntfs-3g mounts what is not safe to write without an error, for reading."""
    guest = VolumeGuest(tmp_path, "/dev/sda1")
    registry(tmp_path / "sda1", "Windows/System32")
    guest.locked = MOUNT_POINTS[ROOT]
    with pytest.raises(GuestError) as caught:
        open_system(guest.as_guest(), machine=None)
    assert "chkdsk C: /f" in caught.value.hint


@pytest.mark.parametrize(
    ("firmware", "partitions", "active", "place", "device"),
    [
        (Firmware.UEFI, [(ESP_TYPE, "vfat"), ("ebd0a0a2", "ntfs")], 0, ESP, "sda1"),
        (Firmware.BIOS, [("07", "ntfs"), ("07", "ntfs")], 1, BOOT, "sda1"),
        (Firmware.BIOS, [("07", "ntfs"), ("07", "ntfs")], 2, BOOT, ""),
        (Firmware.BIOS, [("83", "ext4"), ("07", "ntfs")], 1, BOOT, ""),
    ],
    ids=["ESP", "System Reserved", "one volume for all", "somebody else's loader"],
)
def test_the_volume_of_the_loader(
    tmp_path: Path,
    firmware: Firmware,
    partitions: list[tuple[str, str]],
    active: int,
    place: str,
    device: str,
) -> None:
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2", active=active)
    registry(tmp_path / "sda2", "Windows/System32")
    (tmp_path / "sda1" / "loader").write_bytes(b"here")
    windows = OperatingSystem("windows", "", "", "windows", windows=GUEST_10)
    seen = replace(machine(firmware, *partitions), os=windows)
    files = open_system(guest.as_guest(), machine=seen).files
    assert files.is_dir(place) is bool(device)
    assert files.exists(f"{place}/loader") is bool(device)
    assert files.exists("/Windows/System32/config/SYSTEM")
    if device:
        files.write(f"{place}/loader", b"new")
        assert (tmp_path / device / "loader").read_bytes() == b"new"
        assert files.glob(f"{place}/[Ll]oader") == [f"{place}/loader"]
    else:
        with pytest.raises(GuestError, match="no volume"):
            files.write(f"{place}/loader", b"lost in the appliance")


def test_paths_stay_in_their_volume(tmp_path: Path) -> None:
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2")
    guest.make_mountpoint(MOUNT_POINTS[ROOT])
    guest.make_mountpoint(MOUNT_POINTS[ESP])
    files = Volumes(guest.as_guest(), {ROOT: "/dev/sda1", ESP: "/dev/sda2"})
    files.write("/../../p2v-esp/../x", b"1")
    files.write("/@esp/../y", b"2")
    files.write("/@esp/z", b"3")
    inside = guest.root / MOUNT_POINTS[ROOT].lstrip("/")
    assert sorted(path.name for path in inside.iterdir()) == ["x", "y"]
    assert files.read("/@esp/z") == b"3"


def tree(name: str, folder: Path) -> Path:
    try:
        return shutil.copytree(guests.tree(name), folder / name)
    except FixtureError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", GUESTS)
def test_what_the_hives_say(tmp_path: Path, name: str) -> None:
    """The SYSTEM hive is a real one of Windows 10 with a version put in; the cards are its own, and one
    more.
    """
    spec = GUESTS[name]
    files = tree(name, tmp_path)
    guest = VolumeGuest(tmp_path / "guest", "/dev/sda1")
    guest.volume("/dev/sda1").rmdir()
    files.rename(guest.volume("/dev/sda1"))
    seen = open_system(guest.as_guest(), machine=None).look()
    system = seen.os
    assert system
    assert system.windows
    assert (*system.windows.version, system.windows.build) == spec.version
    assert system.windows.root == f"/{spec.root}"
    kind = ProductType.SERVER if spec.server else ProductType.WORKSTATION
    assert (system.windows.product_type, system.architecture) == (kind, spec.architecture)
    assert (system.family, seen.hostname) == ("windows", spec.hostname)
    assert system.name == spec.product.removeprefix("Microsoft ")
    own = next(nic for nic in seen.nics if nic.name == "Ethernet0")
    fixed = next(nic for nic in seen.nics if nic.name == "Büro LAN")
    assert (fixed.addresses, fixed.gateway) == (("192.0.2.17/24",), "192.0.2.1")
    assert own.addresses == ()
    if spec.version >= (10, 0, 0):
        assert (own.mac, fixed.mac) == ("00:0c:29:66:1a:a2", STATIC_MAC)
    assert seen.findings == ()


def hives() -> tuple[MemoryHive, MemoryHive]:
    """A Windows as it is installed, as far as its storage goes."""
    system = MemoryHive()
    system.put("Select", dword("Current", 1))
    system.make("ControlSet001\\Services\\disk")
    disks = f"{CONTROL}\\Class\\{{4D36E967-E325-11CE-BFC1-08002BE10318}}"
    volumes = f"{CONTROL}\\Class\\{{71A27CDD-812A-11D0-BEC7-08002BE2092F}}"
    system.put(disks, multi_sz("UpperFilters", ["partmgr"]), multi_sz("LowerFilters", ["EhStorClass"]))
    system.put(volumes, multi_sz("LowerFilters", ["fvevol", "iorate", "rdyboost"]))
    return system, MemoryHive()


def test_an_ordinary_windows_has_nothing_against_it() -> None:
    assert list(condition(*hives())) == []


def test_filters_of_others_are_named_with_the_command_that_removes_them() -> None:
    system, software = hives()
    key = f"{CONTROL}\\Class\\{{4d36e967-e325-11ce-bfc1-08002be10318}}"
    system.put(key, multi_sz("LowerFilters", ["prl_strg", "EhStorClass", "iorate"]))
    system.put(
        f"{CONTROL}\\Class\\{{4d36e97b-e325-11ce-bfc1-08002be10318}}", multi_sz("UpperFilters", ["mpio"])
    )
    system.make("ControlSet001\\Services\\mpio")
    disks, controllers = condition(system, software)
    assert "prl_strg (Parallels, not installed)" in disks.message
    assert '/d "EhStorClass\\0iorate" /f' in disks.hint
    assert "mpio (multipath software)" in controllers.message
    assert "reg delete" in controllers.hint
    assert {disks.severity, controllers.severity} == {Severity.WARNING}


def test_no_command_has_words_of_the_guest_that_are_no_names() -> None:
    system, software = hives()
    key = f"{CONTROL}\\Class\\{{4d36e967-e325-11ce-bfc1-08002be10318}}"
    system.put(key, multi_sz("LowerFilters", ["prl_strg", "EhStorClass", '" & format C: & "']))
    (found,) = condition(system, software)
    assert "format C:" not in found.hint


def test_policies_guards_and_a_pending_restart() -> None:
    system, software = hives()
    restrictions = "Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions"
    software.put(restrictions, dword("DenyUnspecified", 1), dword("DenyDeviceIDs", 0), dword("AllowAdmin", 1))
    software.make("Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\RebootPending")
    uninstall = "Wow6432Node\\Microsoft\\Windows\\CurrentVersion\\Uninstall"
    software.put(f"{uninstall}\\a", sz("DisplayName", "Kaspersky Endpoint Security\x1b[2J"))
    software.put(f"{uninstall}\\b", sz("DisplayName", "7-Zip"))
    policy, restart, guard = condition(system, software)
    assert "(DenyUnspecified)" in policy.message
    assert 'reg delete "HKLM\\SOFTWARE\\Policies' in policy.hint
    assert "RebootPending" in restart.message
    assert "Kaspersky" in guard.message
    assert "\x1b" not in guard.message
    assert "7-Zip" not in guard.message


def test_a_32_bit_windows_on_uefi_starts_nowhere() -> None:
    narrow = OperatingSystem("windows", "6.2", "Windows 8", "windows", architecture="i686")
    (found,) = about_architecture(narrow, Firmware.UEFI)
    assert found.severity is Severity.BLOCKER
    assert list(about_architecture(narrow, Firmware.BIOS)) == []


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", ["vfat", "ntfs"])
def test_an_xp_on_fat_that_is_hibernated(tmp_path: Path, kind: str) -> None:
    """Of NTFS the disk itself was asked; to say it twice helps nobody."""
    files = tree("xp", tmp_path)
    (files / "Hiberfil.sys").write_bytes(b"hibr" + bytes(5000))
    guest = VolumeGuest(tmp_path / "guest", "/dev/sda1")
    guest.kinds = {"/dev/sda1": kind}
    guest.volume("/dev/sda1").rmdir()
    files.rename(guest.volume("/dev/sda1"))
    found = open_system(guest.as_guest(), machine=None).look().findings
    assert [one.severity for one in found] == ([Severity.BLOCKER] if kind == "vfat" else [])


@pytest.mark.parametrize("lost", ["SYSTEM", "SOFTWARE"])
def test_a_registry_that_is_no_more_than_a_file(tmp_path: Path, lost: str) -> None:
    """What an error names is a place of the guest."""
    guest = VolumeGuest(tmp_path, "/dev/sda1")
    registry(tmp_path / "sda1", "Windows/System32")
    config = tmp_path / "sda1" / "Windows" / "System32" / "config"
    (config / "SOFTWARE").write_bytes(b"regf")
    inside = open_system(guest.as_guest(), machine=None)
    with pytest.raises(GuestError, match="/Windows/System32/config") as caught:
        inside.look()
    assert "p2v-root" not in str(caught.value)
    (config / lost).unlink()
    with pytest.raises(GuestError, match=f"has no /Windows/System32/config/{lost}"):
        inside.look()
    with pytest.raises(GuestError) as raised:
        inside.files.read(f"/Windows/System32/config/{lost}")
    assert "p2v-root" not in str(raised.value)


CARD = "{4b8f2f1c-1111-2222-3333-444455556666}"
DEVICE = "PCI\\VEN_8086&DEV_10D3\\000C29FFFF61A20000"


def whole() -> tuple[MemoryHive, MemoryHive]:
    """Everything that is read, once."""
    system, software = hives()
    net = f"{CONTROL}\\Class\\{{4d36e972-e325-11ce-bfc1-08002be10318}}\\0001"
    system.put(net, sz("NetCfgInstanceId", CARD), sz("DeviceInstanceID", DEVICE), sz("DriverDesc", "Intel"))
    connection = f"{CONTROL}\\Network\\{{4d36e972-e325-11ce-bfc1-08002be10318}}\\{CARD}\\Connection"
    system.put(connection, sz("Name", "LAN"), sz("PnpInstanceID", DEVICE))
    settings = f"ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{CARD}"
    addresses = multi_sz("IPAddress", ["192.0.2.7"]), multi_sz("SubnetMask", ["255.255.255.0"])
    system.put(settings, dword("EnableDHCP", 0), *addresses, multi_sz("DefaultGateway", ["192.0.2.1"]))
    system.put("ControlSet001\\Services\\Tcpip\\Parameters", sz("NV Hostname", "büro-pc"))
    system.put(f"{CONTROL}\\ProductOptions", sz("ProductType", "ServerNT"))
    system.put(f"{CONTROL}\\Session Manager\\Environment", sz("PROCESSOR_ARCHITECTURE", "AMD64"))
    system.put(f"{CONTROL}\\Session Manager", multi_sz("PendingFileRenameOperations", ["\\??\\C:\\x"]))
    current = "Microsoft\\Windows NT\\CurrentVersion"
    software.put(
        current, sz("CurrentVersion", "6.1"), sz("CurrentBuild", "7601"), sz("ProductName", "Windows")
    )
    software.put("Microsoft\\Cryptography", sz("MachineGuid", "7fb7d7a2-52a5-4b2b-9f21-7a3f0b7a2c11"))
    return system, software


def read_all(system: MemoryHive, software: MemoryHive) -> tuple[OperatingSystem, str, tuple[Nic, ...]]:
    found = identify(system, software, root="/Windows", program=b"")
    list(condition(system, software))
    return found, host_name(system), cards(system)


def test_a_card_by_its_device_alone() -> None:
    """Before Windows 10 no key holds the MAC; the name of the device does, for the first port of a card."""
    system, hostname, nics = read_all(*whole())
    assert (system.version, system.machine_id, hostname) == (
        "6.1.7601",
        "7fb7d7a252a54b2b9f217a3f0b7a2c11",
        "büro-pc",
    )
    assert nics == (Nic("LAN", "00:0c:29:61:a2:00", "", ("192.0.2.7/24",), "192.0.2.1"),)


def test_hostile_values() -> None:
    """Any value may be of any type and content: what is read is text that can be printed, or a refusal."""
    chance = random.Random(6)
    for _ in range(1000):
        pair = whole()
        hive = chance.choice(pair)
        place = chance.choice(sorted(hive.content()))
        key, _, name = place.rpartition("\\")
        kind = chance.choice([0, 1, 2, 3, 4, 7, 11, 0xFFFF0012])
        data = chance.choice([b"", chance.randbytes(chance.randrange(80)), b"\xff" * 9, b"A\0" * 5000])
        hive.set(key, Value(name, kind, data))
        with contextlib.suppress(GuestError):
            found, hostname, nics = read_all(*pair)
            assert all(text.isprintable() for text in (found.name, hostname, *(nic.name for nic in nics)))


def test_programs_of_any_content() -> None:
    chance = random.Random(7)
    header = bytearray(b"MZ" + bytes(58) + (64).to_bytes(4, "little") + b"PE\0\0" + b"\x64\x86" + bytes(60))
    assert pe_machine(bytes(header)) == "x86_64"
    for _ in range(1000):
        changed = bytearray(header[: chance.randrange(len(header))])
        for _ in range(3):
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        assert pe_machine(bytes(changed)) in ("", "x86_64", "i686", "aarch64", "armv7l", "ia64", "unknown")


def test_what_is_new_on_ntfs_is_for_administrators_to_change(tmp_path: Path) -> None:
    """ntfs-3g alone would let everybody replace a driver, or a script that runs as the system."""
    guest = VolumeGuest(tmp_path, "/dev/sda1", "/dev/sda2")
    for point in ("p2v-root/Windows", "p2v-esp"):
        (guest.root / point).mkdir(parents=True)
    guest.host("/p2v-root/Windows/old.sys").write_bytes(b"old")
    files = Volumes(guest.as_guest(), {ROOT: "/dev/sda1", ESP: "/dev/sda2"})
    files.mkdir("/Windows/p2v/deeper")
    files.write("/Windows/p2v/run.cmd", b"new")
    files.write("/Windows/old.sys", b"newer")
    files.copy("/Windows/old.sys", "/Windows/copy.sys")
    files.write("/@esp/new.efi", b"on FAT")
    assert guest.protected == [
        "/p2v-root/Windows/p2v",
        "/p2v-root/Windows/p2v/deeper",
        "/p2v-root/Windows/p2v/run.cmd",
        "/p2v-root/Windows/copy.sys",
    ]
