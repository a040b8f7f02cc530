"""LVM: filters and the devices file, which hide every volume when they only know the disks of the source.

Formats: lvm.conf(5), lvmdevices(8). Without a filter and without a devices file LVM looks at all disks, by
the identifiers that are written on them, which is what holds on any machine.
"""

from __future__ import annotations

import re

from conversions.changes import Changes

CONFIGS = ("/etc/lvm/lvm.conf", "/etc/lvm/lvmlocal.conf")
DEVICES_FILES = "/etc/lvm/devices/*.devices"
KEPT = ".before-p2v"
NO_DEVICES_FILE = "devices { use_devicesfile = 0 }\n"
"""For an initramfs, from which a file cannot be taken away."""

STRINGS = r"\[(?:\s|,|\"(?:[^\"\\\n]|\\.)*\")*\]|\"(?:[^\"\\\n]|\\.)*\""
FILTER = re.compile(rf"^(?P<indent>[ \t]*)(?:global_)?filter[ \t]*=[ \t]*(?P<value>{STRINGS})", re.MULTILINE)
PATTERN = re.compile(r"\"(?P<what>[ar])(?P<mark>.)(?P<pattern>(?:[^\"\\\n]|\\.)*)(?P=mark)\"")
HARDWARE = re.compile(
    r"/dev/|(?:[shv]|xv)d(?:[a-z\[.]|$)|nvme|cciss|mmcblk|disk/by-|mpath|emcpower|dasd",
)
HELD_BY_CONTENT = re.compile(r"by-id/(?:lvm|md|dm)-|/dev/md|/dev/mapper/(?!mpath)|by-(?:part)?uuid")
CATCH_ALL = frozenset({".*", ".", "^.*", ".*$", "^.*$", "/.*", "/dev/.*", "^/dev/.*", "^/dev/", "/dev/", "/"})
FILTER_REASON = "its filter of LVM only let disks of the source through"
DEVICES_REASON = "it only named disks of the source, and LVM would have found no volume; kept beside it"


def rewrite_lvm(changes: Changes) -> None:
    """Let LVM see its volumes on any machine."""
    for path in CONFIGS:
        text = changes.read_text(path)
        if text:
            changes.write_text(path, without_filters(text), FILTER_REASON)
    for path in changes.guest.glob(DEVICES_FILES):
        changes.copy(path, path + KEPT, "the devices file of the source, for whoever wants to look at it")
        changes.remove(path, DEVICES_REASON)


def without_filters(text: str) -> str:
    """lvm.conf with those filters as comments that let nothing through but disks of the source."""
    return FILTER.sub(lambda found: _commented(found[0]) if _hides(found["value"]) else found[0], text)


def _hides(value: str) -> bool:
    """Whether a filter rejects all but disks that it names by their hardware."""
    patterns = [(found["what"], found["pattern"]) for found in PATTERN.finditer(value)]
    rejects = any(what == "r" and pattern in CATCH_ALL for what, pattern in patterns)
    accepted = [pattern for what, pattern in patterns if what == "a"]
    return rejects and any(_is_hardware(pattern) for pattern in accepted)


def _is_hardware(pattern: str) -> bool:
    if pattern in CATCH_ALL or HELD_BY_CONTENT.search(pattern):
        return False
    return HARDWARE.search(pattern) is not None


def _commented(text: str) -> str:
    return "\n".join(f"# {line}  # by p2v" for line in text.split("\n"))
