"""The environment block of GRUB 2: 1024 bytes, lines of `name=value`, filled up with `#`.

Format: grub-core/lib/envblk.c. GRUB writes into the blocks of the file where they are, so its size never
changes; a backslash and a newline in a value stand behind a backslash.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from p2v.errors import GuestError

SIGNATURE = "# GRUB Environment Block\n"
SIZE = 1024


def variables(text: str) -> dict[str, str]:
    """Names and values. Empty where this is no environment block."""
    if not text.startswith(SIGNATURE):
        return {}
    lines = re.split(r"(?<!\\)\n", text[len(SIGNATURE) :])
    pairs = (line.partition("=") for line in lines if not line.startswith("#"))
    return {name: _unescape(value) for name, equals, value in pairs if equals}


def edit_variable(text: str, name: str, edit: Callable[[str], str]) -> str:
    """The block with `edit` applied to one variable; as it is where the variable is not there.

    Raises GuestError where the result does not fit.
    """
    found = re.search(rf"^{re.escape(name)}=((?:[^\\\n]|\\[\s\S])*)\n", text, re.MULTILINE)
    if not text.startswith(SIGNATURE) or found is None:
        return text
    value = _escape(edit(_unescape(found[1])))
    if value == found[1]:
        return text
    filled = text[: found.start(1)] + value + text[found.end(1) :].rstrip("#")
    size = max(SIZE, len(text.encode("utf-8", "surrogateescape")))
    used = len(filled.encode("utf-8", "surrogateescape"))
    if used > size:
        raise GuestError(f"GRUB's environment block has no space for {name}")
    return filled + "#" * (size - used)


def _unescape(value: str) -> str:
    return re.sub(r"\\([\s\S])", r"\1", value)


def _escape(value: str) -> str:
    return re.sub(r"([\\\n])", r"\\\1", value)
