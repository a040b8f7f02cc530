"""[Manufacturer] and the Models sections: which devices an INF file knows, and by which install section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from drivers.inf.decorations import choose
from drivers.inf.model import IdKind, Windows
from drivers.inf.strings import Inf
from drivers.inf.text import InfError, Line

MAKER_LIMIT = 500
"""Entries of [Manufacturer], and decorations of one of them."""
MODEL_LIMIT = 50_000
"""Ids of one INF file; the largest, of graphics and printer drivers, have some thousands."""
ID_LIMIT = 199
"""Characters of an id: MAX_DEVICE_ID_LEN (cfgmgr32.h) without the closing NUL."""

_ID = re.compile(r"[ -+\--\[\]-~]+(?:\\[ -+\--\[\]-~]+)*")
"""Printable ASCII but for the comma; a backslash stands between names, which become keys of the registry."""


@dataclass(frozen=True, slots=True)
class Maker:
    """An entry of [Manufacturer]: `name` unexpanded, `section` without decoration."""

    name: str
    section: str
    decorations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """An id of a Models line. `position` counts within its kind; see `model.Descriptor`."""

    device_id: str
    kind: IdKind
    position: int
    section: str
    description: str
    maker: str


def makers(inf: Inf) -> tuple[Maker, ...]:
    """Raises InfError where [Manufacturer] is missing, which a driver's INF must have."""
    if "manufacturer" not in inf.sections:
        raise InfError("it has no [Manufacturer], so it installs no device")
    found = tuple(islice((_maker(inf, line) for line in inf.sections.lines("manufacturer")), MAKER_LIMIT + 1))
    if len(found) > MAKER_LIMIT or any(len(maker.decorations) > MAKER_LIMIT for maker in found):
        raise InfError(f"its [Manufacturer] has more than {MAKER_LIMIT} entries")
    return found


def decorated_sections(inf: Inf, windows: Windows) -> Iterator[tuple[Maker, str]]:
    """For every maker that has devices for that Windows its Models section's decoration, "" for none.

    A decoration that is listed excludes what it covers even where its section is empty or missing.
    """
    for maker in makers(inf):
        chosen = choose(maker.decorations, windows)
        if chosen is not None:
            if f"{maker.section}.{chosen.text}" in inf.sections:
                yield maker, chosen.text
        elif choose(["nt"], windows) is not None and maker.section in inf.sections:
            yield maker, ""


def models(inf: Inf, maker: Maker, decoration: str) -> Iterator[Model]:
    """The ids of a maker's section. Raises InfError where there are too many."""
    section = f"{maker.section}.{decoration}" if decoration else maker.section
    count = 0
    for line in inf.sections.lines(section):
        for model in _of_line(inf, line, maker.name):
            count += 1
            if count > MODEL_LIMIT:
                raise InfError(f"[{section}] has more than {MODEL_LIMIT} ids")
            yield model


def every_id(inf: Inf) -> frozenset[str]:
    """All ids that the file knows for any Windows, in upper case. Raises InfError as `makers` does."""
    sections: dict[str, tuple[Maker, str]] = {}
    for maker in makers(inf):
        for decoration in ("", *maker.decorations):
            sections.setdefault(f"{maker.section}.{decoration}".lower(), (maker, decoration))
    return frozenset(model.device_id.upper() for one in sections.values() for model in models(inf, *one))


def is_device_id(text: str) -> bool:
    """Whether a device can have that id; an INF may list what none has."""
    return len(text) <= ID_LIMIT and _ID.fullmatch(text) is not None


def _maker(inf: Inf, line: Line) -> Maker:
    if line.key is None:
        name = inf.expand(line.field(0))
        return Maker(line.field(0), name, ())
    section, *decorations = inf.fields(line) or ("",)
    return Maker(line.key, section, tuple(one for one in decorations if one))


def _of_line(inf: Inf, line: Line, maker: str) -> Iterator[Model]:
    section, *ids = inf.fields(line)
    if line.key is None or not section:
        return
    if "\\" in section:
        raise InfError(f"no name of an install section: {section[:40]!r}")
    for number, device_id in enumerate(ids):
        if device_id and is_device_id(device_id):
            kind = IdKind.COMPATIBLE if number else IdKind.HARDWARE
            yield Model(device_id, kind, max(number - 1, 0), section, line.key, maker)
