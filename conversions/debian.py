"""Debian and what descends from it: initramfs-tools, GRUB 2, ifupdown or netplan."""

from __future__ import annotations

from conversions.last_steps import LAST_STEPS
from conversions.linux import convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

IDS = ("debian", "ubuntu")
"""`ID` and `ID_LIKE` of os-release that this family serves."""


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`, and the names of the network cards stay."""
    return convert_linux(guest, request, family="debian", network=keep_network, finish=LAST_STEPS)
