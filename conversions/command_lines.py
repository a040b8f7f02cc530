"""Edits of a kernel's command line that every boot loader applies to its own files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from conversions import cmdline
from conversions.changes import Changes
from conversions.devices import DeviceNames

STABLE_NAMES = "disks have other names in the virtual machine"
SERIAL = "console on the first serial port"
ARGUMENTS = "arguments of the kernel"
KERNEL_INSTALL = ("/etc/kernel/cmdline", "/usr/lib/kernel/cmdline")
"""What kernel-install(8) and ukify(1) write into the entries of later kernels."""
PARTS = "/etc/cmdline.d/*.conf"


@dataclass(frozen=True, slots=True)
class Edit:
    """A change of the arguments; `additive` where it puts something in that may not be there twice."""

    apply: Callable[[str], str]
    reason: str
    additive: bool = False


def stable_names(changes: Changes, names: DeviceNames) -> Edit:
    """Name disks in a way that holds on any machine; what is not the source's costs a warning."""

    def edit(words: str) -> str:
        rewritten = cmdline.rewrite_devices(words, names)
        changes.warn_all(rewritten.warnings)
        return rewritten.text

    return Edit(edit, STABLE_NAMES)


SERIAL_CONSOLE = Edit(cmdline.with_serial, SERIAL, additive=True)


def arguments(words: Sequence[str]) -> Edit:
    return Edit(lambda text: cmdline.with_arguments(text, words), ARGUMENTS, additive=True)


def edit_file(changes: Changes, path: str, edit: Callable[[str], str], reason: str) -> None:
    """Rewrite a text file where it exists."""
    text = changes.read_text(path)
    if text:
        changes.write_text(path, edit(text), reason)


def edit_kernel_install(changes: Changes, edit: Edit) -> None:
    """The command line of kernels that are installed later, where the guest has one of its own."""
    for path in KERNEL_INSTALL:
        if changes.guest.exists(path):
            edit_file(changes, path, lambda text: _first_line(text, edit.apply), edit.reason)
            break
    if not edit.additive:
        for path in changes.guest.glob(PARTS):
            edit_file(changes, path, edit.apply, edit.reason)


def _first_line(text: str, edit: Callable[[str], str]) -> str:
    """The file is one line; a newline at its end stays."""
    body = text.rstrip("\n")
    return edit(body) + text[len(body) :]
