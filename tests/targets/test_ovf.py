"""OVF descriptors against the rules of DSP0243 1.1 that an importer trips over.

The rules are written down here from the standard's text: order of sections and of the properties of an Item,
references that lead somewhere, instance identifiers that are unique, parents that exist, resource types of
CIM_ResourceAllocationSettingData, and a manifest of SHA-256.
"""

from __future__ import annotations

import dataclasses
import xml.etree.ElementTree as ET
from collections.abc import Callable

import pytest

from p2v.model import Firmware, GiB, Image, ImageFormat, MiB, VirtualMachine
from p2v.targets import ovf, vsphere
from p2v.targets.ova import manifest
from p2v.targets.vmware_products import PRODUCTS
from tests.targets.machines import hostile, machine, plain, target_for

OVF = "{http://schemas.dmtf.org/ovf/envelope/1}"
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
RASD = f"{{{CIM}/CIM_ResourceAllocationSettingData}}"
VSSD = f"{{{CIM}/CIM_VirtualSystemSettingData}}"
VMW = "{http://www.vmware.com/schema/ovf}"

Kind = tuple[VirtualMachine, ovf.Dialect]


def vmware_plain() -> Kind:
    return plain("vmware:ova")[1], ovf.Dialect.vmware(14)


def vmware_large() -> Kind:
    target = target_for("vmware:ova,lsi-sas,e1000", Firmware.UEFI)
    return machine(target, firmware=Firmware.UEFI, disks=17, nics=3), ovf.Dialect.vmware(14)


def vmware_sata() -> Kind:
    return machine(target_for("vmware:ova,sata"), disks=31), ovf.Dialect.vmware(13)


def vmware_ide() -> Kind:
    return machine(target_for("vmware:esx4,ova,ide"), disks=4), ovf.Dialect.vmware(7)


def vmware_hostile() -> Kind:
    return hostile("vmware:ova")[1], ovf.Dialect.vmware(14)


def virtualbox_plain() -> Kind:
    return plain("virtualbox:ova")[1], ovf.Dialect.virtualbox()


def virtualbox_large() -> Kind:
    return machine(target_for("virtualbox:ova,pcnet"), disks=5, nics=2), ovf.Dialect.virtualbox()


KINDS: list[Callable[[], Kind]] = [
    vmware_plain,
    vmware_large,
    vmware_sata,
    vmware_ide,
    vmware_hostile,
    virtualbox_plain,
    virtualbox_large,
]


def images_of(vm: VirtualMachine) -> tuple[Image, ...]:
    return tuple(Image(disk.file, ImageFormat.VMDK, 12345, "ab" * 32) for disk in vm.disks)


def filled_of(vm: VirtualMachine) -> tuple[int, ...]:
    return tuple(MiB * number for number in range(1, len(vm.disks) + 1))


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param()
    return found


@pytest.fixture
def envelope(kind: Kind) -> ET.Element:
    return ET.fromstring(ovf.render(*kind, images_of(kind[0]), filled_of(kind[0])).encode())


def names(parent: ET.Element) -> list[str]:
    return [child.tag for child in parent]


def items(envelope: ET.Element) -> list[dict[str, str]]:
    return [
        {child.tag.removeprefix(RASD): child.text or "" for child in item}
        for item in envelope.iter(f"{OVF}Item")
    ]


def test_order_of_sections(envelope: ET.Element) -> None:
    assert names(envelope) == [
        f"{OVF}References",
        f"{OVF}DiskSection",
        f"{OVF}NetworkSection",
        f"{OVF}VirtualSystem",
    ]
    system = envelope[-1]
    assert names(system) == [
        f"{OVF}Info",
        f"{OVF}Name",
        f"{OVF}OperatingSystemSection",
        f"{OVF}VirtualHardwareSection",
    ]
    for section in (*envelope[1:3], *system[2:]):
        assert section[0].tag == f"{OVF}Info"


def test_every_reference_leads_somewhere(envelope: ET.Element, kind: Kind) -> None:
    vm = kind[0]
    files = {each.get(f"{OVF}id"): each for each in envelope.iter(f"{OVF}File")}
    disks = {each.get(f"{OVF}diskId"): each for each in envelope.iter(f"{OVF}Disk")}
    assert [each.get(f"{OVF}href") for each in files.values()] == [disk.file for disk in vm.disks]
    assert all(each.get(f"{OVF}size") == "12345" for each in files.values())
    assert [each.get(f"{OVF}fileRef") for each in disks.values()] == list(files)
    assert all(each.get(f"{OVF}capacity") == str(4 * GiB) for each in disks.values())
    assert all(each.get(f"{OVF}capacityAllocationUnits") == "byte" for each in disks.values())
    hosts = [item["HostResource"] for item in items(envelope) if item["ResourceType"] == "17"]
    assert hosts == [f"ovf:/disk/{name}" for name in disks]
    assert [int(each.get(f"{OVF}populatedSize") or 0) for each in disks.values()] == list(filled_of(vm))
    networks = [each.get(f"{OVF}name") for each in envelope.iter(f"{OVF}Network")]
    assert len(set(networks)) == len(networks) == len(vm.nics)
    # One for each card: they may hang on different ones, and the importer asks where each leads.
    assert [item["Connection"] for item in items(envelope) if "Connection" in item] == networks


