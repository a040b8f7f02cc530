"""The tokens of an INF file: `%name%` and the [Strings] sections that say what they stand for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from drivers.inf.text import FIELD_LIMIT, InfError, Line, Sections

ENGLISH = 0x0409
"""The language that descriptions are read in, where an INF has several."""
PRIMARY_LANGUAGE = 0x3FF
"""The bits of a language number that the dialects of a language share (MAKELANGID, winnt.h)."""
TOKEN_LIMIT = 20_000

_TOKEN = re.compile(r"%([^%]*)%")
_STRINGS = "strings"


@dataclass(frozen=True, slots=True)
class Inf:
    """An INF file whose tokens can be expanded. `strings` has its tokens in lower case."""

    sections: Sections
    strings: dict[str, str] = field(repr=False)
    _by_key: dict[str, dict[str, list[Line]]] = field(default_factory=dict, repr=False)

    def expand(self, text: str) -> str:
        """`text` with tokens replaced, once; `%%` is a percent sign, unknown tokens and `%12%` stay.

        What a token stands for is not expanded again, as SetupAPI does. Raises InfError for a result that is
        too long.
        """
        if "%" not in text:
            return text
        whole = _TOKEN.sub(self._meaning, text)
        if len(whole) > FIELD_LIMIT:
            raise InfError(f"a field has {len(whole)} characters once expanded: {text[:40]!r}…")
        return whole

    def fields(self, line: Line) -> tuple[str, ...]:
        """The fields of a line, expanded."""
        return tuple(map(self.expand, line.fields))

    def values(self, section: str, key: str) -> tuple[str, ...]:
        """The expanded fields of every entry of `section` with that key, in their order; empty ones left
        out.
        """
        return tuple(one for line in self.keyed(section, key) for one in self.fields(line) if one)

    def value(self, section: str, key: str) -> str:
        """The first of `values`, empty where there is none."""
        return next(iter(self.values(section, key)), "")

    def keyed(self, section: str, key: str) -> Sequence[Line]:
        """The entries of a section with that key, in their order, unexpanded."""
        name = section.strip().lower()
        if name not in self._by_key:
            # A section is taken apart once: a hostile file names the same large one a thousand times.
            self._by_key[name] = self._keys_of(name)
        return self._by_key[name].get(key.lower(), ())

    def _keys_of(self, section: str) -> dict[str, list[Line]]:
        keys: dict[str, list[Line]] = {}
        for line in self.sections.lines(section):
            keys.setdefault((line.key or "").lower(), []).append(line)
        return keys

    def _meaning(self, found: re.Match[str]) -> str:
        token = found.group(1)
        return self.strings.get(token.lower(), found.group()) if token else "%"


def with_strings(sections: Sections, language: int = ENGLISH) -> Inf:
    """The file with the strings of a language (a Windows language number).

    The section is chosen as the documentation of [Strings] says: the language with its dialect, the language
    alone, another dialect, the neutral section. Tokens that it lacks are looked up in the others. Raises
    InfError where there are more tokens than a file may have.
    """
    strings: dict[str, str] = {}
    for name in _by_closeness(sections, language):
        for line in sections.lines(name):
            if line.key is not None:
                strings.setdefault(_name(line.key), line.field(0))
            if len(strings) > TOKEN_LIMIT:
                raise InfError(f"it defines more than {TOKEN_LIMIT} strings")
    return Inf(sections, strings)


def _name(key: str) -> str:
    return key.replace("%%", "%").lower()


def _by_closeness(sections: Sections, language: int) -> list[str]:
    names = [name for name in sections.names if name == _STRINGS or name.startswith(_STRINGS + ".")]
    return sorted(names, key=lambda name: _distance(name, language))


def _distance(name: str, language: int) -> int:
    if name == _STRINGS:
        return 3
    try:
        other = int(name.partition(".")[2], 16)
    except ValueError:
        return 5
    primary = language & PRIMARY_LANGUAGE
    if other == language:
        return 0
    if other == primary:
        return 1
    return 2 if other & PRIMARY_LANGUAGE == primary else 4


def number(text: str) -> int:
    """A number as INF files write them: decimal, or hexadecimal behind `0x`.

    Raises InfError for anything else, and for one that 32 bits do not hold.
    """
    word = text.strip().lower()
    sign = -1 if word.startswith("-") else 1
    digits = word.lstrip("-")
    base = 16 if digits.startswith("0x") else 10
    body = digits.removeprefix("0x")
    if not body or len(body) > 10 or not all(char in "0123456789abcdef"[:base] for char in body):
        raise InfError(f"no number: {text[:40]!r}")
    value = sign * int(body, base)
    if not -(1 << 31) <= value < 1 << 32:
        raise InfError(f"a number beyond 32 bits: {text[:40]!r}")
    return value
