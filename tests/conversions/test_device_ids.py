"""Modules by the ids of devices, beside what modprobe of this machine says of its own kernels."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.device_ids import with_devices
from conversions.kernels import Kernel, Loadable
from drivers.linux import SD
from drivers.pack import DeviceId
from p2v import command
from tests.conftest import need_tools
from tests.tree_guest import TreeGuest

AHCI = "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"
NVME = "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"
MEGASAS = "pci:v00001000d00000060sv00001000sd00001013bc01sc04i00"
E1000E = "pci:v00008086d000010D3sv00008086sd0000A01Fbc02sc00i00"
IGB = "pci:v00008086d000010C9sv00008086sd00000000bc02sc00i00"
PIIX = "pci:v00008086d00007010sv00001AF4sd00001100bc01sc01i80"
NOBODYS = "pci:v0000FFFEd00001234sv00000000sd00000000bc01sc07i00"


def tree(folder: Path, aliases: str, built_in: bytes = b"") -> Changes:
    guest = TreeGuest(folder)
    guest.mkdir("/lib/modules/6.1")
    guest.write("/lib/modules/6.1/modules.alias", aliases.encode())
    guest.write("/lib/modules/6.1/modules.builtin.modinfo", built_in)
    return Changes(guest)


def kernel(*modules: str, built_in: tuple[str, ...] = ()) -> Kernel:
    return Kernel(
        "6.1", "/boot/vmlinuz-6.1", "", frozenset(built_in), tuple(Loadable(m, ()) for m in modules)
    )


def test_what_drives_a_device_is_needed_beside_the_rest(tmp_path: Path) -> None:
    changes = tree(tmp_path, "alias pci:v00001000d00000060sv*sd*bc*sc*i* megaraid-sas\nalias pci:v* other\n")
    found = with_devices(changes, kernel("megaraid_sas"), (SD,), (DeviceId(MEGASAS),))
    assert [driver.module for driver in found] == ["sd_mod", "megaraid_sas"]


def test_a_driver_that_is_built_in_is_found(tmp_path: Path) -> None:
    changes = tree(tmp_path, "", b"ahci.license=GPL\0ahci.alias=pci:v*d*sv*sd*bc01sc06i01*\0")
    (driver,) = with_devices(changes, kernel(built_in=("ahci",)), (), (DeviceId(AHCI),))
    assert kernel(built_in=("ahci",)).missing((driver,)) == ()


@pytest.mark.parametrize(("seen", "name"), [("megaraid-sas", "megaraid_sas"), ("", MEGASAS)])
def test_what_a_kernel_cannot_drive_is_named(tmp_path: Path, seen: str, name: str) -> None:
    found = with_devices(tree(tmp_path, "alias garbage\n"), kernel("ahci"), (), (DeviceId(MEGASAS, seen),))
    assert kernel("ahci").missing(found) == (name,)
    assert not kernel("ahci").can_load(found)


def test_patterns_of_a_module_that_is_gone_do_not_count(tmp_path: Path) -> None:
    changes = tree(tmp_path, "alias pci:v0000* gone\nalias pci:v00008086* ahci\n")
    (driver,) = with_devices(changes, kernel("ahci"), (), (DeviceId(AHCI),))
    assert driver.module == "ahci"


@pytest.mark.tools
@pytest.mark.parametrize("alias", [AHCI, NVME, MEGASAS, E1000E, IGB, PIIX, NOBODYS])
def test_modprobe_says_the_same(alias: str) -> None:
    need_tools("modprobe")
    versions = [path.parent.name for path in Path("/lib/modules").glob("*/modules.alias")]
    assert versions
    changes = Changes(TreeGuest(Path("/")))
    everything = changes.read_text(f"/lib/modules/{versions[0]}/modules.dep").splitlines()
    names = (line.partition(":")[0].rsplit("/", 1)[-1].partition(".")[0] for line in everything)
    ours = Kernel(versions[0], "", "", frozenset(), tuple(Loadable(n.replace("-", "_"), ()) for n in names))
    found = {driver.module for driver in with_devices(changes, ours, (), (DeviceId(alias),))}
    said = command.run(["modprobe", "-S", versions[0], "-R", alias], timeout=20).stdout.split()
    assert found == ({name.replace("-", "_") for name in said} or {alias})
