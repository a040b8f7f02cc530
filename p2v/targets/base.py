"""What every target hands back: configuration files as text, written by the caller."""

from __future__ import annotations

import re
from dataclasses import dataclass

NAME_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A file that describes the virtual machine to a hypervisor. `name` is a plain file name."""

    name: str
    text: str


def file_name(title: str, suffix: str) -> str:
    """A plain file name from the name of a machine: never a path, never hidden, never an option."""
    return (re.sub(r"[^\w.+-]", "_", title).lstrip(".-")[:NAME_LIMIT] or "machine") + suffix
