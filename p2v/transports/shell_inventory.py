"""What `shell_scripts.INVENTORY` prints, as the facts that `remote_inventory.py` would have answered."""

from __future__ import annotations

from collections.abc import Iterator

Values = list[tuple[str, str]]


def read_facts(said: str) -> dict[str, object]:
    """The same names as in `remote_inventory.inventory`, for `parse_inventory`, which does the checking."""
    values = list(_values(said))
    first = dict(reversed(values))

    def word(name: str) -> str:
        return first.get(name, "").replace("\x00", " ").strip()

    return {
        "uid": _number(word("uid"), otherwise=-1),
        "hostname": word("hostname"),
        "kernel": word("kernel"),
        "architecture": word("architecture"),
        "cpus": _number(word("cpus"), otherwise=1),
        "memory": _memory(first),
        "uefi": "uefi" in first,
        "os_release": first.get("os_release") or first.get("os_release_usr", ""),
        "old_releases": {
            name.removeprefix("old_release "): value[:4096]
            for name, value in values
            if name.startswith("old_release ")
        },
        "machine_id": word("machine_id"),
        "boot_id": word("boot_id"),
        "vendor": word("vendor"),
        "product": word("product"),
        "uuid": word("uuid"),
        "hypervisor": " hypervisor" in first.get("cpuinfo", ""),
        "cmdline": word("cmdline"),
        "mounts": first.get("mounts", ""),
        "swaps": first.get("swaps", ""),
        "disks": [_disk(group, values) for group in _groups(values, "disk")],
        "nics": [_nic(group) for group in _groups(values, "nic")],
        "addresses": first.get("addresses", ""),
        "routes": first.get("routes", ""),
    }


def _values(said: str) -> Iterator[tuple[str, str]]:
    """`=NAME` and the lines behind `+`; every other line (a talkative profile) is passed over."""
    name, lines = "", list[str]()
    for line in said.split("\n"):
        if line.startswith("="):
            if name:
                yield name, "".join(lines)
            name, lines = line[1:].strip(), []
        elif line.startswith("+"):
            lines.append(line[1:] + "\n")
    if name:
        yield name, "".join(lines)


def _groups(values: Values, kind: str) -> Iterator[Values]:
    """The values of each thing of a kind: from its name up to the next value that is not its own."""
    group: Values = []
    for name, value in values:
        if name == kind:
            if group:
                yield group
            group = []
        if name == kind or (group and name.startswith((kind + " ", "partition"))):
            group.append((name, value))
    if group:
        yield group


def _number(text: str, *, otherwise: int = 0, base: int = 10) -> int:
    try:
        return int(text, base)
    except ValueError:
        return otherwise


def _memory(first: dict[str, str]) -> int:
    """Bytes of memory that are plugged in, else what the kernel calls all of it."""
    blocks = len(first.get("memory_online", "").split())
    size = _number(first.get("memory_block", ""), base=16) * blocks
    words = first.get("meminfo", "").split()
    total = words[words.index("MemTotal:") + 1] if "MemTotal:" in words[:-1] else ""
    return size or _number(total) * 1024


def _disk(group: Values, values: Values) -> dict[str, object]:
    facts = {name: value.strip().strip("\x00").strip() for name, value in group}
    udev = dict(
        line[2:].partition("=")[::2]
        for line in facts.get("disk udev", "").split("\n")
        if line.startswith("E:")
    )
    name = facts["disk"]
    return {
        "name": name,
        "size": _number(facts.get("disk size", "")) * 512,
        "sector_size": _number(facts.get("disk queue/logical_block_size", ""), otherwise=512),
        "removable": facts.get("disk removable") == "1",
        "model": facts.get("disk device/model", ""),
        "serial": udev.get("SCSI_IDENT_SERIAL")
        or udev.get("ID_SCSI_SERIAL")
        or udev.get("ID_SERIAL_SHORT")
        or facts.get("disk device/serial")
        or facts.get("disk page", ""),
        "wwn": udev.get("ID_WWN_WITH_EXTENSION") or udev.get("ID_WWN") or facts.get("disk wwid", ""),
        "links": [
            value.strip().partition(" ")[2]
            for kind, value in values
            if kind == "link" and value.strip().partition(" ")[0] == name
        ],
        "partitions": [_partition(part) for part in _groups(group, "partition")],
    }


def _partition(group: Values) -> dict[str, object]:
    facts = {name: value.strip() for name, value in group}
    return {
        "name": facts["partition"],
        "number": _number(facts.get("partition number", "")),
        "start": _number(facts.get("partition start", "")) * 512,
    }


def _nic(group: Values) -> dict[str, object]:
    facts = {name: value.strip() for name, value in group}
    return {"name": facts["nic"], "mac": facts.get("nic mac", ""), "driver": facts.get("nic driver", "")}
