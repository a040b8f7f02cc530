"""Guests that consist of a few network files, and what they are asked to become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import drivers
from conversions.changes import Changes
from conversions.network import keep_network
from conversions.request import Request
from drivers.virtio import PACK
from p2v.model import Firmware, GiB, Nic, PlannedNic
from tests.conversions.machines import MACHINE, PLATFORM
from tests.tree_guest import Command, TreeGuest

MAC_1, MAC_2, MAC_3 = "52:54:00:aa:00:01", "52:54:00:aa:00:02", "52:54:00:aa:00:03"
NEW_1, NEW_2 = "52:54:00:bb:00:01", "52:54:00:bb:00:02"
RULES = "/etc/udev/rules.d/70-persistent-net.rules"
MODERN = {"/usr/lib/udev/rules.d/80-net-setup-link.rules": "# stands for udev's own rules\n"}

ONE = (Nic("enp5s0f0", MAC_1, "ixgbe"),)
TWO = (*ONE, Nic("eno1", MAC_2, "tg3"))
THREE = (*ONE, Nic("enp5s0f1", MAC_2, "ixgbe"), Nic("eno1", MAC_3, "tg3"))


def guest(
    folder: Path,
    files: Mapping[str, str | bytes],
    *,
    udev: Mapping[str, str] = MODERN,
    commands: Mapping[str, Command] | None = None,
) -> TreeGuest:
    """A guest of these files; `commands` answer for its programs."""
    made = TreeGuest(folder / "guest", free=GiB, **(commands or {}))
    for path, content in {**udev, **files}.items():
        made.mkdir(path.rsplit("/", 1)[0])
        made.write(path, content.encode() if isinstance(content, str) else content)
    return made


def request(nics: tuple[Nic, ...], *, macs: tuple[str, ...] = ()) -> Request:
    """A machine with these cards; `macs` are the addresses in the virtual machine where they are new ones."""
    planned = tuple(
        PlannedNic(mac, nic.name) for nic, mac in zip(nics, macs or [nic.mac for nic in nics], strict=True)
    )
    machine = replace(MACHINE, nics=nics)
    return Request(machine, planned, Firmware.BIOS, PLATFORM, drivers.pack(PACK.name))


def unseen(*macs: str) -> Request:
    """The cards of a machine that is known from an image only."""
    made = request(())
    return replace(made, nics=tuple(PlannedNic(mac) for mac in macs))


def kept(made: TreeGuest, asked: Request) -> Changes:
    """What was changed, and that doing it again changes nothing."""
    changes = Changes(made)
    keep_network(changes, asked)
    again = Changes(made)
    keep_network(again, asked)
    assert again.changes == ()
    return changes


def text(made: TreeGuest, path: str) -> str:
    return made.read(path).decode()