def test_properties_of_an_item_are_in_order(envelope: ET.Element) -> None:
    for item in envelope.iter(f"{OVF}Item"):
        tags = [child.tag.removeprefix(RASD) for child in item]
        assert tags == sorted(tags)
        assert {"ElementName", "InstanceID", "ResourceType"} <= set(tags)


def test_instances_are_unique_and_parents_come_first(envelope: ET.Element) -> None:
    seen: dict[str, dict[str, str]] = {}
    places = set()
    for item in items(envelope):
        assert item["InstanceID"] not in seen
        if item["ResourceType"] == "17":
            parent = seen[item["Parent"]]
            assert parent["ResourceType"] in ("5", "6", "20")
            place = (item["Parent"], item["AddressOnParent"])
            assert place not in places
            places.add(place)
        seen[item["InstanceID"]] = item


def test_machine_is_whole(envelope: ET.Element, kind: Kind) -> None:
    vm = kind[0]
    found = items(envelope)
    (processors,) = [item for item in found if item["ResourceType"] == "3"]
    (memory,) = [item for item in found if item["ResourceType"] == "4"]
    cards = [item for item in found if item["ResourceType"] == "10"]
    assert processors["VirtualQuantity"] == str(vm.cpus)
    assert (memory["VirtualQuantity"], memory["AllocationUnits"]) == ("2048", "byte * 2^20")
    assert [card["Address"] for card in cards] == [nic.mac for nic in vm.nics]


def test_memory_is_what_vmware_takes() -> None:
    vm, dialect = vmware_plain()
    odd = dataclasses.replace(vm, memory=GiB + 5 * MiB)
    envelope = ET.fromstring(ovf.render(odd, dialect, images_of(odd), filled_of(odd)))
    (memory,) = [item for item in items(envelope) if item["ResourceType"] == "4"]
    assert memory["VirtualQuantity"] == "1032"


@pytest.mark.parametrize(
    ("cards", "networks"),
    [(["eth0", "eth1"], ("eth0", "eth1")), (["eth0", ""], ("nic0", "nic1")), (["a", "a"], ("nic0", "nic1"))],
)
def test_vsphere_is_told_networks_by_the_cards_names(cards: list[str], networks: tuple[str, ...]) -> None:
    assert vsphere.networks_of(cards) == networks


def test_vmwares_own_words() -> None:
    vm, dialect = vmware_large()
    envelope = ET.fromstring(ovf.render(vm, dialect, images_of(vm), filled_of(vm)))
    assert envelope.findtext(f".//{VSSD}VirtualSystemType") == "vmx-14"
    section = envelope.find(f".//{OVF}OperatingSystemSection")
    assert section is not None
    assert (section.get(f"{OVF}id"), section.get(f"{VMW}osType")) == ("96", "other4xLinux64Guest")
    (config,) = envelope.iter(f"{VMW}Config")
    assert (config.get(f"{VMW}key"), config.get(f"{VMW}value")) == ("firmware", "efi")
    subtypes = [item.get("ResourceSubType") for item in items(envelope)]
    assert subtypes.count("lsilogicsas") == 2
    assert subtypes.count("E1000") == 3
    # 7 is the address of the controller itself.
    assert "7" not in [item["AddressOnParent"] for item in items(envelope) if item["ResourceType"] == "17"]


@pytest.mark.parametrize("product", [name for name, each in PRODUCTS.items() if each.is_modern])
def test_system_type_has_two_digits(product: str) -> None:
    assert len(ovf.Dialect.vmware(PRODUCTS[product].hardware).system_type) == len("vmx-07")


def test_hostile_names_stay_data() -> None:
    vm, dialect = vmware_hostile()
    envelope = ET.fromstring(ovf.render(vm, dialect, images_of(vm), filled_of(vm)).encode())
    assert envelope.findtext(f".//{OVF}Name") == "../a<b>&\"c' \u2019;`$(id)\\ é/ -x"
    system = envelope.find(f"{OVF}VirtualSystem")
    assert system is not None
    identifier = system.get(f"{OVF}id") or ""
    assert not set(identifier) & set("/<>&\"' \n\x01")


def test_manifest() -> None:
    images = (Image("disk0.vmdk", ImageFormat.VMDK, 1, "ab" * 32),)
    assert manifest("m.ovf", b"abc", images) == (
        "SHA256(m.ovf)= ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\n"
        f"SHA256(disk0.vmdk)= {'ab' * 32}\n"
    )
