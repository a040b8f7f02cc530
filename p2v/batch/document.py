"""A YAML document with the place of everything in it, read as if somebody hostile had written it.

It is made from PyYAML's events and not from its loaders: those build what an anchor stands for before anybody
can look at its size, and the one in C ends the process at some thousands of brackets in each other.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from p2v.errors import UsageError

SIZE_LIMIT = 32 * 1024 * 1024
"""Bytes of a manifest: 10,000 machines with ten lines each take about four million."""
DEPTH_LIMIT = 32
VALUES_LIMIT = 1_000_000
"""Values of a document with all aliases filled in."""
ALIAS_LIMIT = 20_000

INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
FLOAT = re.compile(r"[-+]?[0-9]{1,18}\.[0-9]{1,18}")
YES = ("true", "yes", "on")
NO = ("false", "no", "off")
NOTHING = ("", "~", "null")
MERGE = "<<"

Plain = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None
Place = tuple[str | int, ...]
"""The way to a value: keys of tables, numbers in lists."""


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in the file, both counted from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """Something that a person must correct in a manifest."""

    mark: Mark
    message: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"line {self.mark.line}, column {self.mark.column}: {self.message}"
        return f"{text}. {self.hint}" if self.hint else text


class Unreadable(Exception):
    """The document cannot be read any further."""

    def __init__(self, mark: Mark, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.mistake = Mistake(mark, message, hint)


@dataclass(slots=True)
class Node(ABC):
    """A value and where it stands; `size` counts the values in it, aliases filled in."""

    mark: Mark
    size: int = 1

    @abstractmethod
    def plain(self) -> Plain:
        """What it says, without the places."""


@dataclass(slots=True)
class Scalar(Node):
    value: str | int | float | bool | None = None

    def plain(self) -> Plain:
        return self.value


@dataclass(slots=True)
class Items(Node):
    values: list[Node] = field(default_factory=list)

    def plain(self) -> Plain:
        return [value.plain() for value in self.values]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a table: where its key stands, and the value."""

    mark: Mark
    value: Node


@dataclass(slots=True)
class Table(Node):
    entries: dict[str, Entry] = field(default_factory=dict)

    def plain(self) -> Plain:
        return {key: entry.value.plain() for key, entry in self.entries.items()}


def find(node: Node, place: Place) -> Mark:
    """Where the value at `place` stands, or what is nearest to it: the key, or what it should be in."""
    for step in place:
        inner = _within(node, step)
        if inner is None:
            break
        node = inner
    return node.mark


def find_key(node: Node, place: Place) -> Mark:
    """Where the key of the value at `place` stands."""
    parent = get(node, place[:-1])
    if isinstance(parent, Table) and place[-1] in parent.entries:
        return parent.entries[str(place[-1])].mark
    return find(node, place)


def get(node: Node, place: Place) -> Node | None:
    found: Node | None = node
    for step in place:
        found = _within(found, step) if found else None
    return found


def _within(node: Node, step: str | int) -> Node | None:
    """The value under a key, or with a number."""
    if isinstance(node, Table) and step in node.entries:
        return node.entries[str(step)].value
    if isinstance(node, Items) and isinstance(step, int) and step < len(node.values):
        return node.values[step]
    return None


def read_text(path: Path) -> str:
    """The text of a manifest; a byte order mark is taken off. Raises UsageError."""
    try:
        with path.open("rb") as file:
            content = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}", hint="Its form: p2v batch --schema"
        ) from error
    if len(content) > SIZE_LIMIT:
        raise UsageError(f"{path} has more than {SIZE_LIMIT} bytes", hint="Split it into several manifests")
    wide = content.startswith((b"\xff\xfe", b"\xfe\xff"))  # what Windows calls Unicode
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path} is not UTF-8 text: see line {line}", hint="Save it as UTF-8") from None


def compose(text: str) -> tuple[Node, tuple[Mistake, ...]]:
    """The document, and what is wrong in it that does not keep it from being read. Raises Unreadable."""
    return _Composer(text).document()


