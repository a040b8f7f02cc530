"""Imports into the simulator of govmomi: what is in the inventory afterwards, and which bytes arrived."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import pytest

from p2v.errors import PlanRefused
from p2v.model import Firmware, Image, ImageFormat
from p2v.targets import ovf
from p2v.ui import UI
from p2v.vsphere.importer import check_placement, import_machine, is_there
from p2v.vsphere.session import open_session
from p2v.vsphere.settings import Appliance, DiskNeed, Needs, NetworkMap, Placement, Provisioning
from p2v.vsphere.trust import CertificateRefused
from tests.vsphere.appliances import CAPACITIES, MACS, SIZES, UUID
from tests.vsphere.simulator import LIMITS, SECRET, Simulator, running

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]


def test_the_machine_is_what_was_asked_for(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    imported = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert imported.warnings == ()
    found = vcenter.machine(appliance.machine.name)
    assert found["Ref"] == imported.reference
    assert (found["CPUs"], found["MemoryMB"], found["Firmware"]) == (4, 6144, "efi")
    assert found["Uuid"] == UUID
    assert found["InstanceUuid"] == imported.instance_uuid
    assert found["Version"] == "vmx-13"
    assert (found["Folder"], found["Power"]) == ("vm", "poweredOff")
    assert found["Host"] == imported.location.host
    assert found["Host"].startswith("DC0_C0_H")
    assert [disk["KB"] * 1024 for disk in found["Disks"]] == list(CAPACITIES)
    assert {disk["Controller"] for disk in found["Disks"]} == {"ParaVirtualSCSIController"}
    assert all(disk["Thin"] for disk in found["Disks"])
    assert found["Cards"] == [
        {"Mac": MACS[0], "Network": "VM Network", "Model": "VirtualVmxnet3"},
        {"Mac": MACS[1], "Network": "DC0_DVPG0", "Model": "VirtualE1000"},
    ]


def test_every_byte_arrives(vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI) -> None:
    imported = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    uploads = vcenter.seen()["uploads"]
    sent = [hashlib.sha256(file.path.read_bytes()).hexdigest() for file in appliance.files]
    assert [upload["Sha256"] for upload in uploads] == sent
    assert [upload["Size"] for upload in uploads] == list(SIZES)
    assert all(upload["Whole"] and upload["Promised"] == upload["Size"] for upload in uploads)
    assert {(item["Method"], item["Type"]) for item in uploads} == {
        ("POST", "application/x-vnd.vmware-streamVmdk")
    }
    assert [(file.sha256, file.size) for file in imported.files] == list(zip(sent, SIZES, strict=True))


def test_uploads_go_to_the_host_that_the_lease_names_and_vouches_for(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.behave(SeparateHost=True)
    import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert {upload["Host"] for upload in vcenter.seen()["uploads"]} == {vcenter.host}


def test_without_a_thumbprint_an_upload_is_verified_as_the_server_is(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.behave(NoThumbprint=True)
    import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    vcenter.behave(NoThumbprint=True, SeparateHost=True)
    other = replace(appliance, machine=replace(appliance.machine, name="other"))
    with pytest.raises(CertificateRefused, match="not trusted"):
        import_machine(vcenter.server(), SECRET, place, other, ui, limits=LIMITS)
    assert {upload["Host"] for upload in vcenter.seen()["uploads"]} == {vcenter.address}


def test_the_lease_is_kept_alive_while_a_slow_upload_goes_on(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI, stderr: io.StringIO
) -> None:
    vcenter.behave(BytesPerSecond=4_000_000, ReadyMillis=400)
    import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    progress = vcenter.seen()["progress"]
    assert len(progress) >= 3
    assert progress == sorted(progress)
    assert 0 < progress[-1] < 100
    assert "upload: " in stderr.getvalue()


def test_a_limit_is_kept_and_counts_every_byte(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    taken: list[int] = []
    import_machine(vcenter.server(), SECRET, place, appliance, ui, throttle=taken.append, limits=LIMITS)
    assert sum(taken) == sum(SIZES)


def test_power_on_and_thick_disks(vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI) -> None:
    wished = replace(place, power_on=True, provisioning=Provisioning.THICK, datastore="LocalDS_1")
    # The simulated hosts have two CPU threads, which is checked for machines that are to run.
    small = replace(appliance, machine=replace(appliance.machine, cpus=2))
    imported = import_machine(vcenter.server(), SECRET, wished, small, ui, limits=LIMITS)
    found = vcenter.machine(appliance.machine.name)
    assert imported.powered_on
    assert found["Power"] == "poweredOn"
    assert not any(disk["Thin"] for disk in found["Disks"])
    assert imported.warnings == ("vSphere changed the number of CPUs: 4, not 2",)


def test_a_machine_that_cannot_be_powered_on_stays(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.behave(Faults={"PowerOnVM_Task": "InsufficientResourcesFault"})
    small = replace(appliance, machine=replace(appliance.machine, cpus=2))
    imported = import_machine(
        vcenter.server(), SECRET, replace(place, power_on=True), small, ui, limits=LIMITS
    )
    assert not imported.powered_on
    assert any("not powered on" in text and "InsufficientResources" in text for text in imported.warnings)
    assert vcenter.machine(appliance.machine.name)["Power"] == "poweredOff"


def test_what_the_server_changed_is_told(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.behave(CPUs=1, Firmware="bios", NoNetwork=True)
    imported = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert imported.warnings == (
        "vSphere changed the number of CPUs: 1, not 4",
        "vSphere changed the firmware: bios, not uefi",
        "vSphere did not connect network card 0 to VM Network, DC0_DVPG0",
        "vSphere did not connect network card 1 to VM Network, DC0_DVPG0",
    )


def test_firmware_that_the_descriptor_does_not_tell_is_set(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    text = appliance.descriptor.replace('vmw:value="efi"', 'vmw:value="bios"')
    assert text != appliance.descriptor
    import_machine(vcenter.server(), SECRET, place, replace(appliance, descriptor=text), ui, limits=LIMITS)
    assert appliance.machine.firmware is Firmware.UEFI
    assert vcenter.machine(appliance.machine.name)["Firmware"] == "efi"


def test_host_pool_and_folder_by_name(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    with open_session(vcenter.server(), SECRET, LIMITS) as session:
        folder = session.content.rootFolder.childEntity[0].vmFolder
        if not any(child.name == "converted" for child in folder.childEntity):
            folder.CreateFolder("converted").CreateFolder("a%2fb")
    wished = replace(
        place,
        cluster="",
        host="DC0_C0_H1",
        resource_pool="DC0_C0_RP1",
        folder="/DC0/vm/converted",
        networks=(NetworkMap("", "VM Network"),),
    )
    imported = import_machine(vcenter.server(), SECRET, wished, appliance, ui, limits=LIMITS)
    found = vcenter.machine(appliance.machine.name)
    assert (found["Host"], found["Pool"], found["Folder"]) == ("DC0_C0_H1", "DC0_C0_RP1", "converted")
    assert imported.location.folder == "/DC0/vm/converted"
    assert {card["Network"] for card in found["Cards"]} == {"VM Network"}


def test_a_host_in_maintenance_is_not_chosen(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.order(Maintain=["DC0_C0_H0", "DC0_C0_H2"])
    imported = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert imported.location.host == "DC0_C0_H1"


def test_a_single_esxi_host_needs_no_names(esxi: Simulator, appliance: Appliance, ui: UI) -> None:
    imported = import_machine(esxi.server(), SECRET, Placement(), appliance, ui, limits=LIMITS)
    found = esxi.machine(appliance.machine.name)
    assert (found["CPUs"], found["Firmware"], found["Host"]) == (4, "efi", "localhost.localdomain")
    assert "ESX" in imported.location.product
    assert len(esxi.seen()["uploads"]) == 2


def test_the_descriptor_that_the_vmware_target_writes(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    images = tuple(
        Image(disk.file, ImageFormat.VMDK, size)
        for disk, size in zip(appliance.machine.disks, SIZES, strict=True)
    )
    text = ovf.render(
        appliance.machine, ovf.Dialect.vmware(13), images, CAPACITIES, networks=("eth0", "eth1")
    )
    ours = replace(appliance, descriptor=text)
    wished = replace(place, networks=(NetworkMap("eth0", "DC0_DVPG0"), NetworkMap("", "VM Network")))
    imported = import_machine(vcenter.server(), SECRET, wished, ours, ui, limits=LIMITS)
    assert imported.warnings == ()
    found = vcenter.machine(appliance.machine.name)
    assert (found["CPUs"], found["MemoryMB"], found["Firmware"]) == (4, 6144, "efi")
    assert [disk["KB"] * 1024 for disk in found["Disks"]] == list(CAPACITIES)
    assert [card["Network"] for card in found["Cards"]] == ["DC0_DVPG0", "VM Network"]
    assert [card["Mac"] for card in found["Cards"]] == list(MACS)
    assert [upload["Size"] for upload in vcenter.seen()["uploads"]] == list(SIZES)


def test_a_place_is_checked_without_an_appliance(vcenter: Simulator, place: Placement) -> None:
    before = vcenter.inventory()
    needs = Needs("new", 2, 1 << 30, (DiskNeed(1 << 30, 1 << 20),), ("VM Network",))
    location = check_placement(vcenter.server(), SECRET, replace(place, networks=()), needs, limits=LIMITS)
    assert (location.datacenter, location.datastore, location.folder) == ("DC0", "LocalDS_0", "/DC0/vm")
    assert [(wire.source, wire.target) for wire in location.networks] == [("VM Network", "VM Network")]
    assert vcenter.inventory() == before
    vcenter.order(FreeSpace={"LocalDS_0": 1000})
    with pytest.raises(PlanRefused, match="1000 B free"):
        check_placement(vcenter.server(), SECRET, replace(place, networks=()), needs, limits=LIMITS)


OWN = "11111111-2222-4333-8444-555555555555"


def test_what_a_killed_import_has_left_gives_way(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI, stderr: io.StringIO
) -> None:
    """It is known by the UUID that it was to have; another one of that name is nobody's leftover."""
    first = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS, instance_uuid=OWN)
    again = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS, instance_uuid=OWN)
    assert again.reference != first.reference
    assert vcenter.machine(appliance.machine.name)["Ref"] == again.reference
    assert "an import that was killed" in stderr.getvalue()
    with pytest.raises(PlanRefused, match="already a"):
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert vcenter.machine(appliance.machine.name)["Ref"] == again.reference
    assert is_there(vcenter.server(), SECRET, OWN, limits=LIMITS)
    assert not is_there(vcenter.server(), SECRET, OWN.replace("1", "9"), limits=LIMITS)


def test_a_leftover_that_somebody_uses_stays(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    own = OWN.replace("1", "2")
    small = replace(appliance, machine=replace(appliance.machine, cpus=2))
    wished = replace(place, power_on=True)
    first = import_machine(vcenter.server(), SECRET, wished, small, ui, limits=LIMITS, instance_uuid=own)
    with pytest.raises(PlanRefused, match="is there, and runs"):
        import_machine(vcenter.server(), SECRET, wished, small, ui, limits=LIMITS, instance_uuid=own)
    found = vcenter.machine(appliance.machine.name)
    assert (found["Ref"], found["Power"]) == (first.reference, "poweredOn")


def test_the_session_is_closed(vcenter: Simulator, place: Placement) -> None:
    needs = Needs("new", 2, 1 << 30, (DiskNeed(1 << 30, 1 << 20),))
    check_placement(
        vcenter.server(), SECRET, place, replace(needs, networks=("front", "back")), limits=LIMITS
    )
    calls = vcenter.seen()["calls"]
    assert calls["Login"] == calls["Logout"] == 1


def test_the_simulator_ends_with_its_test(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running(tmp_path_factory.mktemp("short")) as simulator:
        assert simulator.seen()["machines"]
