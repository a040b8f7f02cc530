"""Configurations as documents: YAML, XML, and Xen's own parser."""

from __future__ import annotations

import ctypes
import ctypes.util
import dataclasses
import os
import re
import struct
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from p2v.errors import TargetError
from p2v.model import Clock, DiskBus, NicModel
from tests.targets.machines import IMAGES, UUID, hostile, large, machine, plain, target_for

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
VBOX = "{http://www.virtualbox.org/}"


def kubevirt(kind: str) -> list[Any]:
    target, vm = {"plain": plain, "large": large, "hostile": hostile}[kind]("kubevirt")
    return list(yaml.safe_load_all(target.render(vm, IMAGES)[0].text))


@pytest.mark.parametrize("kind", ["plain", "large", "hostile"])
def test_kubevirt_names_are_labels(kind: str) -> None:
    for document in kubevirt(kind):
        assert LABEL.fullmatch(document["metadata"]["name"]), document["metadata"]["name"]


def test_kubevirt_machine() -> None:
    *volumes, machine_document = kubevirt("large")
    assert [each["kind"] for each in volumes] == ["DataVolume"] * 5
    spec = machine_document["spec"]["template"]["spec"]
    domain = spec["domain"]
    # Without a word on it, KubeVirt turns Secure Boot on and refuses a machine without SMM.
    assert domain["firmware"]["bootloader"] == {"efi": {"secureBoot": False}}
    assert domain["firmware"]["uuid"] == UUID.lower()
    assert (domain["memory"]["guest"], domain["cpu"]["cores"]) == ("2048Mi", 2)
    disks, interfaces = domain["devices"]["disks"], domain["devices"]["interfaces"]
    assert [disk["name"] for disk in disks] == [volume["name"] for volume in spec["volumes"]]
    assert [volume["dataVolume"]["name"] for volume in spec["volumes"]] == [
        each["metadata"]["name"] for each in volumes
    ]
    assert [disk.get("bootOrder") for disk in disks] == [1, None, None, None, None]
    assert [card["name"] for card in interfaces] == [network["name"] for network in spec["networks"]]
    assert [card["macAddress"][-2:] for card in interfaces] == ["15", "16", "17"]


def test_virtualbox_knows_its_disks() -> None:
    target, vm = large("virtualbox")
    root = ET.fromstring(target.render(vm, IMAGES)[0].text.encode())
    registered = {disk.get("uuid"): disk.get("location") for disk in root.iter(f"{VBOX}HardDisk")}
    attached = [image.get("uuid") for image in root.iter(f"{VBOX}Image")]
    assert [registered[each] for each in attached] == [disk.file for disk in vm.disks]
    assert all(uuid.UUID((each or "")[1:-1]) for each in attached)
    ports = [device.get("port") for device in root.iter(f"{VBOX}AttachedDevice")]
    assert ports == ["0", "1", "2", "3", "4"]
    firmware = root.find(f".//{VBOX}Firmware")
    assert firmware is not None
    assert firmware.get("type") == "EFI"
    cards = list(root.iter(f"{VBOX}Adapter"))
    assert [card.get("MACAddress") for card in cards] == ["001B213A4F15", "001B213A4F16", "001B213A4F17"]
    assert {card.get("type") for card in cards} == {"82540EM"}


def test_virtualbox_clock_and_ide() -> None:
    target = target_for("virtualbox:ide,pcnet")
    vm = dataclasses.replace(machine(target, disks=3), clock=Clock.LOCAL)
    root = ET.fromstring(target.render(vm, IMAGES)[0].text.encode())
    (clock,) = root.iter(f"{VBOX}RTC")
    assert clock.get("localOrUTC") == "local"
    places = [(each.get("port"), each.get("device")) for each in root.iter(f"{VBOX}AttachedDevice")]
    assert places == [("0", "0"), ("0", "1"), ("1", "0")]


@pytest.mark.parametrize("kind", ["plain", "large", "hostile"])
def test_vmc_is_utf_16_and_typed(kind: str) -> None:
    target, vm = {"plain": plain, "large": large, "hostile": hostile}[kind]("virtualserver")
    content = target.render(vm, IMAGES)[0].content
    assert content.startswith((b"\xff\xfe<\0", b"\xfe\xff\0<"))
    root = ET.fromstring(content)
    assert root.tag == "preferences"
    assert root.findtext("version") == "2.0"
    for leaf in root.iter():
        if len(leaf) == 0:
            assert leaf.get("type") in ("string", "integer", "boolean", "bytes"), leaf.tag
    locations = root.findall("hardware/pci_bus/ide_adapter/ide_controller/location")
    assert [each.findtext("drive_type") for each in locations] == ["1"] * len(vm.disks)
    assert [each.findtext("pathname/relative") for each in locations] == [
        f".\\{disk.file}" for disk in vm.disks
    ]
    cards = root.findall("hardware/pci_bus/ethernet_adapter/ethernet_controller/ethernet_card_address")
    assert [card.text for card in cards] == [nic.mac.replace(":", "").upper() for nic in vm.nics]
    assert root.findtext("hardware/memory/ram_size") == "2048"


