"""Names that are not there, places that are too small: refused before anything is sent."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from p2v.errors import PlanRefused, UsageError
from p2v.model import GiB
from p2v.ui import UI
from p2v.vsphere.importer import import_machine
from p2v.vsphere.settings import Appliance, NetworkMap, Placement, Provisioning
from tests.vsphere.appliances import SIZES
from tests.vsphere.simulator import LIMITS, SECRET, Simulator

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

CASES = {
    "datacenter": ({"datacenter": "dc1"}, "no datacenter 'dc1' on .*; there are: DC0", "--datacenter DC0"),
    "cluster": ({"cluster": "DC0_C1"}, "no cluster 'DC0_C1' in .*; there are: DC0_C0", "--cluster DC0_C0"),
    "host": ({"cluster": "", "host": "DC0_H"}, "no host 'DC0_H' .*DC0_C0_H0.*DC0_H0", "--host DC0_H0"),
    "host-of-another": ({"host": "DC0_H0"}, "no host 'DC0_H0' in .*DC0_C0_H0", "--host"),
    "nothing": (
        {"cluster": ""},
        "Say where .* Clusters: DC0_C0; hosts without one: DC0_H0",
        "--cluster DC0_C0",
    ),
    "datastore": ({"datastore": "LocalDS_2"}, "there are: LocalDS_0, LocalDS_1", "--datastore LocalDS_"),
    "no-datastore": (
        {"datastore": ""},
        "more than one datastore.*LocalDS_0, LocalDS_1",
        "--datastore LocalDS_0",
    ),
    "folder": ({"folder": "web/frontend"}, "no folder 'web' in 'vm'", ""),
    "pool": ({"resource_pool": "DC0_C0_RP2"}, "DC0_C0_RP1, Resources", "--resource-pool DC0_C0_RP1"),
    "network": (
        {"networks": (NetworkMap("", "VM Netwrk"),)},
        "no network 'VM Netwrk' .*; there are: DC0_DVPG0, VM Network$",
        "--network 'front=VM Network'",
    ),
    "no-such-network-of-the-machine": (
        {"networks": (NetworkMap("frnt", "VM Network"),)},
        "machine has no network 'frnt'; it has: front, back",
        "front=DST",
    ),
    "network-not-mapped": (
        {"networks": (NetworkMap("front", "VM Network"),)},
        "no network 'back' that cluster 'DC0_C0' reaches; there are: DC0_DVPG0, VM Network$",
        "",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_name_that_is_not_there(
    vcenter: Simulator,
    appliance: Appliance,
    place: Placement,
    ui: UI,
    case: tuple[dict[str, object], str, str],
) -> None:
    changes, match, hint = case
    before = vcenter.inventory()
    with pytest.raises(PlanRefused) as caught:
        import_machine(
            vcenter.server(), SECRET, replace(place, **changes), appliance, ui, limits=LIMITS  # type: ignore[arg-type]
        )  # fmt: skip
    assert re.search(match, caught.value.message)
    assert hint in caught.value.hint
    assert vcenter.inventory() == before
    assert "CreateImportSpec" not in vcenter.seen()["calls"]


def test_a_full_datastore_is_noticed_before_the_first_byte(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    # The second disk says that it fills 5 GiB, the first nothing: its file is the least that it takes.
    vcenter.order(FreeSpace={"LocalDS_0": 5 * GiB + SIZES[0] - 1})
    with pytest.raises(PlanRefused, match="LocalDS_0") as caught:
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert "--datastore" in caught.value.hint
    assert "ImportVApp" not in vcenter.seen()["calls"]
    vcenter.order(FreeSpace={"LocalDS_0": 5 * GiB + SIZES[0]})
    imported = import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert "can grow to 28.0 GiB" in imported.warnings[0]


def test_a_datastore_with_small_files(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.order(LargestFile=20 * GiB - 1)
    with pytest.raises(PlanRefused, match=r"at most 20\.0 GiB; a disk of"):
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)


def test_thick_disks_need_all_of_their_room(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    vcenter.order(FreeSpace={"LocalDS_0": 28 * GiB - 1})
    wished = replace(place, provisioning=Provisioning.THICK)
    with pytest.raises(PlanRefused, match=r"needs 28\.0 GiB") as caught:
        import_machine(vcenter.server(), SECRET, wished, appliance, ui, limits=LIMITS)
    assert "--provisioning thin" in caught.value.hint


def test_a_running_machine_needs_room_for_its_memory(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    small = replace(appliance, machine=replace(appliance.machine, cpus=1))
    vcenter.order(FreeSpace={"LocalDS_0": 11 * GiB})
    with pytest.raises(PlanRefused, match="free"):
        import_machine(vcenter.server(), SECRET, replace(place, power_on=True), small, ui, limits=LIMITS)


def test_a_host_too_small_to_run_it(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    with pytest.raises(PlanRefused, match="2 CPU threads"):
        import_machine(vcenter.server(), SECRET, replace(place, power_on=True), appliance, ui, limits=LIMITS)


def test_all_hosts_in_maintenance(vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI) -> None:
    vcenter.order(Maintain=["DC0_C0_H0", "DC0_C0_H1", "DC0_C0_H2"])
    with pytest.raises(PlanRefused, match="DC0_C0_H0 is in maintenance"):
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)


def test_a_name_that_is_taken(vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI) -> None:
    import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    before = vcenter.inventory()
    with pytest.raises(PlanRefused, match="already a") as caught:
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    assert "--name" in caught.value.hint
    assert vcenter.inventory() == before


def test_hardware_that_the_host_does_not_offer(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI
) -> None:
    newer = replace(appliance, descriptor=appliance.descriptor.replace("vmx-13", "vmx-21"))
    with pytest.raises(PlanRefused, match="up to vmx-13, not vmx-21"):
        import_machine(vcenter.server(), SECRET, place, newer, ui, limits=LIMITS)


def test_a_ca_file_that_is_none(vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI) -> None:
    server = vcenter.server(ca_file=appliance.files[0].path)
    with pytest.raises(UsageError, match="CA certificates"):
        import_machine(server, SECRET, place, appliance, ui, limits=LIMITS)
