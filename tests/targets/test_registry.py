"""Targets by name and option, what they refuse, and their configurations as golden files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

import drivers
from p2v.errors import P2VError, TargetError, UsageError
from p2v.model import DiskBus, Firmware, GiB, MiB, NicModel, Plan, PlannedNic, Severity, TiB, VirtualMachine
from p2v.targets import TARGETS, Target, find_target, target_of
from tests.targets.machines import (
    EVERY,
    IMAGES,
    MAC,
    hostile,
    large,
    machine,
    plain,
    plan_for,
    planned_disk,
    target_for,
)

GOLDEN = Path(__file__).parents[2] / "fixtures/configs"
KINDS: dict[str, Callable[[str], tuple[Target, VirtualMachine]]] = {
    "plain": plain,
    "large": large,
    "hostile": hostile,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("words", EVERY)
def test_golden(words: str, kind: str, regenerate: bool) -> None:
    """The files as an administrator gets them, `start` among them."""
    target, vm = KINDS[kind](words)
    folder = GOLDEN / words.replace(":", "-").replace(",", "-")
    found = {f"{kind}-{number}": config.content for number, config in enumerate(target.render(vm, IMAGES))}
    found[f"{kind}-start"] = f"{target.start(vm, IMAGES)}\n".encode()
    if regenerate:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            (folder / name).write_bytes(content)
    assert found == {path.name: path.read_bytes() for path in folder.glob(f"{kind}-*")}


@pytest.mark.parametrize("words", EVERY)
def test_file_names_are_plain(words: str) -> None:
    target, vm = hostile(words)
    for config in target.render(vm, IMAGES):
        assert "/" not in config.name
        assert not config.name.startswith((".", "-"))


@pytest.mark.parametrize("words", EVERY)
def test_a_platform_is_whole(words: str) -> None:
    """Its own bus and card are in its driver pack, first, and its settings lead back to it."""
    for firmware in find_target(words).platform.firmwares:
        target = target_for(words, firmware)
        platform = target.platform
        pack = drivers.pack(platform.driver_pack)
        assert platform.disk_bus in {choice.bus for choice in pack.disks}
        assert platform.nic_model in {choice.model for choice in pack.nics}
        assert target_of(platform).platform == platform
        again = find_target(platform.name, [f"{each.key}={each.value}" for each in platform.settings])
        assert again.fit(again.platform, firmware) == platform


@pytest.mark.parametrize("words", EVERY)
def test_render_takes_what_the_pack_gives(words: str) -> None:
    """A guest that cannot use the best device of a platform gets another of its pack: that must do too."""
    target, vm = plain(words)
    pack = drivers.pack(target.platform.driver_pack)
    for bus in {choice.bus for choice in pack.disks}:
        disks = tuple(dataclasses.replace(disk, bus=bus) for disk in vm.disks)
        target.render(dataclasses.replace(vm, disks=disks), IMAGES)
    for model in {choice.model for choice in pack.nics}:
        nics = tuple(dataclasses.replace(nic, model=model) for nic in vm.nics)
        target.render(dataclasses.replace(vm, nics=nics), IMAGES)


@pytest.mark.parametrize("words", [words for words in EVERY if not words.startswith(("raw", "vsphere"))])
def test_foreign_devices_are_refused(words: str) -> None:
    target, vm = plain(words)
    with pytest.raises(TargetError):
        target.render(
            dataclasses.replace(vm, disks=(dataclasses.replace(vm.disks[0], bus=DiskBus.NVME),)), IMAGES
        )


@pytest.mark.parametrize("words", EVERY)
def test_a_fitting_plan_has_no_findings(words: str) -> None:
    target = target_for(words)
    assert target.check(plan_for(target)) == ()


@pytest.mark.parametrize("words", EVERY)
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cpus": 5000}, "5000 processors"),
        ({"memory": 100 * TiB}, "100.0 TiB of memory"),
        ({"disks": (planned_disk(),) * 300}, "300 disks"),
        ({"nics": (PlannedNic(MAC),) * 40}, "40 network cards"),
        ({"disks": (planned_disk(size=65 * TiB),)}, "/dev/sda has 65.0 TiB"),
        ({"disks": (planned_disk(sector_size=4096),)}, "sectors of 4096 bytes"),
    ],
)
def test_limits(words: str, changes: dict[str, object], message: str) -> None:
    target = target_for(words)
    findings = target.check(plan_for(target, **changes))
    assert any(message in finding.message for finding in findings)
    assert all(finding.severity is Severity.BLOCKER for finding in findings)


def refusal(words: str, plan: Callable[[Target], Plan]) -> tuple[str, str]:
    """What a target says to a plan, and what it proposes instead."""
    target = target_for(words)
    findings = target.check(plan(target))
    assert findings
    return findings[-1].message, findings[-1].hint


UEFI = {"firmware": Firmware.UEFI}


@pytest.mark.parametrize(
    ("words", "changes", "message", "hint"),
    [
        ("virtualserver", {"disks": (planned_disk(size=200 * GiB),)}, "200.0 GiB", "hyperv"),
        ("virtualserver", {"cpus": 2}, "2 processors", "--cpus 1"),
        ("virtualserver", UEFI, "no UEFI firmware", "libvirt"),
        ("vmware:esx4", UEFI, "no UEFI firmware", "vmware"),
        ("vmware:esx5.1", {"disks": (planned_disk(size=2 * TiB),)}, "2.0 TiB", "vmware"),
        ("vsphere:esx5.1", {"disks": (planned_disk(size=2 * TiB),)}, "2.0 TiB", "vsphere"),
        ("vmware:gsx", {"memory": 8 * GiB}, "8.0 GiB of memory", "--memory 3600M"),
        ("vmware:ide", {"disks": (planned_disk(),) * 5}, "5 disks", "--disk"),
        ("hyperv:generation=1", UEFI, "no UEFI firmware", "hyperv"),
        ("hyperv:generation=2", {}, "no BIOS firmware", "hyperv"),
        ("hyperv:vhd", {"disks": (planned_disk(size=3 * TiB),)}, "generation 1", "libvirt"),
        ("hyperv", {"disks": (planned_disk(size=3 * TiB),)}, "boots from disks of up to", "libvirt"),
        ("xen", {"prove": True}, "QEMU does not have them", "--prove"),
        ("vmware:esx3", {"prove": True}, "lsi-logic", "--prove"),
        ("kubevirt", {"name": "Web_01.example"}, "no machine named", "--name web-01-example"),
        ("proxmox", {"name": "web_01"}, "no machine named", "--name web-01"),
        ("hyperv", {"name": "a:b"}, "no machine named", "--name a-b"),
    ],
)
def test_refusals_say_what_would_work(
    words: str, changes: dict[str, object], message: str, hint: str
) -> None:
    said, proposed = refusal(words, lambda target: plan_for(target, **changes))
    assert message in said
    assert hint in proposed


def test_a_64_bit_system_is_refused_by_virtual_server() -> None:
    target = target_for("virtualserver")
    plan = plan_for(target)
    assert plan.machine.os
    wide = dataclasses.replace(plan.machine.os, architecture="x86_64")
    findings = target.check(dataclasses.replace(plan, machine=dataclasses.replace(plan.machine, os=wide)))
    assert ["64-bit" in finding.message for finding in findings] == [True]
    assert "hyperv" in findings[0].hint


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("libvrt", "no target", "libvirt"),
        ("vmware:esx9", "esx9", "esx8"),
        ("vmware:product=", "product=", "product="),
        ("vmware:colour=red", "colour", "bus="),
        ("xen:virtio-blk", "virtio-blk", "format="),
        ("vmware:streamOptimized", "streamOptimized", "config=ova"),
        ("vmware:ova,monolithicFlat", "monolithicFlat", "vmx"),
        ("vmware:esx3,ova", "OVF", "vmx"),
        ("vmware:esx3,pvscsi", "pvscsi", "lsi-logic"),
        ("vmware:esx5.1,sata", "sata", "pvscsi"),
        ("vmware:gsx,vmxnet3", "vmxnet3", "pcnet"),
        ("raw:qcow2,fixed", "fixed", "one kind"),
        ("vsphere:esx3", "esx3", "esx4"),
        ("vsphere:esx5.1,sata", "sata", "pvscsi"),
    ],
)
def test_what_is_not_offered(words: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        find_target(words)
    assert hint in caught.value.hint


def test_options_may_stand_apart() -> None:
    first, second = (
        find_target(*each).platform for each in (("vmware", ["esx8", "bus=sata"]), ("vmware:esx8,sata",))
    )
    assert first == second
    assert (first.title, first.disk_bus) == ("VMware ESXi 8.0", DiskBus.SATA)


def test_generation_2_has_no_legacy_card() -> None:
    target = find_target("hyperv:tulip")
    assert target.platform.nic_model is NicModel.TULIP
    with pytest.raises(P2VError, match="tulip"):
        target.fit(target.platform, Firmware.UEFI)


def test_every_target_is_used_in_these_tests() -> None:
    assert {words.partition(":")[0] for words in EVERY} == set(TARGETS)


def test_memory_is_whole_where_it_has_to_be() -> None:
    target, vm = plain("vmware")
    odd = dataclasses.replace(vm, memory=GiB + 5 * MiB)
    assert 'memsize = "1032"' in target.render(odd, IMAGES)[0].text
    target, _ = plain("hyperv")
    assert (
        f"-MemoryStartupBytes {GiB + 6 * MiB}"
        in target.render(dataclasses.replace(machine(target), memory=GiB + 5 * MiB), IMAGES)[0].text
    )
