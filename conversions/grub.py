"""GRUB 2: its settings in /etc/default, and the generated grub.cfg, both edited as text.

update-grub is not run: inside the appliance it would look at the appliance's devices. The settings get the
same edits, so that the guest's own next update-grub says the same again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversions import bls, cmdline, grub_environment, grub_menu
from conversions.boot_entries import BootEntry, read_menu
from conversions.changes import Changes
from conversions.command_lines import (
    SERIAL_CONSOLE,
    STABLE_NAMES,
    Edit,
    arguments,
    edit_file,
    edit_kernel_install,
    stable_names,
)
from conversions.devices import DeviceNames, is_unstable
from p2v.errors import GuestError

CONFIGS = ("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/*/grub.cfg")
"""The last are the whole menu on older Red Hat systems with UEFI, elsewhere three lines that lead to it."""
ENVIRONMENTS = ("/boot/grub/grubenv", "/boot/grub2/grubenv", "/boot/efi/EFI/*/grubenv")
ENTRIES = "/boot/loader/entries"
KERNEL_OPTIONS = "kernelopts"
SETTINGS = "/etc/default/grub"
SETTINGS_PARTS = "/etc/default/grub.d/*.cfg"
DEVICE_MAPS = ("/boot/grub/device.map", "/boot/grub2/device.map")
EVIDENCE = ("/boot/grub/i386-pc/core.img", "/boot/grub2/i386-pc/core.img")
"""What grub-install leaves where a BIOS starts GRUB 2."""

LINUX_LINE = grub_menu.LINUX_LINE
DEFAULT_OPTIONS = re.compile(r"^(?P<head>[ \t]*set kernelopts=)(?P<value>\"[^\"\n]*\")", re.MULTILINE)
"""Red Hat 8: what the menu takes where the environment has no `kernelopts`."""
SETTING = re.compile(
    r"^(?P<head>[ \t]*(?:export[ \t]+)?GRUB_CMDLINE_LINUX(?P<which>_[A-Z_]+)?=)"
    r"(?P<value>\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'|[^\s\"'#;]*)",
    re.MULTILINE,
)
NO_UUID = re.compile(
    r"^[ \t]*(?:export[ \t]+)?GRUB_DISABLE_(?:LINUX_)?UUID=[\"']?true\b[^\n]*$", re.MULTILINE
)
MAP_LINE = re.compile(r"\s*\((?:hd|fd)\d+\)\s+(?P<device>/dev/\S+)\s*")

NO_UUID_REASON = "without UUIDs the next update-grub would write names that depend on the hardware"


@dataclass(frozen=True, slots=True)
class Grub2:
    """GRUB 2 as a `conversions.loaders.Loader`."""

    changes: Changes
    name: str = "grub2"

    @property
    def exists(self) -> bool:
        return bool(config_paths(self.changes))

    @property
    def evidence(self) -> bool:
        """Whether a BIOS was made to start it."""
        return any(self.changes.guest.exists(path) for path in EVIDENCE)

    def default_kernel(self) -> str:
        return default_kernel(self.changes)

    def entries(self) -> tuple[BootEntry, ...]:
        menus = (read_menu(self.changes.read_text(path), "/") for path in config_paths(self.changes))
        listed = (entry.started for entry in bls.entries(self.changes, ENTRIES))
        return (*(entry for menu in menus for entry in menu), *listed)

    def rewrite_devices(self, names: DeviceNames) -> None:
        rewrite_devices(self.changes, names)
        warn_about_installer(self.changes)

    def add_arguments(self, words: Sequence[str]) -> None:
        _edit_all(self.changes, arguments(words))

    def add_serial_console(self) -> None:
        add_serial_console(self.changes)


def edit_linux_lines(text: str, edit: Callable[[str], str]) -> str:
    """A grub.cfg with `edit` applied to the arguments of every Linux kernel."""

    def edited(found: re.Match[str]) -> str:
        arguments = edit(found["arguments"])
        return found["head"] + (found["gap"] or (" " if arguments else "")) + arguments

    return DEFAULT_OPTIONS.sub(
        lambda found: found["head"] + _edit_value(found["value"], edit), LINUX_LINE.sub(edited, text)
    )


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
    """The generated configurations that exist."""
    return tuple(path for pattern in CONFIGS for path in changes.guest.glob(pattern))


def default_kernel(changes: Changes) -> str:
    """The path of the kernel that is started when nobody chooses, as the menu names it; empty if not seen."""
    variables: dict[str, str] = {}
    for pattern in ENVIRONMENTS:
        for path in changes.guest.glob(pattern):
            variables |= grub_environment.variables(changes.read_text(path))
    texts = [changes.read_text(path) for path in config_paths(changes)]
    found = [
        entry.linux for entry in bls.entries(changes, ENTRIES) if entry.name == variables.get("saved_entry")
    ]
    found += [grub_menu.default_kernel(text, variables) for text in texts]
    if any(grub_menu.USES_ENTRIES.search(text) for text in texts):
        found += [entry.linux for entry in bls.entries(changes, ENTRIES)]
    return next(filter(None, found), "")


def settings_paths(changes: Changes) -> tuple[str, ...]:
    """The files of settings in the order in which update-grub reads them; a later one wins."""
    first = (SETTINGS,) if changes.guest.exists(SETTINGS) else ()
    return (*first, *changes.guest.glob(SETTINGS_PARTS))


def rewrite_devices(changes: Changes, names: DeviceNames) -> None:
    """Name disks in a way that holds on any machine, now and after the next update-grub."""
    edit = stable_names(changes, names)
    _edit_menus(changes, edit)
    for path in settings_paths(changes):
        changes.write_text(path, edit_settings(changes.read_text(path), edit.apply), STABLE_NAMES)
        changes.write_text(path, NO_UUID.sub(r"#\g<0>", changes.read_text(path)), NO_UUID_REASON)
    for path in DEVICE_MAPS:
        clean_device_map(changes, path)


def _edit_menus(changes: Changes, edit: Edit) -> None:
    """What boots now: menus, entries of the Boot Loader Specification, and the variables that they use."""
    for path in config_paths(changes):
        edit_file(changes, path, lambda text: edit_linux_lines(text, edit.apply), edit.reason)
    bls.edit_entries(changes, ENTRIES, edit)
    for pattern in ENVIRONMENTS:
        for path in changes.guest.glob(pattern):
            _edit_environment(changes, path, edit)
    edit_kernel_install(changes, edit)


def _edit_environment(changes: Changes, path: str, edit: Edit) -> None:
    text = changes.read_text(path)
    try:
        edited = grub_environment.edit_variable(text, KERNEL_OPTIONS, edit.apply)
    except GuestError as error:
        changes.warn(f"{path}: {error.message}; {edit.reason} is missing there")
        return
    if edited != text:
        changes.write_text(path, edited, edit.reason)


def clean_device_map(changes: Changes, path: str) -> None:
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
    if any(_settings_have_serial(changes.read_text(path)) for path in settings_paths(changes)):
        _edit_menus(changes, SERIAL_CONSOLE)
    else:
        _edit_all(changes, SERIAL_CONSOLE)


def _edit_all(changes: Changes, edit: Edit) -> None:
    _edit_menus(changes, edit)
    paths = settings_paths(changes)
    if SETTINGS in paths:
        target = next((path for path in reversed(paths) if _assigns(changes.read_text(path))), SETTINGS)
        changes.write_text(target, _settings_with(changes.read_text(target), edit.apply), edit.reason)


def _settings_have_serial(text: str) -> bool:
    return any(cmdline.has_serial(found["value"].strip("\"'")) for found in SETTING.finditer(text))


def _assigns(text: str) -> bool:
    return any(not found["which"] for found in SETTING.finditer(text))


def _settings_with(text: str, edit: Callable[[str], str]) -> str:
    """The last plain GRUB_CMDLINE_LINUX is edited; where there is none, a line is added."""
    plain = [found for found in SETTING.finditer(text) if not found["which"]]
    if not plain:
        gap = "" if not text or text.endswith("\n") else "\n"
        return f'{text}{gap}GRUB_CMDLINE_LINUX="{edit("")}"\n'
    last = plain[-1]
    return text[: last.start()] + last["head"] + _edit_value(last["value"], edit) + text[last.end() :]


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
