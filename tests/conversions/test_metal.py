"""A guest that goes onto metal: drivers by the ids of its devices, names by the new addresses, no console."""

from __future__ import annotations

from pathlib import Path

import pytest

import conversions
from conversions.changes import Changes
from conversions.kernels import installed_kernels
from drivers.linux import SD
from drivers.pack import DeviceId
from drivers.physical import pack_for
from p2v.errors import GuestError
from p2v.model import CleanUp, Conversion, DiskBus, Firmware, NicModel, PlannedNic, Removal
from p2v.restore.hardware import PHYSICAL
from tests.conversions.machines import MACHINE, VERSION, convert, tree
from tests.tree_guest import TreeGuest

FOLDER = f"/lib/modules/{VERSION}"
MEGASAS = DeviceId("pci:v00001000d0000005Dsv00001028sd00001F47bc01sc04i00", "megaraid_sas")
IGB = DeviceId("pci:v00008086d00001521sv00008086sd00000001bc02sc00i00", "igb")
UNKNOWN = DeviceId("pci:v00001D17d00001234sv00001D17sd00000000bc01sc07i00", "nobodys_sas")
NEW_MAC = "3c:fd:fe:9d:11:02"


def guest(folder: Path) -> TreeGuest:
    """With a kernel that has megaraid_sas and igb as modules, and neither in its initramfs."""
    made = tree(folder)
    depends = made.read(f"{FOLDER}/modules.dep").decode()
    depends += "kernel/drivers/scsi/megaraid/megaraid_sas.ko: kernel/drivers/scsi/scsi_mod.ko\n"
    depends += "kernel/drivers/net/ethernet/intel/igb/igb.ko:\n"
    made.write(f"{FOLDER}/modules.dep", depends.encode())
    aliases = "alias pci:v00001000d0000005Dsv*sd*bc*sc*i* megaraid_sas\n"
    aliases += "alias pci:v00008086d00001521sv*sd*bc*sc*i* igb\n"
    made.write(f"{FOLDER}/modules.alias", aliases.encode())
    return made


def onto_metal(made: TreeGuest, disk: DeviceId = MEGASAS, card: DeviceId = IGB) -> Conversion:
    return conversions.convert(
        made,
        MACHINE,
        nics=(PlannedNic(NEW_MAC, "enp0s4"),),
        firmware=Firmware.BIOS,
        platform=PHYSICAL,
        pack=pack_for([disk], [card], needed=(SD,)),
        clean_up=CleanUp(remove=(Removal.GUEST_TOOLS,)),
    )


def test_the_initramfs_gets_what_drives_the_controller(tmp_path: Path) -> None:
    made = guest(tmp_path)
    conversion = onto_metal(made)
    (kernel,) = installed_kernels(Changes(made), ())
    assert kernel.contents
    assert "megaraid_sas" in kernel.contents.modules(VERSION)
    assert (conversion.disk_bus, conversion.nic_model) == (DiskBus.METAL, NicModel.METAL)
    assert not any("no driver" in warning for warning in conversion.warnings)


def test_the_second_time_changes_nothing(tmp_path: Path) -> None:
    made = guest(tmp_path)
    onto_metal(made)
    assert onto_metal(made).changes == ()


def test_a_controller_without_a_driver_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="nobodys_sas"):
        onto_metal(guest(tmp_path), disk=UNKNOWN)


def test_a_card_without_a_driver_costs_a_warning_by_name(tmp_path: Path) -> None:
    conversion = onto_metal(guest(tmp_path), card=UNKNOWN)
    assert any("nobodys_sas" in warning for warning in conversion.warnings)


def test_the_card_with_the_new_address_gets_the_old_name(tmp_path: Path) -> None:
    made = guest(tmp_path)
    onto_metal(made)
    rules = made.read("/etc/udev/rules.d/70-persistent-net.rules").decode()
    assert f'ATTR{{address}}=="{NEW_MAC}"' in rules
    assert 'NAME="enp0s4"' in rules


def test_questions_of_the_boot_stay_on_the_screen(tmp_path: Path) -> None:
    made = guest(tmp_path)
    onto_metal(made)
    assert "ttyS0" not in made.read("/boot/grub/grub.cfg").decode()
    assert "ttyS0" not in made.read("/etc/default/grub").decode()


def test_what_a_conversion_to_a_virtual_machine_left_stays(tmp_path: Path) -> None:
    """Its serial console does no harm, and neither do its drivers."""
    made = guest(tmp_path)
    convert(made)
    before = made.read("/boot/grub/grub.cfg")
    assert b"ttyS0" in before
    onto_metal(made)
    assert made.read("/boot/grub/grub.cfg") == before
    (kernel,) = installed_kernels(Changes(made), ())
    assert kernel.contents
    assert {"virtio_blk", "megaraid_sas"} <= kernel.contents.modules(VERSION)


def test_tools_of_the_platform_that_it_leaves_start_no_more(tmp_path: Path) -> None:
    made = guest(tmp_path)
    made.mkdir("/lib/systemd/system")
    made.mkdir("/etc/systemd/system/multi-user.target.wants")
    made.write("/lib/systemd/system/open-vm-tools.service", b"[Service]\nExecStart=/usr/bin/vmtoolsd\n")
    link = made.host("/etc/systemd/system/multi-user.target.wants") / "open-vm-tools.service"
    link.symlink_to("/lib/systemd/system/open-vm-tools.service")
    onto_metal(made)
    assert not link.is_symlink()
