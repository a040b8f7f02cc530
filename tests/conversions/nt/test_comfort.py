"""What keeps a Windows from starting well elsewhere; on hives with the names that real ones have."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conversions.nt import comfort
from conversions.nt.registry import Value, binary, dword, multi_sz
from conversions.nt.work import WindowsWork
from p2v.model import CleanUp, Clock, Removal
from tests.conversions.nt.memory_hives import MemoryHive, machine, work_on

SETS = ("ControlSet001", "ControlSet003")
DISKS = "Control\\Class\\{4d36e967-e325-11ce-bfc1-08002be10318}"
ALL_TOOLS = CleanUp(remove=(Removal.GUEST_TOOLS,))


def system(*services: str, start: int = 0) -> MemoryHive:
    hive = MemoryHive()
    for control_set in SETS:
        hive.put(f"{control_set}\\Control\\CrashControl", dword("AutoReboot", 1))
        hive.put(f"{control_set}\\Services\\partmgr\\Parameters", dword("SanPolicy", 2))
        for service in services:
            hive.put(f"{control_set}\\Services\\{service}", dword("Start", start), dword("Type", 1))
    return hive


def done(folder: Path, hive: MemoryHive, **wishes: object) -> WindowsWork:
    work = work_on(folder, hive, control_sets=SETS, **wishes)  # type: ignore[arg-type]
    comfort.step(work)
    writes = hive.writes
    again = work_on(folder, hive, control_sets=SETS, **wishes)  # type: ignore[arg-type]
    comfort.step(again)
    assert (hive.writes, again.record.changes) == (writes, ()), "the second time changed something"
    return work


def number(hive: MemoryHive, key: str, name: str) -> list[int]:
    found = [hive.value(f"{control_set}\\{key}", name) for control_set in SETS]
    return [value.number() for value in found if value]


def test_stops_stay_and_disks_come_online_in_every_control_set(tmp_path: Path) -> None:
    hive = system()
    work = done(tmp_path, hive)
    assert number(hive, "Control\\CrashControl", "AutoReboot") == [0, 0]
    assert number(hive, "Services\\partmgr\\Parameters", "SanPolicy") == [1, 1]
    assert len(work.record.changes) == 4


def test_xp_knows_no_policy_of_disks(tmp_path: Path) -> None:
    hive = system()
    done(tmp_path, hive, version="xp")
    assert number(hive, "Services\\partmgr\\Parameters", "SanPolicy") == [2, 2]


@pytest.mark.parametrize(("version", "start"), [("xp", 4), ("7", 1), ("10", 1)])
def test_processor_drivers_rest_where_they_would_stop_the_machine(
    tmp_path: Path, version: str, start: int
) -> None:
    hive = system("intelppm", "Processor", start=1)
    done(tmp_path, hive, version=version)
    assert number(hive, "Services\\intelppm", "Start") == [start, start]
    assert number(hive, "Services\\Processor", "Start") == [start, start]


def test_a_filter_of_parallels_goes_without_being_asked(tmp_path: Path) -> None:
    hive = system("prl_strg", "vmci")
    for control_set in SETS:
        hive.put(f"{control_set}\\{DISKS}", multi_sz("LowerFilters", ["PRL_strg", "EhStorClass"]))
        hive.put(f"{control_set}\\Control\\Class\\{{x}}", multi_sz("UpperFilters", ["prl_strg"]))
    work = done(tmp_path, hive)
    assert number(hive, "Services\\prl_strg", "Start") == [4, 4]
    assert number(hive, "Services\\vmci", "Start") == [0, 0]
    for control_set in SETS:
        assert hive.value(f"{control_set}\\{DISKS}", "LowerFilters") == multi_sz(
            "LowerFilters", ["EhStorClass"]
        )
        assert hive.value(f"{control_set}\\Control\\Class\\{{x}}", "UpperFilters") is None
    assert work.changes.warnings == (
        "Parallels Tools start no more; uninstall them in Windows when it suits",
    )


def test_a_filter_without_its_service_goes_too(tmp_path: Path) -> None:
    hive = system().put(f"{SETS[0]}\\{DISKS}", multi_sz("LowerFilters", ["prl_strg"]))
    done(tmp_path, hive)
    assert hive.value(f"{SETS[0]}\\{DISKS}", "LowerFilters") is None


def test_tools_of_other_platforms_go_when_asked(tmp_path: Path) -> None:
    hive = system("vmci", "vsock", "xenfilt", "storahci")
    device = f"{SETS[1]}\\Enum\\PCI\\VEN_8086&DEV_7010\\3&11583659&0&09"
    hive.put(device, multi_sz("UpperFilters", ["xenfilt", "другой"]))
    done(tmp_path, hive, clean_up=ALL_TOOLS)
    for service in ("vmci", "vsock", "xenfilt"):
        assert number(hive, f"Services\\{service}", "Start") == [4, 4]
    assert number(hive, "Services\\storahci", "Start") == [0, 0]
    assert hive.value(device, "UpperFilters") == multi_sz("UpperFilters", ["другой"])


@pytest.mark.parametrize(
    ("target", "kept"), [("vmware", "vmci"), ("vsphere", "vmci"), ("xen", "xenbus"), ("libvirt", "QEMU-GA")]
)
def test_tools_of_the_platform_itself_stay(tmp_path: Path, target: str, kept: str) -> None:
    others = {"vmci", "xenbus", "QEMU-GA"} - {kept}
    hive = system(kept, *others)
    done(tmp_path, hive, target=target, clean_up=ALL_TOOLS)
    assert number(hive, f"Services\\{kept}", "Start") == [0, 0]
    for other in others:
        assert number(hive, f"Services\\{other}", "Start") == [4, 4]


@pytest.mark.parametrize(
    ("value", "clock"),
    [
        (None, Clock.LOCAL),
        (dword("RealTimeIsUniversal", 0), Clock.LOCAL),
        (dword("RealTimeIsUniversal", 1), Clock.UTC),
        (Value("RealTimeIsUniversal", 11, b"\1" + bytes(7)), Clock.UTC),
        (binary("RealTimeIsUniversal", b"\1"), Clock.LOCAL),
    ],
)
def test_the_clock_is_what_windows_takes_it_for(value: Value | None, clock: Clock) -> None:
    hive = MemoryHive().put("ControlSet001\\Control\\TimeZoneInformation", *(value,) if value else ())
    assert comfort.clock(hive, "ControlSet001") is clock


def test_a_hal_that_does_not_fit_is_told(tmp_path: Path) -> None:
    standard = system().put(f"{SETS[0]}\\Enum\\Root\\PCI_HAL\\0000", multi_sz("HardwareID", ["e_isa_up"]))
    assert "without ACPI" in done(tmp_path, standard, version="xp").changes.warnings[0]
    single = system().put(f"{SETS[0]}\\Enum\\Root\\ACPI_HAL\\0000", multi_sz("HardwareID", ["acpiapic_up"]))
    assert "for one processor" in done(tmp_path, single, version="xp").changes.warnings[0]
    one = replace(machine(), cpus=1)
    assert done(tmp_path, single, version="xp", of=one).changes.warnings == ()
    assert done(tmp_path, standard, version="7").changes.warnings == ()


@pytest.mark.parametrize("kind", [0, 3, 7, 0xFFFF0012])
def test_values_of_the_wrong_kind_stop_nothing(tmp_path: Path, kind: int) -> None:
    hive = system("prl_strg")
    for control_set in SETS:
        hive.put(f"{control_set}\\Services\\prl_strg", Value("Start", kind, b"\xff\xd8\0"))
        hive.put(f"{control_set}\\{DISKS}", Value("LowerFilters", kind, b"\xff\xd8\0"))
        hive.put(f"{control_set}\\Control\\CrashControl", Value("AutoReboot", kind, b""))
    done(tmp_path, hive)
    assert number(hive, "Control\\CrashControl", "AutoReboot") == [0, 0]
