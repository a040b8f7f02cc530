"""os-release(5): which system it is. Hostile text: bounded, never expanded."""

from __future__ import annotations

import re

from conversions import family_of
from p2v.model import OperatingSystem

ASSIGNMENT = re.compile(r"([A-Z][A-Z0-9_]{0,63})=(.{0,512})")
LINE_LIMIT = 200


def read_os_release(text: str, *, architecture: str, machine_id: str) -> OperatingSystem | None:
    """The system that an os-release names, with the family that converts it; None where it names none."""
    values = dict(assignments(text))
    os_id = values.get("ID", "").lower()
    if not os_id:
        return None
    return OperatingSystem(
        id=os_id,
        version=values.get("VERSION_ID", ""),
        name=values.get("PRETTY_NAME", "") or os_id,
        family=family_of(os_id, values.get("ID_LIKE", "")),
        architecture=architecture,
        machine_id=machine_id,
    )


def assignments(text: str) -> tuple[tuple[str, str], ...]:
    """Names and values, quotes removed, nothing expanded."""
    found = (ASSIGNMENT.fullmatch(line.strip()) for line in text.splitlines()[:LINE_LIMIT])
    return tuple((match[1], _unquote(match[2])) for match in found if match)


def _unquote(value: str) -> str:
    quoted = len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'"
    plain = re.sub(r"\\([\"'$`\\])", r"\1", value[1:-1] if quoted else value)
    return "".join(char for char in plain if char.isprintable())
