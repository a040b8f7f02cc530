"""The kernel's command line, as words between blanks that keep their place.

Format: Documentation/admin-guide/kernel-parameters.rst; the last `console=` becomes /dev/console.
"""

from __future__ import annotations

import re

from conversions.devices import DeviceNames, is_unstable
from conversions.fstab import Rewritten

SERIAL_CONSOLE = "console=ttyS0,115200n8"
SCREEN_CONSOLE = "console=tty0"
DEVICE_WORD = re.compile(r"(?<!\S)(?P<key>root|resume)=(?P<value>[^\s\"'\\$`]+)(?!\S)")
SERIAL_WORD = re.compile(r"(?<!\S)console=ttyS0(?:,\S*)?(?!\S)")
CONSOLE_WORD = re.compile(r"(?<!\S)console=\S+")


def rewrite_devices(text: str, names: DeviceNames) -> Rewritten:
    """Replace the devices in `root=` and `resume=` by names that hold on any machine."""
    warnings: list[str] = []

    def replaced(found: re.Match[str]) -> str:
        value = found.group("value")
        if not is_unstable(value):
            return found.group()
        stable = names.stable(value)
        if stable is None:
            warnings.append(f"The kernel command line names {value}, which is on no disk of this run")
            return found.group()
        return f"{found.group('key')}={stable}"

    return Rewritten(DEVICE_WORD.sub(replaced, text), tuple(warnings))


def has_serial(text: str) -> bool:
    """Whether the first serial port is a console already."""
    return SERIAL_WORD.search(text) is not None


def with_serial(text: str) -> str:
    """The command line with the first serial port as a console, the screen as one before it."""
    if has_serial(text):
        return text
    words = [SERIAL_CONSOLE] if CONSOLE_WORD.search(text) else [SCREEN_CONSOLE, SERIAL_CONSOLE]
    return " ".join([*([text.rstrip()] if text.strip() else []), *words])
