"""Runs on the source, from memory, like `remote_reader.py`: says once what the machine is, and ends.

Only the standard library of Python 3.4 or newer: no f-strings, no annotated variables. Its answer has the
form of the reader's first words: the magic, the size (!I), and a JSON object; `p2v/transports/inventory.py`
reads it.
"""

import array
import contextlib
import fcntl
import json
import os
import socket
import struct
import subprocess

MAGIC = b"\x00P2V1\x00"
TEXT_LIMIT = 65536
SIOCETHTOOL = 0x8946
ETHTOOL_GPERMADDR = 0x20
OLD_RELEASES = tuple(
    "/etc/" + name
    for name in (
        "oracle-release",
        "redhat-release",
        "system-release",
        "SuSE-release",
        "alpine-release",
        "arch-release",
        "gentoo-release",
        "slackware-version",
        "debian_version",
        "lsb-release",
    )
)
"""By what a system from before os-release tells itself; read by conversions/os_release.py."""


def text(path: str, limit: int = TEXT_LIMIT) -> str:
    try:
        with open(path, "rb") as handle:
            return handle.read(limit).decode("utf-8", "replace")
    except OSError:
        return ""


def word(path: str) -> str:
    return text(path, 4096).replace("\x00", " ").strip()


def entries(path: str) -> "list[str]":
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def links(folder: str = "/dev/disk") -> "dict[str, list[str]]":
    """Every name under /dev/disk, by the kernel name that it leads to."""
    found = {}  # type: dict[str, list[str]]
    for kind in entries(folder):
        for name in entries(os.path.join(folder, kind)):
            path = os.path.join(folder, kind, name)
            found.setdefault(os.path.basename(os.path.realpath(path)), []).append(path)
    return found


def udev(numbers: str) -> "dict[str, str]":
    """The properties in udev's database of the block device with these numbers (`8:0`)."""
    lines = text("/run/udev/data/b" + numbers).splitlines()
    pairs = [line[2:].partition("=") for line in lines if line.startswith("E:")]
    return {name: value for name, _, value in pairs}


def serial_of(base: str, properties: "dict[str, str]") -> str:
    """What is on the disk's label, as lsblk finds it: the short one of a SCSI disk may be its WWN."""
    page = text(base + "/device/vpd_pg80", 256)[4:].strip("\x00 \t\n")
    return (
        properties.get("SCSI_IDENT_SERIAL")
        or properties.get("ID_SCSI_SERIAL")
        or properties.get("ID_SERIAL_SHORT")
        or word(base + "/device/serial")
        or page
    )


def block_device(name: str, names: "dict[str, list[str]]") -> "dict[str, object]":
    base = "/sys/block/" + name
    properties = udev(word(base + "/dev"))
    parts = [part for part in entries(base) if os.path.exists(base + "/" + part + "/partition")]
    return {
        "name": name,
        "size": int(word(base + "/size") or 0) * 512,
        "sector_size": int(word(base + "/queue/logical_block_size") or 512),
        "removable": word(base + "/removable") == "1",
        "model": word(base + "/device/model"),
        "serial": serial_of(base, properties),
        "wwn": properties.get("ID_WWN_WITH_EXTENSION") or properties.get("ID_WWN") or word(base + "/wwid"),
        "links": names.get(name, []),
        "partitions": [
            {
                "name": part,
                "number": int(word(base + "/" + part + "/partition") or 0),
                "start": int(word(base + "/" + part + "/start") or 0) * 512,
            }
            for part in parts
        ],
    }


def block_devices() -> "list[dict[str, object]]":
    skipped = ("loop", "ram", "zram", "sr", "fd", "dm-", "md", "nbd", "drbd")
    names = links()
    return [block_device(name, names) for name in entries("/sys/block") if not name.startswith(skipped)]


def addresses() -> str:
    """What `ip` says, one line an address; empty where there is no `ip`."""
    for tool in ("/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip", "/bin/ip"):
        if os.path.exists(tool):
            try:
                return subprocess.check_output([tool, "-o", "addr", "show"], timeout=20).decode(
                    "utf-8", "replace"
                )
            except (OSError, subprocess.SubprocessError):
                return ""
    return ""


def own_address(name: str) -> str:
    """The address that a card was built with: in a bond or a team it shows that of the whole.

    struct ethtool_perm_addr and struct ifreq of the kernel's uapi; empty where the driver says nothing.
    """
    answer = array.array("B", struct.pack("=II32s", ETHTOOL_GPERMADDR, 32, b""))
    request = struct.pack("16sP16x", name.encode()[:15], answer.buffer_info()[0])
    try:
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as opened:
            fcntl.ioctl(opened.fileno(), SIOCETHTOOL, request)
    except OSError:
        return ""
    size, data = struct.unpack("=I", answer[4:8])[0], list(answer[8:14])
    return ":".join("%02x" % byte for byte in data) if size == 6 and any(data) else ""


def network_cards() -> "list[dict[str, str]]":
    base = "/sys/class/net/"
    return [
        {
            "name": name,
            "mac": own_address(name) or word(base + name + "/address"),
            "driver": os.path.basename(os.path.realpath(base + name + "/device/driver")),
        }
        for name in entries(base)
        if os.path.exists(base + name + "/device")
    ]


def memory() -> int:
    """Bytes of memory that are plugged in; what the kernel calls all of it is some per cent less."""
    base = "/sys/devices/system/memory/"
    blocks = [
        name for name in entries(base) if name.startswith("memory") and word(base + name + "/online") == "1"
    ]
    size = int(word(base + "block_size_bytes") or "0", 16) * len(blocks)
    return size or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def inventory() -> "dict[str, object]":
    dmi = "/sys/class/dmi/id/"
    return {
        "uid": os.geteuid(),
        "hostname": socket.gethostname(),
        "kernel": os.uname()[2],
        "architecture": os.uname()[4],
        "cpus": os.sysconf("SC_NPROCESSORS_ONLN"),
        "memory": memory(),
        "uefi": os.path.isdir("/sys/firmware/efi"),
        "os_release": text("/etc/os-release") or text("/usr/lib/os-release"),
        "old_releases": {path: text(path)[:4096] for path in OLD_RELEASES if os.path.exists(path)},
        "machine_id": word("/etc/machine-id"),
        "boot_id": word("/proc/sys/kernel/random/boot_id"),
        "vendor": word(dmi + "sys_vendor"),
        "product": word(dmi + "product_name"),
        "uuid": word(dmi + "product_uuid"),
        "hypervisor": " hypervisor" in text("/proc/cpuinfo"),
        "cmdline": word("/proc/cmdline"),
        "mounts": text("/proc/self/mounts", 1048576),
        "swaps": text("/proc/swaps"),
        "disks": block_devices(),
        "nics": network_cards(),
        "addresses": addresses(),
        "routes": text("/proc/net/route"),
    }


def main() -> None:
    payload = json.dumps(inventory()).encode()
    answer = memoryview(MAGIC + struct.pack("!I", len(payload)) + payload)
    while answer:
        answer = answer[os.write(1, answer) :]


if __name__ == "__main__":
    main()
