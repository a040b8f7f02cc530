"""Runs in the rescue system before its network starts: the kernel command line becomes systemd-networkd's
file.

Only the standard library. Words that it looks for:

    ip=dhcp                                   what is done without any word
    ip=ADDRESS/PREFIX[,GATEWAY[,DNS[,…]]]     IPv4 or IPv6, such as ip=10.1.2.3/24,10.1.2.1,10.1.2.53
    ip=ADDRESS:SERVER:GATEWAY:NETMASK…        what PXE loaders add (the kernel's admin-guide/nfs/nfsroot.rst)
    nic=NAME or nic=MAC                       the card that gets the address; else the first with a cable
    BOOTIF=01-MAC                             the same, as PXE loaders say it

A word that cannot be understood is told on the console, and DHCP is used.
"""

import contextlib
import fcntl
import ipaddress
import re
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

CMDLINE = Path("/proc/cmdline")
DEFAULTS = Path("/etc/p2v/defaults")
CARDS = Path("/sys/class/net")
NETWORK_FILE = Path("/run/systemd/network/10-p2v.network")
RESOLVER = Path("/etc/resolv.conf")
COMPLAINT = Path("/run/p2v-network-error")
CABLE_SECONDS = 30.0

# linux/sockios.h, linux/if.h, linux/if_arp.h
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1
ETHERNET = "1"

DHCP_FILE = """[Match]
Type=ether

[Network]
DHCP=yes
LinkLocalAddressing=ipv6

[DHCPv4]
ClientIdentifier=mac
SendHostname=no
UseHostname=no
"""


@dataclass(frozen=True)
class Static:
    """An address with its prefix; `gateway` may be empty."""

    address: str
    gateway: str
    servers: "tuple[str, ...]"


@dataclass(frozen=True)
class Wish:
    """`static` is None for DHCP; `card` is a name, a MAC, or empty."""

    static: "Static | None" = None
    card: str = ""


def parse(words: "list[str]") -> Wish:
    """The last word of a kind counts. Raises ValueError with what is wrong."""
    static, card = None, ""
    for word in words:
        name, _, value = word.partition("=")
        if name == "ip":
            static = parse_address(value)
        elif name == "nic":
            card = value.lower() if re.fullmatch(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", value) else value
        elif name == "BOOTIF" and not card:
            card = value[3:].replace("-", ":").lower()
    if not re.fullmatch(r"[A-Za-z0-9_.:@-]{0,32}", card):
        raise ValueError("not a network card: nic=" + card[:64])
    return Wish(static, card)


def parse_address(value: str) -> "Static | None":
    """None where it asks for DHCP. Raises ValueError."""
    if value in ("", "dhcp", "on", "any", "auto"):
        return None
    if "/" not in value:
        return kernel_form(value)
    address, *others = value.split(",")
    gateway, *servers = others or [""]
    found = ipaddress.ip_interface(address)
    for other in (gateway, *servers):
        if other and ipaddress.ip_address(other).version != found.version:
            raise ValueError(f"{address} and {other} are of two kinds")
    return Static(found.with_prefixlen, gateway, tuple(server for server in servers if server))


def kernel_form(value: str) -> "Static | None":
    parts = value.split(":") + [""] * 4
    address, gateway, mask = parts[0], parts[2], parts[3]
    if not address:
        return None
    found = ipaddress.IPv4Interface("{}/{}".format(address, mask or "24"))
    return Static(found.with_prefixlen, str(ipaddress.IPv4Address(gateway)) if gateway else "", ())


def network_file(wish: Wish, card: str) -> str:
    """What systemd.network(5) calls a network file; `card` is empty where there is none."""
    if wish.static is None:
        return DHCP_FILE
    match = "MACAddress=" if ":" in card else "Name="
    lines = ["[Match]", match + card if card else "Type=ether", "", "[Network]", "DHCP=no"]
    lines += ["LinkLocalAddressing=ipv6", "Address=" + wish.static.address]
    if wish.static.gateway:
        # A gateway outside of the prefix is what some hosters give.
        lines += ["", "[Route]", "Gateway=" + wish.static.gateway, "GatewayOnLink=yes"]
    return "\n".join(lines) + "\n"


def ethernet_cards() -> "list[str]":
    found = []
    for folder in sorted(CARDS.iterdir()):
        with contextlib.suppress(OSError):
            if (folder / "device").exists() and (folder / "type").read_text().strip() == ETHERNET:
                found.append(folder.name)
    return found


def has_cable(name: str) -> bool:
    try:
        return (CARDS / name / "carrier").read_text().strip() == "1"
    except OSError:  # EINVAL while the card is down
        return False


def switch_on(name: str) -> None:
    """A card tells of its cable once it is up."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        request = struct.pack("16sH14x", name.encode()[:15], 0)
        flags = struct.unpack_from("16xH", fcntl.ioctl(opened, SIOCGIFFLAGS, request))[0]
        fcntl.ioctl(opened, SIOCSIFFLAGS, struct.pack("16sH14x", name.encode()[:15], flags | IFF_UP))


def card_with_cable() -> str:
    """The first card with a cable in it; the first of all where none has one within half a minute."""
    deadline = time.monotonic() + CABLE_SECONDS
    while True:
        names = ethernet_cards()
        for name in names:
            switch_on(name)
        plugged = [name for name in names if has_cable(name)]
        if plugged or time.monotonic() > deadline:
            return (plugged or names or [""])[0]
        time.sleep(0.5)


def read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def main() -> None:
    try:
        # What stands on the command line comes later, and so it counts.
        wish = parse([*read(DEFAULTS).split(), *read(CMDLINE).split()])
    except ValueError as error:
        COMPLAINT.write_text(str(error)[:200])
        wish = Wish()
    card = wish.card or card_with_cable() if wish.static else ""
    NETWORK_FILE.parent.mkdir(parents=True, exist_ok=True)
    NETWORK_FILE.write_text(network_file(wish, card))
    if wish.static and wish.static.servers:
        RESOLVER.write_text("".join(f"nameserver {server}\n" for server in wish.static.servers))


if __name__ == "__main__":
    main()
