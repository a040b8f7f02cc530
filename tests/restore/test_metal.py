"""What a rescue system says is plugged into its machine, and what it might say instead."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from p2v.errors import TransportError
from p2v.model import Firmware, Machine
from p2v.restore.metal import parse_metal
from p2v.transports import remote_devices

MACHINE = Machine("rescue", Firmware.UEFI, 1, 1, ())
NIC: dict[str, Any] = {
    "address": "0000:00:04.0",
    "vendor": 0x8086,
    "device": 0x10D3,
    "subsystem_vendor": 0x8086,
    "subsystem_device": 0,
    "revision": 0,
    "class_code": 0x020000,
    "driver": "e1000e",
}
ANSWER: dict[str, Any] = {"uid": 0, "devices": [NIC], "modaliases": ["pci:v1"], "efi_variables": True}


def test_devices_as_they_are_said() -> None:
    metal = parse_metal(ANSWER, MACHINE)
    assert metal.machine is MACHINE
    assert metal.efi_variables
    assert metal.modaliases == ("pci:v1",)
    (nic,) = metal.devices
    assert nic.is_network
    assert not nic.is_storage
    assert (nic.vendor, nic.device, nic.driver) == (0x8086, 0x10D3, "e1000e")


@pytest.mark.parametrize(
    "changed",
    [
        {"devices": "none"},
        {"devices": [{**NIC, "vendor": 0x10000}]},
        {"devices": [{**NIC, "vendor": "8086"}]},
        {"devices": [{**NIC, "driver": "x" * 5000}]},
        {"devices": [NIC] * 5000},
        {"modaliases": [1]},
        {"modaliases": None},
        {"efi_variables": "yes"},
    ],
)
def test_nonsense_is_the_machines_fault(changed: dict[str, Any]) -> None:
    with pytest.raises(TransportError, match="devices cannot be read"):
        parse_metal({**ANSWER, **changed}, MACHINE)


def test_the_script_finds_what_sysfs_has() -> None:
    """On whatever runs the tests: as many devices, the same numbers."""
    script = Path(str(remote_devices.__file__)).read_text()
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60, check=True).stdout
    assert said.startswith(b"\x00P2V1\x00")
    metal = parse_metal(json.loads(said[10:]), MACHINE)
    folder = Path("/sys/bus/pci/devices")
    there = {path.name: path for path in folder.iterdir()} if folder.exists() else {}
    assert {one.address for one in metal.devices} == set(there)
    for one in metal.devices:
        assert one.vendor == int((there[one.address] / "vendor").read_text(), 16)
        assert one.class_code == int((there[one.address] / "class").read_text(), 16)
