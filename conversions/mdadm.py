"""mdadm.conf: arrays are known by the UUID on their members; names of members are only in the way.

Format: mdadm.conf(5). A line that begins with a blank continues the one before.
"""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.devices import DeviceNames, is_unstable, unknown_paths, with_stable_paths

CONFIGS = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
DEVICE = re.compile(r"^(?P<head>[ \t]*DEVICES?[ \t]+)(?P<words>[^\n#]*)", re.MULTILINE | re.IGNORECASE)
ARRAY = re.compile(r"^[ \t]*ARRAY\b[^\n]*(?:\n[ \t]+[^\n]*)*", re.MULTILINE | re.IGNORECASE)
MEMBERS = re.compile(r"\s+devices=\S+", re.IGNORECASE)
IDENTITY = re.compile(r"(?:^|\s)(?:uuid|name)=\S+", re.IGNORECASE)
REASON = "arrays are found by their UUID, on whatever disks they are"


def rewrite_mdadm(changes: Changes, names: DeviceNames) -> None:
    """Find arrays by what is written on their members."""
    for path in CONFIGS:
        text = changes.read_text(path)
        if not text:
            continue
        edited = without_members(text, names)
        changes.write_text(path, edited, REASON)
        for device in unknown_paths(_active(edited), names):
            changes.warn(f"{path} names {device}, which is on no disk of this run")


def without_members(text: str, names: DeviceNames) -> str:
    """DEVICE lines that list disks become `DEVICE partitions`; `devices=` goes where the UUID says it all."""

    def device(found: re.Match[str]) -> str:
        listed = found["words"].split()
        unstable = any(is_unstable(word.rstrip("*?")) or "[" in word or "*" in word for word in listed)
        return f"{found['head']}partitions" if unstable else found[0]

    def array(found: re.Match[str]) -> str:
        line = found[0]
        return MEMBERS.sub("", line) if IDENTITY.search(line) else with_stable_paths(line, names)

    return ARRAY.sub(array, DEVICE.sub(device, text))


def _active(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
