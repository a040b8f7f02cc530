"""The kernel's command line, as words between blanks that keep their place.

Format: Documentation/admin-guide/kernel-parameters.rst; the last `console=` becomes /dev/console.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from conversions.devices import DeviceNames, is_unstable
from conversions.fstab import Rewritten

SERIAL_CONSOLE = "console=ttyS0,115200n8"
SCREEN_CONSOLE = "console=tty0"
DEVICE_WORD = re.compile(
    r"(?<![^\s\"'])(?P<key>root|resume|usr|mount\.usr|cryptroot|cryptdevice|real_root|crypt_root)="
    r"(?P<value>[^\s\"'\\$`]+)(?![^\s\"'])"
)
"""What names a device: the kernel, systemd, dracut; the hook `encrypt` of Arch, mkinitfs, genkernel."""
SERIAL_WORD = re.compile(r"(?<!\S)console=ttyS0(?:,\S*)?(?!\S)")
CONSOLE_WORD = re.compile(r"(?<!\S)console=\S+")


def rewrite_devices(text: str, names: DeviceNames) -> Rewritten:
    """Replace the devices in `root=`, `resume=` and the like by names that hold on any machine."""
    warnings: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        device, rest = _device(found["key"], found["value"])
        if not is_unstable(device):
            return found.group()
        stable = names.stable(device)
        if stable is None:
            warnings.append(f"The kernel command line names {device}, which is on no disk of this run")
            return found.group()
        return f"{found['key']}={stable}{rest}"

    return Rewritten(DEVICE_WORD.sub(replaced, text), tuple(warnings))


def _device(key: str, value: str) -> tuple[str, str]:
    """The device of a word and what follows it: `cryptdevice=/dev/sda2:root:options`."""
    if key != "cryptdevice":
        return value, ""
    device, colon, options = value.partition(":")
    if device.startswith("/dev/disk/by-path/"):  # by-path names hold colons: the mapping's name is the last
        device, colon, options = value.rpartition(":")
    return device, colon + options


def has_serial(text: str) -> bool:
    """Whether the first serial port is a console already."""
    return SERIAL_WORD.search(text) is not None


def with_serial(text: str) -> str:
    """The command line with the first serial port as a console, the screen as one before it."""
    if has_serial(text):
        return text
    words = [SERIAL_CONSOLE] if CONSOLE_WORD.search(text) else [SCREEN_CONSOLE, SERIAL_CONSOLE]
    return " ".join([*([text.rstrip()] if text.strip() else []), *words])


def with_arguments(text: str, arguments: Sequence[str]) -> str:
    """The command line with these words at its end, without those that it has already."""
    present = text.split()
    new = [word for word in arguments if word not in present]
    return " ".join([*([text.rstrip()] if text.strip() else []), *new]) if new else text
