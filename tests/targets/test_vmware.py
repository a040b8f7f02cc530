"""VMware's configuration, read the way VMware does: `key = "value"` lines, and its own numbers of slots."""

from __future__ import annotations

import dataclasses
import re

import pytest

from p2v.errors import TargetError
from p2v.model import DiskBus, Firmware, OperatingSystem, ProductType, WindowsSystem
from p2v.targets import find_target
from p2v.targets.guests import guest_names, osinfo_id
from p2v.targets.vmware import escape, vmware_uuid
from p2v.targets.vmware_products import PRODUCTS
from tests.targets.machines import IMAGES, hostile, large, machine, plain, target_for

LINE = re.compile(r'([A-Za-z0-9_.:]+) = "([^"\n]*)"')


def entries(words: str, kind: str = "plain") -> dict[str, str]:
    """The .vmx of a machine; every line must be one that VMware can read, every key be there once."""
    target, vm = {"plain": plain, "large": large, "hostile": hostile}[kind](words)
    lines = target.render(vm, IMAGES)[0].text.splitlines()
    assert lines[0] == '.encoding = "UTF-8"'
    found = [LINE.fullmatch(line) for line in lines[1:]]
    assert all(found), lines
    pairs = [(match[1], match[2]) for match in found if match]
    assert len({key for key, _ in pairs}) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize(
    ("words", "version"),
    [
        ("vmware:esx3", "4"),
        ("vmware:esx4", "7"),
        ("vmware:esx5", "8"),
        ("vmware:esx5.1", "9"),
        ("vmware:esx5.5", "10"),
        ("vmware:esx6", "11"),
        ("vmware:esx6.5", "13"),
        ("vmware:esx6.7", "14"),
        ("vmware:esx7", "17"),
        ("vmware:esx8", "20"),
        ("vmware:gsx", "3"),
    ],
)
def test_hardware_version(words: str, version: str) -> None:
    """As govmomi has them, from VMware's KB 1003746."""
    assert entries(words)["virtualHW.version"] == version


def test_slot_7_is_the_controllers_own() -> None:
    found = entries("vmware", "large")
    assert found["scsi0:6.fileName"] == "disk6.vmdk"
    assert "scsi0:7.present" not in found
    assert found["scsi0:8.fileName"] == "disk7.vmdk"
    assert found["scsi1:0.fileName"] == "disk15.vmdk"
    assert found["scsi1.virtualDev"] == found["scsi0.virtualDev"] == "pvscsi"


@pytest.mark.parametrize(
    ("words", "disk", "card"),
    [
        ("vmware", ("scsi0.virtualDev", "pvscsi"), "vmxnet3"),
        ("vmware:lsi-sas,e1000", ("scsi0.virtualDev", "lsisas1068"), "e1000"),
        ("vmware:esx3", ("scsi0.virtualDev", "lsilogic"), "e1000"),
        ("vmware:gsx,buslogic", ("scsi0.virtualDev", "buslogic"), "vlance"),
        ("vmware:sata", ("sata0:0.fileName", "disk0.vmdk"), "vmxnet3"),
        ("vmware:ide,e1000e", ("ide0:0.fileName", "disk0.vmdk"), "e1000e"),
    ],
)
def test_devices(words: str, disk: tuple[str, str], card: str) -> None:
    found = entries(words)
    assert found[disk[0]] == disk[1]
    assert found["ethernet0.virtualDev"] == card


def test_cards_keep_their_addresses() -> None:
    found = entries("vmware", "large")
    assert [found[f"ethernet{index}.address"][-2:] for index in range(3)] == ["15", "16", "17"]
    assert found["ethernet0.addressType"] == "static"
    assert found["ethernet0.checkMACAddress"] == "FALSE"


def test_firmware() -> None:
    assert entries("vmware", "large")["firmware"] == "efi"
    assert "firmware" not in entries("vmware")


def test_hostile_names_stay_in_their_line() -> None:
    found = entries("vmware", "hostile")
    assert found["displayName"] == "..-a<b>&|22c' \u2019;`$(id)- é- -x"
    assert "uuid.bios" not in found


def test_escapes_are_vmwares_own() -> None:
    assert escape('a"b|c\nd') == "a|22b|7Cc d"
    assert vmware_uuid("564d2f10-9d3c-11e6-8f4b-001b213a4f15") == (
        "56 4d 2f 10 9d 3c 11 e6-8f 4b 00 1b 21 3a 4f 15"
    )


def test_too_many_disks_are_refused() -> None:
    target = target_for("vmware:ide")
    with pytest.raises(TargetError):
        target.render(machine(target, disks=9), IMAGES)
    target = target_for("vmware")
    with pytest.raises(TargetError):
        target.render(machine(target, disks=61), IMAGES)


@pytest.mark.parametrize("product", PRODUCTS)
def test_every_product_has_a_whole_platform(product: str) -> None:
    platform = find_target(f"vmware:{product}").platform
    assert platform.subformat == ("monolithicSparse" if PRODUCTS[product].hosted else "vmfs")
    assert (Firmware.UEFI in platform.firmwares) == (PRODUCTS[product].hardware >= 8)
    assert (platform.disk_bus is DiskBus.PVSCSI) <= (PRODUCTS[product].hardware >= 7)


