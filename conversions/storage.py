"""Every file below /etc that names disks, and what becomes of the names there."""

from __future__ import annotations

import re
from collections.abc import Iterator

from conversions.changes import Changes
from conversions.command_lines import STABLE_NAMES
from conversions.devices import PATH, DeviceNames, is_unstable, with_stable_paths
from conversions.fstab import rewrite_crypttab, rewrite_fstab
from conversions.lvm import rewrite_lvm
from conversions.mdadm import rewrite_mdadm
from p2v.errors import GuestError

FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"
PATHS_ONLY = ("/etc/uswsusp.conf", "/etc/suspend.conf", "/etc/systemd/system/*.mount")
"""Files in which a path may be replaced by another path."""
LOOKED_AT = (
    *("/etc/hdparm.conf", "/etc/smartd.conf", "/etc/default/smartmontools", "/etc/lilo.conf"),
    *("/etc/sysconfig/grub", "/etc/systemd/system/*.swap", "/etc/udev/rules.d/*.rules"),
    *("/lib/udev/rules.d/*local*.rules", "/etc/snapper/configs/*", "/etc/rc.local"),
)
HARDWARE_RULE = re.compile(
    r"KERNELS?==\"(?:(?:[shv]|xv)d[a-z]|nvme\d|mmcblk|cciss)|ENV\{(?:ID_PATH|ID_SERIAL(?:_SHORT)?|ID_WWN)\}==\""
)
NETWORK_RULE = re.compile(r"SUBSYSTEM==\"net\"")
MULTIPATH = ("/etc/multipath.conf", "/etc/multipath/wwids")
WWID = re.compile(r"^[ \t]*wwid[ \t]+\S+|^/[0-9A-Za-z._-]+/[ \t]*$", re.MULTILINE)
MAX_WARNINGS = 5
"""Lines named of one file; a rule for each of a hundred disks says nothing more."""


def rewrite_storage(changes: Changes, names: DeviceNames) -> None:
    """Name disks in a way that holds on any machine, wherever the guest's storage is configured."""
    rewrite_tables(changes, names)
    rewrite_lvm(changes)
    rewrite_mdadm(changes, names)
    for path in _existing(changes, PATHS_ONLY):
        changes.write_text(path, with_stable_paths(changes.read_text(path), names), STABLE_NAMES)


def warn_about_hardware(changes: Changes) -> None:
    """Say what still names the old disks once all is rewritten that can be."""
    for path in _existing(changes, LOOKED_AT):
        _warn_about(changes, path)
    _warn_about_multipath(changes)


def rewrite_tables(changes: Changes, names: DeviceNames) -> None:
    """Name filesystems in fstab and crypttab in a way that holds on any machine."""
    for path, rewrite in ((FSTAB, rewrite_fstab), (CRYPTTAB, rewrite_crypttab)):
        rewritten = rewrite(changes.read_text(path), names)
        changes.warn_all(rewritten.warnings)
        if rewritten.text:
            changes.write_text(path, rewritten.text, STABLE_NAMES)


def _existing(changes: Changes, patterns: tuple[str, ...]) -> Iterator[str]:
    for pattern in patterns:
        yield from (path for path in changes.guest.glob(pattern) if not changes.guest.is_dir(path))


def _warn_about(changes: Changes, path: str) -> None:
    """Say which lines know the old hardware: only a person can say what they should know instead."""
    try:
        found = list(_lines_with_hardware(changes.read_text(path)))
    except GuestError as error:
        changes.warn(f"{path} was not looked at: {error.message}")
        return
    for number, name in found[:MAX_WARNINGS]:
        changes.warn(f"{path}:{number} names {name}, a disk of the source; it was left as it is")


def _lines_with_hardware(text: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        active = line.split("#", 1)[0]
        named = [path for path in PATH.findall(active) if is_unstable(path)]
        rule = HARDWARE_RULE.search(active) if not NETWORK_RULE.search(active) else None
        if named or rule:
            yield number, named[0] if named else active[rule.start() : rule.end() + 40] if rule else ""


def _warn_about_multipath(changes: Changes) -> None:
    """Disks of the virtual machine have one path and other WWIDs: multipath leaves them alone, or grabs
    them.
    """
    for path in _existing(changes, MULTIPATH):
        if WWID.search(changes.read_text(path)):
            changes.warn(
                f"{path} names disks of the source by their WWID; the virtual machine's have one path"
                " each, and multipath is not needed there"
            )
