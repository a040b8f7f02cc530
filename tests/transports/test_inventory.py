"""The inventory of a source: what is believed, and what names a disk or a machine."""

from __future__ import annotations

from typing import Any

import pytest

from p2v.model import GiB, MiB
from p2v.transports import remote_inventory
from p2v.transports.inventory import parse_inventory

DISK = {
    "name": "sda", "size": 4 * GiB, "sector_size": 512, "removable": False, "model": "ACME", "serial": "S1",
    "wwn": "0x5002", "links": ["/dev/disk/by-path/pci-0", "/dev/disk/by-id/ata-ACME_S1"],
    "partitions": [
        {"name": "sda1", "number": 1, "start": MiB},
        {"name": "sda5", "number": 5, "start": GiB},
    ],
}  # fmt: skip
MOUNTS = """\
/dev/sda1 / ext4 rw 0 0
proc /proc proc rw 0 0
/dev/sda1 /bind ext4 rw 0 0
/dev/sda9 /x ext4 rw 0 0
"""
ADDRESSES = """\
2: eno1    inet 10.0.0.5/24 brd 10.0.0.255 scope global eno1
2: eno1    inet6 fe80::1/64 scope link
2: eno1    inet6 2001:db8::5/64 scope global
3: eno10    inet 10.9.9.9/24 scope global
"""
FACTS: dict[str, Any] = {
    "hostname": "web01", "kernel": "6.1.0", "architecture": "x86_64", "cpus": 2, "memory": 4 * GiB,
    "uefi": True, "machine_id": "ab" * 16, "vendor": "ACME", "product": "R1",
    "uuid": "6A1F2F10-9D3C-11E6-8F4B-001B213A4F15", "hypervisor": False, "cmdline": "",
    "os_release": 'ID=ubuntu\nID_LIKE="debian"\nPRETTY_NAME="Ubuntu 24.04"\nVERSION_ID="24.04"\n',
    "disks": [DISK],
    "nics": [
        {"name": "eno1", "mac": "00:1B:21:3A:4F:15", "driver": "igb"},
        {"name": "ib0", "mac": "80:00:00", "driver": "mlx"},
    ],
    "mounts": MOUNTS,
    "swaps": "Filename Type Size Used Priority\n/dev/sda5 partition 100 0 -2\n",
    "addresses": ADDRESSES,
    "routes": "Iface\tDestination\tGateway\neno1\t00000000\t0100000A\t0003\n",
}  # fmt: skip


def test_a_machine_out_of_facts() -> None:
    survey = parse_inventory(FACTS)
    machine = survey.machine
    assert machine.uuid == "6a1f2f10-9d3c-11e6-8f4b-001b213a4f15"
    assert machine.os is not None
    assert (machine.os.id, machine.os.family, machine.os.name) == ("ubuntu", "debian", "Ubuntu 24.04")
    (disk,) = machine.disks
    assert disk.names == ("/dev/sda", "/dev/disk/by-id/ata-ACME_S1", "/dev/disk/by-path/pci-0")
    assert disk.identity == "0x5002"
    (nic,) = machine.nics
    assert (nic.mac, nic.addresses, nic.gateway) == (
        "00:1b:21:3a:4f:15",
        ("10.0.0.5/24", "2001:db8::5/64"),
        "10.0.0.1",
    )


def test_mounts_name_their_partition_once() -> None:
    mounts = parse_inventory(FACTS).mounts
    assert [(mount.disk, mount.partition, mount.place) for mount in mounts] == [
        ("/dev/sda", 1, "/"),
        ("/dev/sda", 5, "[swap]"),
    ]


def test_names_with_slashes_and_spaces() -> None:
    """The kernel writes `!` for a slash in names of controllers, and octal for a space in a mount point."""
    disk = {**DISK, "name": "cciss!c0d0", "partitions": [{"name": "cciss!c0d0p1", "number": 1, "start": MiB}]}
    facts = {**FACTS, "disks": [disk], "mounts": "/dev/cciss/c0d0p1 /my\\040data ext4 rw 0 0\n"}
    survey = parse_inventory(facts)
    assert survey.machine.disks[0].path == "/dev/cciss/c0d0"
    assert survey.mounts[0].place == "/my data"


@pytest.mark.parametrize(
    "uuid",
    [
        "",
        "00000000-0000-0000-0000-000000000000",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
        "03000200-0400-0500-0006-000700080009",
    ],
)
def test_a_uuid_that_every_board_has_names_no_machine(uuid: str) -> None:
    machine = parse_inventory({**FACTS, "uuid": uuid}).machine
    assert machine.uuid == ""
    assert machine.identity.startswith("disk:0x5002")


def test_removable_and_tiny_disks_are_not_the_machines() -> None:
    disks = [DISK, {**DISK, "name": "sdb", "removable": True}, {**DISK, "name": "sdc", "size": 4096}]
    assert [disk.path for disk in parse_inventory({**FACTS, "disks": disks}).machine.disks] == ["/dev/sda"]


@pytest.mark.parametrize(
    ("properties", "serial"),
    [
        ({"ID_SERIAL_SHORT": "S3Z8"}, "S3Z8"),
        ({"ID_SERIAL_SHORT": "5000c500a1", "ID_SCSI_SERIAL": "ZA2"}, "ZA2"),
        ({"ID_SCSI_SERIAL": "ZA2", "SCSI_IDENT_SERIAL": "ZA2-LABEL"}, "ZA2-LABEL"),
        ({}, ""),
    ],
)
def test_the_serial_is_that_of_the_label(properties: dict[str, str], serial: str) -> None:
    """udev calls the WWN of a SCSI disk its short serial."""
    assert remote_inventory.serial_of("/nowhere", properties) == serial
