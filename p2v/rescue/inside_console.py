"""Runs in the rescue system: its screen and its serial line show where it is reached, and by which command.

Only the standard library. Written anew whenever an address or a cable changes.
"""

import base64
import contextlib
import fcntl
import hashlib
import os
import re
import socket
import struct
import time
from pathlib import Path

CARDS = Path("/sys/class/net")
ADDRESSES6 = Path("/proc/net/if_inet6")
DMI = Path("/sys/class/dmi/id")
HOST_KEY = Path("/etc/ssh/ssh_host_ed25519_key.pub")
COMPLAINT = Path("/run/p2v-network-error")
RELEASE = Path("/etc/os-release")
SCREEN, SERIAL = "/dev/tty1", "/dev/ttyS0"
CLEAR = "\x1b[H\x1b[2J\x1b[3J"
SIOCGIFADDR = 0x8915  # linux/sockios.h
GLOBAL_SCOPE = "00"
UNNAMED = "rescue"
SECONDS = 1.0


def word(path: Path) -> str:
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return ""
    return "".join(char for char in text if char.isprintable()).strip()[:200]


def fingerprint(line: str) -> str:
    """What `ssh-keygen -l` prints of a public key: its kind and the SHA-256 of it."""
    try:
        kind, blob = line.split()[:2]
        digest = hashlib.sha256(base64.b64decode(blob, validate=True)).digest()
    except ValueError:
        return ""
    return "{} SHA256:{}".format(kind, base64.b64encode(digest).decode().rstrip("="))


def address4(name: str) -> str:
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            answer = fcntl.ioctl(opened, SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
    except OSError:
        return ""
    return socket.inet_ntoa(answer[20:24])


def addresses6(table: str, name: str) -> "list[str]":
    """Lines of /proc/net/if_inet6: address, index, prefix, scope, flags (all hex), name."""
    found = []
    for line in table.splitlines():
        words = line.split()
        if len(words) == 6 and words[5] == name and words[3] == GLOBAL_SCOPE:
            found.append(socket.inet_ntop(socket.AF_INET6, bytes.fromhex(words[0])))
    return found


def text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


class Card:
    """A network card as it is now."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mac = word(CARDS / name / "address")
        self.plugged = word(CARDS / name / "carrier") == "1"
        first = address4(name)
        self.addresses = ([first] if first else []) + addresses6(text_of(ADDRESSES6), name)

    def state(self) -> str:
        if self.addresses:
            return ", ".join(self.addresses)
        return "waiting for an address" if self.plugged else "no cable"


def cards() -> "list[Card]":
    try:
        names = sorted(path.name for path in CARDS.iterdir())
    except OSError:
        return []
    return [Card(name) for name in names if (CARDS / name / "device").exists()]


def title() -> str:
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)', text_of(RELEASE), re.MULTILINE)
    machine = " ".join(filter(None, (word(DMI / "sys_vendor"), word(DMI / "product_name"))))
    serial = word(DMI / "product_serial")
    firmware = "UEFI" if Path("/sys/firmware/efi").is_dir() else "BIOS"
    named = "{}{}".format(
        machine or "a machine without a name", ", serial number " + serial if serial else ""
    )
    return "{}\non {} ({})".format(release.group(1) if release else "p2v rescue system", named, firmware)


def page(found: "list[Card]", about: str, key: str, complaint: str) -> str:
    """Everything that a person in front of the machine needs, in lines of less than 80 characters."""
    lines = ["", *about.splitlines(), ""]
    lines += [f"  network   {card.name:<10} {card.mac}  {card.state()}" for card in found]
    if not found:
        lines.append("  network   no card that this system has a driver for")
    if complaint:
        lines.append(f"            kernel command line: {complaint}; DHCP is used")
    lines += ["  host key  " + (key or "not made yet"), ""]
    addresses = [address for card in found for address in card.addresses]
    if addresses and key:
        place = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        lines += [
            "Type on the desktop:",
            "",
            f"  p2v scan ssh://root@{place} --known-hosts rescue-keys",
            "",
            "It shows the host key of who answers there. If that is the one above, go on",
            "with --accept-new-host-key behind it. Each start makes a new key.",
            "",
        ]
    lines += ["Nothing of this machine's disks is in use. Ctrl-Alt-Del restarts it.", ""]
    return "\n".join(lines)


def show(path: str, text: str) -> None:
    """A line that nobody reads must not hold us up."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            left = text.encode()
            for _ in range(100):
                with contextlib.suppress(BlockingIOError):
                    left = left[os.write(handle, left) :]
                if not left:
                    return
                time.sleep(0.05)
        finally:
            os.close(handle)


def name_by(found: "list[Card]") -> None:
    """Two machines that run this at once need two names: `rescue-` and the address of the first card."""
    if socket.gethostname() == UNNAMED and found and found[0].mac:
        with contextlib.suppress(OSError):
            socket.sethostname("{}-{}".format(UNNAMED, found[0].mac.replace(":", "")))


def main() -> None:
    about, shown = title(), ""
    while True:
        found = cards()
        name_by(found)
        text = page(found, about, fingerprint(word(HOST_KEY)), word(COMPLAINT))
        if text != shown:
            show(SCREEN, CLEAR + text)
            show(SERIAL, text)
            shown = text
        time.sleep(SECONDS)


if __name__ == "__main__":
    main()
