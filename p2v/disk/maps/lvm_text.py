"""The text form of LVM2 metadata: nested sections of `key = value`, parsed within bounds.

Source: `lib/config/config.c` of LVM2. Values are strings, integers, and flat lists of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from p2v.disk.maps.errors import MapUnknown

Value = str | int | list[str | int]

MAX_DEPTH = 8
_TOKEN = re.compile(
    r"""\s+|\#[^\n]*|(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>[+-]?\d{1,20}(?:\.\d*)?)(?![\w.])"""
    r"""|(?P<name>[A-Za-z0-9_+.\-/@]+)|(?P<mark>[={}\[\],])""",
    re.DOTALL,
)


@dataclass(slots=True)
class Section:
    """`values` are scalars and lists, `sections` what stands in braces, both in the order of the text."""

    values: dict[str, Value] = field(default_factory=dict)
    sections: dict[str, Section] = field(default_factory=dict)

    def number(self, key: str) -> int:
        value = self.values.get(key)
        if not isinstance(value, int) or value < 0:
            raise MapUnknown(f"the metadata of LVM has no number {key!r}")
        return value

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str):
            raise MapUnknown(f"the metadata of LVM has no text {key!r}")
        return value

    def items(self, key: str) -> list[str | int]:
        """A list; empty where there is none."""
        value = self.values.get(key, [])
        if not isinstance(value, list):
            raise MapUnknown(f"the metadata of LVM has no list {key!r}")
        return value

    def section(self, key: str) -> Section:
        """The section of that name; an empty one where there is none."""
        return self.sections.get(key) or Section()

    def strings(self) -> Iterator[str]:
        """All texts of the section, those of its lists included."""
        for value in self.values.values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str):
                    yield item


def parse(text: str) -> Section:
    """The sections of a metadata text. Raises MapUnknown where it is not one."""
    root = Section()
    stack = [root]
    tokens = _tokens(text)
    for kind, token in tokens:
        if (kind, token) == ("mark", "}") and len(stack) > 1:
            stack.pop()
        elif kind in ("name", "number"):
            _statement(stack, token, tokens)
        else:
            raise MapUnknown("damaged metadata of LVM")
    if len(stack) != 1:
        raise MapUnknown("the metadata of LVM ends too early")
    return root


def _statement(stack: list[Section], key: str, tokens: Iterator[tuple[str, str]]) -> None:
    here = stack[-1]
    if key in here.values or key in here.sections:
        raise MapUnknown(f"the metadata of LVM has {key!r} twice")
    match next(tokens, None):
        case ("mark", "{") if len(stack) < MAX_DEPTH:
            here.sections[key] = Section()
            stack.append(here.sections[key])
        case ("mark", "="):
            here.values[key] = _value(tokens)
        case _:
            raise MapUnknown("damaged metadata of LVM")


def _value(tokens: Iterator[tuple[str, str]]) -> Value:
    first = next(tokens, ("", ""))
    if first != ("mark", "["):
        return _scalar(first)
    items: list[str | int] = []
    for token in tokens:
        if token == ("mark", "]"):
            return items
        if token != ("mark", ","):
            items.append(_scalar(token))
    raise MapUnknown("the metadata of LVM ends too early")


def _scalar(token: tuple[str, str]) -> str | int:
    match token:
        case ("string", text):
            return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
        case ("number", text) if "." not in text:
            return int(text)
        case ("number", text):
            return text  # nothing that is asked for here is a fraction
        case _:
            raise MapUnknown("damaged metadata of LVM")


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise MapUnknown("damaged metadata of LVM")
        at = found.end()
        if found.lastgroup:
            yield found.lastgroup, found.group()