class XenConfig:
    """`libxlutil`, the parser that `xl` itself uses. It needs no hypervisor."""

    def __init__(self, text: str) -> None:
        names = sorted(Path("/usr/lib").glob("*/libxlutil.so.*"))
        if not names and os.environ.get("CI"):
            pytest.fail("not installed: libxlutil (apt install libxen-dev)")
        if not names:
            pytest.skip("not installed: libxlutil (apt install libxen-dev)")
        self._library = ctypes.CDLL(str(names[-1]))
        self._library.xlu_cfg_init.restype = ctypes.c_void_p
        libc = ctypes.CDLL(ctypes.util.find_library("c"))
        errors = ctypes.c_void_p.in_dll(libc, "stderr")
        self._config = ctypes.c_void_p(self._library.xlu_cfg_init(errors, b"test.cfg"))
        data = text.encode()
        assert self._library.xlu_cfg_readdata(self._config, data, len(data)) == 0

    def string(self, key: str) -> str:
        found = ctypes.c_char_p()
        self._library.xlu_cfg_get_string(self._config, key.encode(), ctypes.byref(found), 0)
        return (found.value or b"").decode()

    def number(self, key: str) -> int:
        found = ctypes.c_long()
        assert self._library.xlu_cfg_get_long(self._config, key.encode(), ctypes.byref(found), 0) == 0
        return found.value

    def strings(self, key: str) -> list[str]:
        found, count = ctypes.c_void_p(), ctypes.c_int()
        get = self._library.xlu_cfg_get_list
        assert get(self._config, key.encode(), ctypes.byref(found), ctypes.byref(count), 0) == 0
        item = self._library.xlu_cfg_get_listitem
        item.restype = ctypes.c_char_p
        return [item(found, index).decode() for index in range(count.value)]

    def disk(self, specification: str) -> tuple[str, str]:
        """Path and name of a disk: the third and fourth field of libxl_device_disk."""
        buffer = ctypes.create_string_buffer(4096)
        words = (ctypes.c_char_p * 1)(specification.encode())
        assert self._library.xlu_disk_parse(self._config, 1, words, buffer) == 0
        path, name = struct.unpack_from("@PP", buffer.raw, 16)
        return _c_string(path), _c_string(name)


def _c_string(address: int) -> str:
    return (ctypes.cast(address, ctypes.c_char_p).value or b"").decode()


@pytest.mark.parametrize("words", ["xen", "xen:raw"])
def test_xen_reads_it(words: str) -> None:
    target, vm = large(words)
    config = XenConfig(target.render(vm, IMAGES)[0].text)
    assert (config.string("name"), config.string("type")) == ("web01", "hvm")
    assert config.string("firmware") == "ovmf"
    assert (config.number("memory"), config.number("vcpus")) == (2048, 2)
    disks = [config.disk(each) for each in config.strings("disk")]
    assert disks == [
        (f"{IMAGES}/{disk.file}", f"xvd{letter}") for disk, letter in zip(vm.disks, "abcde", strict=True)
    ]
    assert [each.split(",")[0] for each in config.strings("vif")] == [f"mac={nic.mac}" for nic in vm.nics]


def test_xen_reads_hostile_names_and_odd_paths() -> None:
    target, vm = hostile("xen")
    folder = Path("/srv/a run's (folder), target=/etc/passwd")
    config = XenConfig(target.render(vm, folder)[0].text)
    assert config.string("name") == "a-b-c-id--x"
    assert config.disk(config.strings("disk")[0]) == (f"{folder}/disk0.qcow2", "xvda")
    assert config.string("uuid") == ""


def test_xen_emulates_for_old_guests() -> None:
    target, vm = plain("xen")
    disks = (dataclasses.replace(vm.disks[0], bus=DiskBus.IDE),)
    nics = (dataclasses.replace(vm.nics[0], model=NicModel.E1000),)
    config = XenConfig(target.render(dataclasses.replace(vm, disks=disks, nics=nics), IMAGES)[0].text)
    assert config.disk(config.strings("disk")[0])[1] == "hda"


def test_xen_refuses_a_path_that_it_cannot_hold() -> None:
    target, vm = plain("xen")
    with pytest.raises(TargetError, match="--output"):
        target.render(vm, Path('/srv/a"b'))
