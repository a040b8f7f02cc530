"""The menu of a grub.cfg, as far as it takes to know which kernel is started when nobody chooses.

Read line by line, as grub-mkconfig writes it; its language is never run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

LINUX_LINE = re.compile(
    r"^(?P<head>[ \t]*linux(?:16|efi)?[ \t]+(?P<kernel>\S*/(?:vmlinu[xz]|kernel|linux)[^/\s]*))"
    r"(?P<gap>[ \t]*)(?P<arguments>[^\n]*)$",
    re.MULTILINE,
)
USES_ENTRIES = re.compile(r"^[ \t]*blscfg\b", re.MULTILINE)
ITEM = re.compile(
    r"[ \t]*(?P<what>menuentry|submenu)[ \t]+"
    r"(?P<title>\"[^\"]*\"|'(?:[^']|'\\'')*'|[^\s'\"{]+)(?P<options>.*)\{[ \t]*"
)
IDENTIFIER = re.compile(r"(?:\$\{?menuentry_id_option\}?|--id)[ \t]+(?:'([^']*)'|\"([^\"]*)\"|(\S+))")
DEFAULT = re.compile(
    r"^[ \t]*set[ \t]+default=(?:\"(?P<double>[^\"\n]*)\"|'(?P<single>[^'\n]*)'|(?P<plain>\S*))", re.MULTILINE
)
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
MAX_DEPTH = 16


@dataclass(slots=True)
class Item:
    """An entry or a submenu: `names` are its title and its id."""

    names: tuple[str, ...]
    kernel: str = ""
    items: list[Item] = field(default_factory=list)


def default_kernel(text: str, variables: Mapping[str, str]) -> str:
    """The kernel of the default entry; of the first entry where the default is not to be found."""
    items = menu(text)
    for found in DEFAULT.finditer(text):
        wanted = VARIABLE.sub(lambda name: variables.get(name[1], ""), _value(found))
        kernel = _chosen(items, wanted.split(">")) if wanted else ""
        if kernel:
            return kernel
    first = LINUX_LINE.search(text)
    return first["kernel"] if first else ""


def _value(found: re.Match[str]) -> str:
    return found["double"] or found["single"] or found["plain"] or ""


def menu(text: str) -> list[Item]:
    """The entries and submenus, nested as they are."""
    top = Item(())
    stack = [top]
    for line in text.splitlines():
        opened = ITEM.fullmatch(line)
        if opened and len(stack) < MAX_DEPTH:
            item = Item(_names(opened))
            stack[-1].items.append(item)
            stack.append(item)
        elif line.strip() == "}" and len(stack) > 1:
            stack.pop()
        elif not stack[-1].kernel:
            found = LINUX_LINE.fullmatch(line)
            stack[-1].kernel = found["kernel"] if found else ""
    return top.items


def _names(opened: re.Match[str]) -> tuple[str, ...]:
    title = opened["title"]
    identifier = IDENTIFIER.search(opened["options"])
    given = next(filter(None, identifier.groups()), "") if identifier else ""
    inner = title[1:-1] if title[:1] in "\"'" else title
    return (inner.replace("'\\''", "'"), given)


def _chosen(items: Sequence[Item], path: Sequence[str]) -> str:
    """The kernel at a path of numbers, titles or ids; a submenu stands for its first entry."""
    for name in path:
        found = _item(items, name.strip())
        if found is None:
            return ""
        if found.kernel:
            return found.kernel
        items = found.items
    return items[0].kernel if items else ""


def _item(items: Sequence[Item], name: str) -> Item | None:
    if name.isdecimal() and len(name) < 6:
        return items[int(name)] if int(name) < len(items) else None
    return next((item for item in items if name in item.names), None)
