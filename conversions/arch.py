"""Arch Linux and what descends from it: mkinitcpio, any boot loader, systemd-networkd or NetworkManager."""

from __future__ import annotations

from conversions.last_steps import LAST_STEPS
from conversions.linux import convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

IDS = ("arch", "archlinux", "archarm", "manjaro", "endeavouros", "cachyos", "artix", "garuda", "arcolinux")
"""`ID` and `ID_LIKE` of os-release that this family serves."""


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`."""
    return convert_linux(guest, request, family="arch", network=keep_network, finish=LAST_STEPS)
