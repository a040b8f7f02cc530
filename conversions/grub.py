"""GRUB 2: its settings in /etc/default, and the generated grub.cfg, both edited as text.

update-grub is not run: inside the appliance it would look at the appliance's devices. The settings get the
same edits, so that the guest's own next update-grub says the same again.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from conversions import cmdline
from conversions.changes import Changes
from conversions.devices import DeviceNames, is_unstable
from p2v.errors import GuestError

CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg")
SETTINGS = "/etc/default/grub"
SETTINGS_PARTS = "/etc/default/grub.d/*.cfg"
DEVICE_MAPS = ("/boot/grub/device.map", "/boot/grub2/device.map")

LINUX_LINE = re.compile(
    r"^(?P<head>[ \t]*linux(?:16|efi)?[ \t]+(?P<kernel>\S*/(?:vmlinu[xz]|kernel)[^/\s]*))"
    r"(?P<gap>[ \t]*)(?P<arguments>[^\n]*)$",
    re.MULTILINE,
)
SETTING = re.compile(
    r"^(?P<head>[ \t]*(?:export[ \t]+)?GRUB_CMDLINE_LINUX(?P<which>_[A-Z_]+)?=)"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s\"'#;]*)",
    re.MULTILINE,
)
NO_UUID = re.compile(
    r"^[ \t]*(?:export[ \t]+)?GRUB_DISABLE_(?:LINUX_)?UUID=[\"']?true\b[^\n]*$", re.MULTILINE
)
MAP_LINE = re.compile(r"\s*\((?:hd|fd)\d+\)\s+(?P<device>/dev/\S+)\s*")

STABLE_NAMES = "disks have other names in the virtual machine"
NO_UUID_REASON = "without UUIDs the next update-grub would write names that depend on the hardware"
SERIAL = "console on the first serial port"


def edit_linux_lines(text: str, edit: Callable[[str], str]) -> str:
    """A grub.cfg with `edit` applied to the arguments of every Linux kernel."""

    def edited(found: re.Match[str]) -> str:
        arguments = edit(found["arguments"])
        return found["head"] + (found["gap"] or (" " if arguments else "")) + arguments

    return LINUX_LINE.sub(edited, text)


def edit_settings(text: str, edit: Callable[[str], str]) -> str:
    """Settings with `edit` applied to each value of GRUB_CMDLINE_LINUX and its variants, quotes kept."""
    return SETTING.sub(lambda found: found["head"] + _edit_value(found["value"], edit), text)


def _edit_value(value: str, edit: Callable[[str], str]) -> str:
    quote = value[:1] if value[:1] in ('"', "'") else ""
    inner = value[1:-1] if quote else value
    edited = edit(inner)
    if edited == inner:
        return value
    return f"{quote or chr(34)}{edited}{quote or chr(34)}"


def config_paths(changes: Changes) -> tuple[str, ...]:
    """The generated configurations that exist; raises GuestError where there is none."""
    found = tuple(path for path in CONFIGS if changes.guest.exists(path))
    if not found:
        raise GuestError(
            "The guest has no GRUB 2 configuration (/boot/grub/grub.cfg), so its boot cannot be prepared",
            hint="If /boot is on a disk of its own, capture that too; no other boot loader is supported",
        )
    return found


def default_kernel(changes: Changes) -> str:
    """The file name of the first kernel that grub.cfg offers, empty where none is seen."""
    for path in config_paths(changes):
        found = LINUX_LINE.search(changes.read_text(path))
        if found:
            return found["kernel"].rsplit("/", 1)[-1]
    return ""


def settings_paths(changes: Changes) -> tuple[str, ...]:
    """The files of settings in the order in which update-grub reads them; a later one wins."""
    first = (SETTINGS,) if changes.guest.exists(SETTINGS) else ()
    return (*first, *changes.guest.glob(SETTINGS_PARTS))


def rewrite_devices(changes: Changes, names: DeviceNames) -> None:
    """Name disks in a way that holds on any machine, now and after the next update-grub."""

    def edit(words: str) -> str:
        rewritten = cmdline.rewrite_devices(words, names)
        changes.warn_all(rewritten.warnings)
        return rewritten.text

    for path in config_paths(changes):
        changes.write_text(path, edit_linux_lines(changes.read_text(path), edit), STABLE_NAMES)
    for path in settings_paths(changes):
        changes.write_text(path, edit_settings(changes.read_text(path), edit), STABLE_NAMES)
        changes.write_text(path, NO_UUID.sub(r"#\g<0>", changes.read_text(path)), NO_UUID_REASON)
    for path in DEVICE_MAPS:
        _clean_device_map(changes, path)


def _clean_device_map(changes: Changes, path: str) -> None:
    """grub-install makes the map anew; a stale line makes it fail with `cannot find a GRUB drive`."""
    text = changes.read_text(path)
    kept = [line for line in text.splitlines(keepends=True) if not _is_stale(line)]
    if not text or kept == text.splitlines(keepends=True):
        return
    if "".join(kept).strip():
        changes.write_text(path, "".join(kept), STABLE_NAMES)
    else:
        changes.remove(path, "it only names disks of the source; grub-install makes it anew")


def _is_stale(line: str) -> bool:
    found = MAP_LINE.fullmatch(line)
    return found is not None and is_unstable(found["device"]) and not found["device"].startswith("/dev/vd")


def add_serial_console(changes: Changes) -> None:
    """Every kernel also talks on the first serial port, now and after the next update-grub."""
    for path in config_paths(changes):
        changes.write_text(path, edit_linux_lines(changes.read_text(path), cmdline.with_serial), SERIAL)
    paths = settings_paths(changes)
    if SETTINGS not in paths or any(_settings_have_serial(changes.read_text(path)) for path in paths):
        return
    target = next((path for path in reversed(paths) if _assigns(changes.read_text(path))), SETTINGS)
    changes.write_text(target, _settings_with_serial(changes.read_text(target)), SERIAL)


def _settings_have_serial(text: str) -> bool:
    return any(cmdline.has_serial(found["value"].strip("\"'")) for found in SETTING.finditer(text))


def _assigns(text: str) -> bool:
    return any(not found["which"] for found in SETTING.finditer(text))


def _settings_with_serial(text: str) -> str:
    """The last plain GRUB_CMDLINE_LINUX gets the console; where there is none, a line is added."""
    plain = [found for found in SETTING.finditer(text) if not found["which"]]
    if not plain:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f'{text}{gap}GRUB_CMDLINE_LINUX="{cmdline.with_serial("")}"\n'
    last = plain[-1]
    value = _edit_value(last["value"], cmdline.with_serial)
    return text[: last.start()] + last["head"] + value + text[last.end() :]


def warn_about_installer(changes: Changes) -> None:
    """The package grub-pc remembers the name of the disk that it is installed on, and asks at upgrades."""
    answers = changes.read_text("/var/cache/debconf/config.dat")
    for block in re.split(r"\n\s*\n", answers):
        value = re.search(r"^Value:[ \t]*(\S[^\n]*)$", block, re.MULTILINE)
        named = re.search(r"^Name:[ \t]*grub-pc/install_devices$", block, re.MULTILINE)
        if named and value and any(is_unstable(word) for word in re.split(r"[,\s]+", value[1])):
            changes.warn(
                f"The package grub-pc will ask at its next upgrade where to install: it remembers {value[1]};"
                " in the virtual machine run: dpkg-reconfigure grub-pc"
            )
