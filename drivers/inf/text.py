"""From the bytes of an INF file to its sections and lines.

The grammar is that of "General Syntax Rules for INF Files" (windows-driver-docs); where it is silent, that of
SetupAPI as Wine rebuilt it. Nothing is interpreted here, and every size is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from drivers.inf.model import Encoding
from p2v.errors import UsageError

FILE_LIMIT = 4 << 20
"""Bytes. The largest INF files, those of graphics cards, have about one MiB."""
LINE_COUNT_LIMIT = 100_000
LINE_LIMIT = 65_536
"""Characters of an entry, its continuation lines joined."""
SECTION_NAME_LIMIT = 255
FIELD_LIMIT = 4095
"""4096 with the closing NUL ("INF Size Limits")."""

CONTROL_Z = "\x1a"
"""What ends a text file since CP/M, for SetupAPI too."""

_LINES = re.compile(r"\r\n|\n|\r")
# A quoted string (an open one ends with the line), a token, or the start of a comment.
_SPECIAL = re.compile(r'"[^"]*(?:""[^"]*)*(?:"|$)|%[^%",=]*%|;')
_KEY_END = re.compile(r'"[^"]*(?:""[^"]*)*(?:"|$)|[=,]')
_FIELD_END = re.compile(r'"[^"]*(?:""[^"]*)*(?:"|$)|,')
_QUOTED = re.compile(r'"([^"]*(?:""[^"]*)*)(?:"|$)')


class InfError(UsageError):
    """An INF file that is none, is damaged, or is larger than such files are."""


@dataclass(frozen=True, slots=True)
class Line:
    """An entry: `key=field,field`; without an equals sign `key` is None. Tokens are not expanded."""

    key: str | None
    fields: tuple[str, ...]

    def field(self, number: int) -> str:
        """A field by its number from 0; empty where the line is shorter."""
        return self.fields[number] if number < len(self.fields) else ""


@dataclass(frozen=True, slots=True)
class Sections:
    """An INF file by its sections; sections of one name are one, names are compared without case.

    Entries are kept as text and taken apart when they are asked for: an index reads few of them.
    """

    encoding: Encoding
    entries: dict[str, list[str]] = field(repr=False)

    def __contains__(self, name: str) -> bool:
        return name.strip().lower() in self.entries

    @property
    def names(self) -> tuple[str, ...]:
        """In lower case."""
        return tuple(self.entries)

    def lines(self, name: str) -> Iterator[Line]:
        """The entries of a section in their order, duplicate keys included; none where there is no section.

        Raises InfError for a field that is too long.
        """
        return map(split_entry, self.entries.get(name.strip().lower(), ()))


def decode(data: bytes) -> tuple[str, Encoding]:
    """The text of a file, by its byte order mark; without one UTF-8 where it is valid, else Windows' Latin 1.

    Raises InfError for text that is cut in the middle of a character of UTF-16.
    """
    try:
        if data.startswith(b"\xff\xfe"):
            return data[2:].decode("utf-16-le"), Encoding.UTF16_LE
        if data.startswith(b"\xfe\xff"):
            return data[2:].decode("utf-16-be"), Encoding.UTF16_BE
        if data.startswith(b"\xef\xbb\xbf"):
            return data[3:].decode(), Encoding.UTF8
    except UnicodeDecodeError as error:
        raise InfError(f"its text is damaged: {error.reason} at byte {error.start}") from error
    try:
        return data.decode(), Encoding.UTF8
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace"), Encoding.CP1252


def parse(data: bytes) -> Sections:
    """The sections of an INF file. Raises InfError for what is none, or is too large."""
    if len(data) > FILE_LIMIT:
        raise InfError(f"it has {len(data)} bytes; INF files end at {FILE_LIMIT}")
    text, encoding = decode(data)
    text = text.split(CONTROL_Z, 1)[0]
    if "\0" in text:
        raise InfError("it holds NUL characters, so it is no text")
    return Sections(encoding, _sections(_LINES.split(text)))


def _sections(lines: list[str]) -> dict[str, list[str]]:
    if len(lines) > LINE_COUNT_LIMIT:
        raise InfError(f"it has {len(lines)} lines; INF files end at {LINE_COUNT_LIMIT}")
    sections: dict[str, list[str]] = {}
    current: list[str] | None = None
    for entry in _entries(lines):
        if entry.startswith("["):
            current = sections.setdefault(_section_name(entry), [])
        elif current is None:
            raise InfError(f"it does not begin with a section: {entry[:40]!r}")
        else:
            current.append(entry)
    return sections


def _section_name(header: str) -> str:
    name, closed, _rest = header[1:].partition("]")
    if not closed:
        raise InfError(f"a section's name is not closed: {header[:40]!r}")
    if len(name) > SECTION_NAME_LIMIT:
        raise InfError(f"a section's name has {len(name)} characters: {name[:40]!r}…")
    return name.strip().lower()


def _entries(lines: list[str]) -> Iterator[str]:
    """Lines without comments and empty ones, continuation lines joined, headers as they are."""
    parts: list[str] = []
    size = 0
    for line in lines:
        if not parts and line.lstrip().startswith("["):
            yield line.lstrip()
            continue
        body, goes_on = _body(line)
        size += len(body)
        if size > LINE_LIMIT:
            raise InfError(f"an entry has more than {LINE_LIMIT} characters: {(parts or [body])[0][:40]!r}…")
        parts.append(body)
        if goes_on:
            continue
        if entry := "".join(parts).strip():
            yield entry
        parts.clear()
        size = 0
    if entry := "".join(parts).strip():
        yield entry


def _body(line: str) -> tuple[str, bool]:
    """A line without its comment and outer space, and whether the next one continues it."""
    body, open_quote = _without_comment(line.strip())
    if open_quote or not body.endswith("\\"):
        return body, False
    return body.rstrip("\\"), True  # of two backslashes the first is ignored


def _without_comment(line: str) -> tuple[str, bool]:
    if ";" not in line:
        return line, line.count('"') % 2 == 1
    if '"' not in line and "%" not in line:
        return line.partition(";")[0].rstrip(), False
    for found in _SPECIAL.finditer(line):
        if found.group() == ";":
            return line[: found.start()].rstrip(), False
        if found.group()[0] == '"' and found.end() == len(line):
            return line, found.group().count('"') % 2 == 1
    return line, False


def split_entry(entry: str) -> Line:
    """`key=field,field` taken apart. Raises InfError for a field that is too long."""
    if '"' not in entry:
        key, equals, rest = entry.partition("=")
        if not equals or "," in key:
            return Line(None, _checked(part.strip() for part in entry.split(",")))
        return Line(_checked([key.strip()])[0], _checked(part.strip() for part in rest.split(",")))
    end = next((found for found in _KEY_END.finditer(entry) if found.group()[0] != '"'), None)
    if end is None or end.group() == ",":
        return Line(None, _checked(_quoted_fields(entry)))
    return Line(_checked([_unquoted(entry[: end.start()])])[0], _checked(_quoted_fields(entry[end.end() :])))


def _quoted_fields(text: str) -> Iterator[str]:
    start = 0
    for found in _FIELD_END.finditer(text):
        if found.group() == ",":
            yield _unquoted(text[start : found.start()])
            start = found.end()
    yield _unquoted(text[start:])


def _unquoted(text: str) -> str:
    """A field without quotes; space inside them stays."""
    return _QUOTED.sub(lambda found: found.group(1).replace('""', '"'), text.strip())


def _checked(fields: Iterable[str]) -> tuple[str, ...]:
    kept = tuple(fields)
    for one in kept:
        if len(one) > FIELD_LIMIT:
            raise InfError(f"a field has {len(one)} characters: {one[:40]!r}…")
    return kept
