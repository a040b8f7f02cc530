"""Entries of the Boot Loader Specification: `loader/entries/*.conf`, of GRUB 2 and of systemd-boot.

Format: uapi-group.org, Boot Loader Specification, Type #1. One key and its value a line.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from conversions.boot_entries import BootEntry
from conversions.changes import Changes
from conversions.command_lines import Edit, edit_file
from conversions.kernel_versions import version_key

OPTIONS = re.compile(r"^(?P<head>[ \t]*options[ \t]+)(?P<arguments>[^\n]*)$", re.MULTILINE)
FIELD = re.compile(r"^[ \t]*(?P<key>[a-z-]+)[ \t]+(?P<value>[^\n]*?)[ \t]*$", re.MULTILINE)
VARIABLE = "$kernelopts"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `name` is the file's without `.conf`, `linux` the kernel's path on its own filesystem."""

    path: str
    name: str
    linux: str
    version: str
    sort_key: str = ""
    initrds: tuple[str, ...] = ()

    @property
    def started(self) -> BootEntry:
        return BootEntry(self.linux, self.initrds)


def entries(changes: Changes, folder: str) -> tuple[Entry, ...]:
    """The entries of `folder`, in the order in which a menu shows them: the newest kernel first."""
    found = (_entry(changes, path) for path in changes.guest.glob(f"{folder}/*.conf"))
    usable = [entry for entry in found if entry.linux]
    return tuple(sorted(usable, key=lambda entry: version_key(entry.version), reverse=True))


def _entry(changes: Changes, path: str) -> Entry:
    fields: dict[str, str] = {}
    initrds: list[str] = []
    for found in FIELD.finditer(changes.read_text(path)):
        fields.setdefault(found["key"], found["value"])
        # GRUB takes several on a line, and variables, which are of no file.
        words = found["value"].split() if found["key"] == "initrd" else []
        initrds += [f"/{word.lstrip('/')}" for word in words if not word.startswith("$")]
    name = posixpath.basename(path).removesuffix(".conf")
    version = fields.get("version", "") or name
    linux = fields.get("linux", "") or fields.get("efi", "")
    return Entry(path, name, linux, version, fields.get("sort-key", ""), tuple(initrds))


def edit_entries(changes: Changes, folder: str, edit: Edit) -> None:
    """Apply `edit` to the options of each entry.

    Where they are a variable (`$kernelopts`), what is added belongs to where the variable is defined.
    """
    for path in changes.guest.glob(f"{folder}/*.conf"):
        edit_file(
            changes,
            path,
            lambda text: _added(text, edit) if edit.additive else _each(text, edit),
            edit.reason,
        )


def _added(text: str, edit: Edit) -> str:
    """Several lines of options are one command line, which gets the addition once, at its end."""
    lines = list(OPTIONS.finditer(text))
    whole = " ".join(found["arguments"] for found in lines).rstrip()
    if VARIABLE in whole.split():
        return text
    addition = edit.apply(whole)[len(whole) :]
    if lines:
        return text[: lines[-1].end()].rstrip(" \t") + addition + text[lines[-1].end() :]
    return f"{text}{'' if text.endswith(chr(10)) else chr(10)}options {addition.strip()}\n"


def _each(text: str, edit: Edit) -> str:
    return OPTIONS.sub(lambda found: found["head"] + edit.apply(found["arguments"]), text)
