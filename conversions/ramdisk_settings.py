"""The names of disks inside an initramfs: a boot waits, half a minute or for ever, for one that is gone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from conversions import cmdline
from conversions.devices import DeviceNames
from conversions.fstab import rewrite_crypttab, rewrite_fstab
from conversions.initramfs import Packed
from conversions.initramfs_tools import with_stable_resume
from conversions.kernels import Kernel
from conversions.lvm import NO_DEVICES_FILE, without_filters
from conversions.mdadm import without_members

DEVICES_FILE = re.compile(r"(?:usr/)?etc/lvm/devices/[^/]+\.devices")
Edit = Callable[[str, DeviceNames], str]


def _crypttab(text: str, names: DeviceNames) -> str:
    return rewrite_crypttab(text, names).text


def _fstab(text: str, names: DeviceNames) -> str:
    return rewrite_fstab(text, names).text


def _lvm(text: str, names: DeviceNames) -> str:
    return without_filters(text)


def _arguments(text: str, names: DeviceNames) -> str:
    return cmdline.rewrite_devices(text, names).text


EDITS: tuple[tuple[re.Pattern[str], Edit], ...] = (
    (re.compile(r"conf/(?:param\.conf|initramfs\.conf|conf\.d/.*)"), with_stable_resume),
    (re.compile(r"(?:cryptroot|(?:usr/)?etc)/crypttab"), _crypttab),
    (re.compile(r"(?:usr/)?etc/fstab"), _fstab),
    (re.compile(r"(?:usr/)?etc/cmdline\.d/.*"), _arguments),
    (re.compile(r"(?:usr/)?etc/mdadm(?:\.conf|/mdadm\.conf)"), without_members),
    (re.compile(r"(?:usr/)?etc/lvm/lvm(?:local)?\.conf"), _lvm),
)


def stable_settings(kernel: Kernel, names: DeviceNames) -> dict[str, Packed]:
    """The files of settings of an initramfs that must change, by their paths in it, as they must be."""
    files = kernel.contents.configuration if kernel.contents else ()
    edited = {file.path: _edited(file, names) for file in files} | _without_devices_file(files)
    old = {file.path: file for file in files}
    return {path: file for path, file in edited.items() if file != old.get(path)}


def _without_devices_file(files: Sequence[Packed]) -> dict[str, Packed]:
    """Nothing can be taken out of an initramfs, so its LVM is told not to look at the devices file."""
    found = next((file.path for file in files if DEVICES_FILE.fullmatch(file.path)), "")
    if not found:
        return {}
    path = found.split("devices/")[0] + "lvmlocal.conf"
    text = next((file.text for file in files if file.path == path), "")
    if NO_DEVICES_FILE in text:
        return {}
    return {path: Packed(path, (text + NO_DEVICES_FILE).encode("utf-8", "surrogateescape"))}


def _edited(file: Packed, names: DeviceNames) -> Packed:
    text = file.text
    for pattern, edit in EDITS:
        if pattern.fullmatch(file.path.removeprefix("./")):
            text = edit(text, names)
    return replace(file, content=text.encode("utf-8", "surrogateescape"))