@pytest.mark.parametrize(
    ("system", "hardware", "vmx", "vim", "cim"),
    [
        (("debian", "12", "Debian"), 20, "debian12-64", "debian12_64Guest", 96),
        (("debian", "12", "Debian"), 14, "other4xlinux-64", "other4xLinux64Guest", 96),
        (("debian", "13", "Debian"), 20, "other5xlinux-64", "other5xLinux64Guest", 96),
        (("ubuntu", "22.04", "Ubuntu"), 14, "ubuntu-64", "ubuntu64Guest", 94),
        (("rhel", "9.2", "RHEL"), 17, "rhel9-64", "rhel9_64Guest", 80),
        (("ol", "8.9", "Oracle"), 14, "oraclelinux8-64", "oracleLinux8_64Guest", 109),
        (("sles", "15.5", "SLES"), 14, "sles15-64", "sles15_64Guest", 85),
        (("void", "", "Void"), 4, "other26xlinux-64", "other26xLinux64Guest", 101),
        (("windows", "10.0", "Windows Server 2016"), 14, "windows9srv-64", "windows9Server64Guest", 102),
        (("windows", "10.0", "Windows Server 2019"), 14, "windows2019srv-64", "windows2019srv_64Guest", 102),
        (("windows", "10.0", "Server 2025"), 20, "windows2022srvnext-64", "windows2022srvNext_64Guest", 102),
        (("windows", "6.1", "Windows Server 2008 R2"), 7, "windows7srv-64", "windows7Server64Guest", 103),
        (("windows", "5.2", "Windows Server 2003"), 4, "winnetstandard-64", "winNetStandard64Guest", 70),
    ],
)  # fmt: skip
def test_guest_names(system: tuple[str, str, str], hardware: int, vmx: str, vim: str, cim: int) -> None:
    """VMware's own words (VirtualMachineGuestOsIdentifier) and the DMTF's numbers."""
    names = guest_names(OperatingSystem(*system, family=""), hardware=hardware)
    assert (names.vmx, names.vim, names.cim) == (vmx, vim, cim)


@pytest.mark.parametrize(
    ("version", "server", "name", "hardware", "vmx", "osinfo", "proxmox"),
    [
        ((5, 1, 2600), False, "Windows XP", 4, "winxppro-64", "win/xp", "wxp"),
        ((5, 2, 3790), True, "Windows Server 2003", 4, "winnetstandard-64", "win/2k3", "w2k3"),
        ((6, 0, 6002), True, "Windows Server (R) 2008", 7, "longhorn-64", "win/2k8", "w2k8"),
        ((6, 1, 7601), False, "Windows 7 Professional", 7, "windows7-64", "win/7", "win7"),
        ((6, 3, 9600), False, "Windows 8.1 Pro", 14, "windows8-64", "win/8.1", "win8"),
        ((6, 3, 9600), True, "Windows Server 2012 R2", 14, "windows8srv-64", "win/2k12r2", "win8"),
        # Long-term editions of the desktop carry the year of a server in their name.
        ((10, 0, 17763), False, "Windows 10 Enterprise LTSC 2019", 14, "windows9-64", "win/10", "win10"),
        ((10, 0, 26100), False, "Windows 11 Pro", 20, "windows11-64", "win/11", "win11"),
        ((10, 0, 26100), False, "Windows 11 Pro", 14, "windows9-64", "win/11", "win11"),
        ((10, 0, 17763), True, "Windows Server 2019 Standard", 11, "windows9srv-64", "win/2k19", "win10"),
        # A German one; and what an upgrade left of the name.
        ((10, 0, 20348), True, "Windows Server", 20, "windows2019srvnext-64", "win/2k22", "win11"),
        ((10, 0, 26100), True, "Windows Server 2025", 20, "windows2022srvnext-64", "win/2k25", "win11"),
        ((10, 0, 26100), True, "Windows Server 2025", 14, "windows2019srv-64", "win/2k25", "win11"),
    ],
)  # fmt: skip
def test_a_windows_is_called_by_its_kernel(
    version: tuple[int, int, int],
    *,
    server: bool,
    name: str,
    hardware: int,
    vmx: str,
    osinfo: str,
    proxmox: str,
) -> None:
    kind = ProductType.SERVER if server else ProductType.WORKSTATION
    system = OperatingSystem("windows", "", name, "windows", windows=WindowsSystem(*version, kind))
    names = guest_names(system, hardware=hardware)
    assert (names.vmx, names.proxmox) == (vmx, proxmox)
    assert osinfo_id(system) == f"http://microsoft.com/{osinfo}"


def test_32_bit_names() -> None:
    old = OperatingSystem("debian", "5", "Debian", "", architecture="i686")
    names = guest_names(old, hardware=4)
    assert (names.vmx, names.vim, names.cim, names.virtualbox) == ("debian5", "debian5Guest", 95, "Debian")
    assert guest_names(dataclasses.replace(old, id="rhel", version="3")).proxmox == "l24"
