"""SUSE Linux Enterprise and openSUSE: GRUB 2 or GRUB legacy, dracut or mkinitrd, wicked or ifup."""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.command_lines import STABLE_NAMES, stable_names
from conversions.devices import device_names, is_unstable
from conversions.last_steps import LAST_STEPS
from conversions.linux import convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

IDS = (
    *("suse", "opensuse", "sles", "sled", "sles_sap", "sle_hpc", "suse-sles", "sle-micro", "sl-micro"),
    *("opensuse-leap", "opensuse-tumbleweed", "opensuse-microos", "opensuse-slowroll"),
)
"""`ID` and `ID_LIKE` of os-release that this family serves."""


BOOTLOADER = "/etc/sysconfig/bootloader"
APPEND = re.compile(r"^(?P<head>[A-Z_]*(?:APPEND)=[\"'])(?P<words>[^\"'\n]*)", re.MULTILINE)
INSTALL_DEVICE = "/etc/default/grub_installdevice"


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`, with the settings from which YaST writes later entries of the menu."""
    steps = (rewrite_settings,)
    return convert_linux(guest, request, family="suse", network=keep_network, steps=steps, finish=LAST_STEPS)


def rewrite_settings(changes: Changes, request: Request) -> None:
    """Arguments for kernels that are installed later, and the disk where a new GRUB is installed."""
    edit = stable_names(changes, device_names(request.machine))
    text = changes.read_text(BOOTLOADER)
    if text:
        with_names = APPEND.sub(lambda found: found["head"] + edit.apply(found["words"]), text)
        changes.write_text(BOOTLOADER, with_names, STABLE_NAMES)
    named = [line for line in changes.read_text(INSTALL_DEVICE).splitlines() if is_unstable(line.strip())]
    if named:
        changes.warn(
            f"{INSTALL_DEVICE} names {named[0]}: in the virtual machine choose the disk again, with yast2"
            " bootloader"
        )