class _Composer:
    def __init__(self, text: str) -> None:
        self._events = _events(text)
        self._anchors: dict[str, Node] = {}
        self._open: set[str] = set()
        self._values = 0
        self._aliases = 0
        self._mistakes: list[Mistake] = []

    def document(self) -> tuple[Node, tuple[Mistake, ...]]:
        root: Node | None = None
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    raise Unreadable(_mark(event), "a second document begins here", "A manifest is one")
                root = self._node(next(self._events), 1)
        if root is None:
            raise Unreadable(Mark(1, 1), "there is nothing in it", "Its form: p2v batch --schema")
        return root, tuple(self._mistakes)

    def _node(self, event: yaml.Event, depth: int) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if not isinstance(event, yaml.NodeEvent):
            raise Unreadable(_mark(event), "a value is missing here")
        if depth > DEPTH_LIMIT:
            raise Unreadable(_mark(event), f"more than {DEPTH_LIMIT} levels are in each other here")
        if getattr(event, "tag", None) not in (None, "!"):
            raise Unreadable(_mark(event), "tags (!…) have no meaning here", "Put the value in quotes")
        self._count(1, event)
        anchor = event.anchor
        if anchor:
            self._open.add(anchor)
        node = self._value(event, depth)
        if anchor:
            self._open.discard(anchor)
            self._anchors[anchor] = node
        return node

    def _value(self, event: yaml.Event, depth: int) -> Node:
        match event:
            case yaml.ScalarEvent():
                value = _plain_value(event.value) if not event.style and event.implicit[0] else event.value
                return Scalar(_mark(event), 1, value)
            case yaml.SequenceStartEvent():
                return self._items(event, depth)
            case _:
                return self._table(event, depth)

    def _alias(self, event: yaml.AliasEvent) -> Node:
        name = event.anchor
        if name in self._open:
            raise Unreadable(_mark(event), "this alias (*…) stands within what it stands for")
        if name not in self._anchors:
            # The name is not repeated: it may be a password that begins with a star.
            raise Unreadable(_mark(event), "there is no anchor (&…) above for this alias (*…)", QUOTES)
        self._aliases += 1
        node = self._anchors[name]
        if self._aliases > ALIAS_LIMIT:
            raise Unreadable(_mark(event), f"there are more than {ALIAS_LIMIT} aliases", BOMB)
        self._count(node.size, event)
        return node

    def _count(self, size: int, event: yaml.Event) -> None:
        self._values += size
        if self._values > VALUES_LIMIT:
            raise Unreadable(_mark(event), f"it has more than {VALUES_LIMIT} values, aliases filled in", BOMB)

    def _items(self, start: yaml.Event, depth: int) -> Items:
        node = Items(_mark(start))
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            node.values.append(self._node(event, depth + 1))
        node.size += sum(value.size for value in node.values)
        return node

    def _table(self, start: yaml.Event, depth: int) -> Table:
        node = Table(_mark(start))
        merged: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._node(event, depth + 1)
            value = self._node(next(self._events), depth + 1)
            node.size += value.size
            self._take(node, key, event, value, merged)
        for other in merged:
            self._merge(node, other)
        return node

    def _take(self, node: Table, key: Node, event: yaml.Event, value: Node, merged: list[Node]) -> None:
        if not isinstance(key, Scalar) or not isinstance(event, yaml.ScalarEvent):
            self._mistakes.append(Mistake(key.mark, "a key is one word"))
        elif event.value == MERGE and not event.style:
            merged += value.values if isinstance(value, Items) else [value]
        elif event.value in node.entries:
            first = node.entries[event.value].mark.line
            message = f"{shown_key(event.value)} stands twice; the first is in line {first}"
            self._mistakes.append(Mistake(key.mark, message))
        else:
            node.entries[event.value] = Entry(key.mark, value)

    def _merge(self, node: Table, other: Node) -> None:
        """What `<<` brings, except for what the table says itself."""
        if isinstance(other, Table):
            for key, entry in other.entries.items():
                node.entries.setdefault(key, entry)
        else:
            self._mistakes.append(Mistake(other.mark, "<< takes tables (key: value)"))


QUOTES = "If it is meant as it stands, put it in quotes"
BOMB = "A manifest of 10,000 machines needs fewer"


def shown_key(key: str) -> str:
    """A key for a message: printable and short, because whole secrets may end up where a key should be."""
    text = "".join(char if char.isprintable() else "?" for char in key)
    return repr(text if len(text) <= 40 else text[:39] + "…")


def _plain_value(text: str) -> str | int | float | bool | None:
    match text.lower():
        case word if word in NOTHING:
            return None
        case word if word in (*YES, *NO):
            return word in YES
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text


def _events(text: str) -> Iterator[yaml.Event]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        yield from yaml.parse(text, Loader=loader)
    except yaml.MarkedYAMLError as error:
        raise _explained(error, text) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Unreadable(
            Mark(line, 1), "a character that no YAML file has", "Save it as plain text"
        ) from None
    except RecursionError:
        raise Unreadable(Mark(1, 1), "too many levels are in each other") from None


def _explained(error: yaml.MarkedYAMLError, text: str) -> Unreadable:
    """The parser's message without the text around: a secret may stand there."""
    found = error.problem_mark or error.context_mark
    mark = Mark(found.line + 1, found.column + 1) if found else Mark(1, 1)
    lines = text.splitlines()[mark.line - 1 : mark.line]
    problem = error.problem or "not YAML"
    match lines[0][mark.column - 1 : mark.column] if lines else "":
        case "\t":
            return Unreadable(mark, "a tab stands here", "YAML is indented with spaces; put two for each tab")
        case "@" | "`" | "%" as char:
            return Unreadable(mark, f"a value cannot begin with {char}", "Put it in quotes")
    if "tab" in problem.split():
        return Unreadable(mark, "a tab stands here", "YAML is indented with spaces; put two for each tab")
    context = f" ({error.context})" if error.context else ""
    return Unreadable(
        mark, f"{problem}{context}", QUOTES if error.context and "alias" in error.context else ""
    )


def _mark(event: yaml.Event) -> Mark:
    start = event.start_mark
    return Mark(start.line + 1, start.column + 1) if start else Mark(1, 1)
