"""Registry hives as programs read them that had no part in writing them: reglookup, regipy, dissect.regf."""

from __future__ import annotations

import importlib
import io
import urllib.parse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from regipy.exceptions import RegistryKeyNotFoundException
from regipy.registry import RegistryHive

from p2v import command
from p2v.model import RegistryChange

dissect_regf: Any = importlib.import_module("dissect.regf.regf")  # it has no types

Place = tuple[str, str | None]
"""A key in lower case, with backslashes, and the name of a value in lower case; None for the key itself."""


def listing(hive: Path) -> dict[Place, tuple[str, str]]:
    """Everything in a hive: each key, and each value with its type and data as reglookup prints them."""
    tool = command.need_tool("reglookup", reason="read registries", package="reglookup")
    lines = command.check([tool, hive], timeout=120, reason="read a registry").split("\n")[1:]
    found: dict[Place, tuple[str, str]] = {}
    for line in filter(None, lines):
        path, kind, data, *_ = line.split(",")  # what is no plain character is written %XX
        parts = [urllib.parse.unquote(part) for part in path.lstrip("/").split("/")]
        if kind == "KEY":
            found["\\".join(parts).lower(), None] = (kind, "")
        else:
            found["\\".join(parts[:-1]).lower(), parts[-1].lower()] = (kind, data)
    return found


def changed(before: dict[Place, tuple[str, str]], after: dict[Place, tuple[str, str]]) -> set[Place]:
    """What differs between two listings; both hold the same hive."""
    return {place for place in before.keys() | after.keys() if before.get(place) != after.get(place)}


def recorded(changes: tuple[RegistryChange, ...], hive: str) -> set[Place]:
    """What a receipt says was changed in a hive, by the path of its file."""
    return {
        (change.key.lower(), None if change.name is None else change.name.lower())
        for change in changes
        if change.hive == hive
    }


@dataclass(frozen=True, slots=True)
class Key:
    """A key as one reader sees it; names in lower case. Types are not compared, since regipy masks some."""

    subkeys: frozenset[str]
    values: dict[str, Any]


def read_key(hive: Path, key: str) -> Key | None:
    """A key as regipy and dissect.regf see it, who must agree on it; None where neither finds it."""
    one, other = _by_regipy(hive, key), _by_dissect(hive, key)
    if one is None or other is None:
        assert one is None, f"dissect.regf finds no {key}, regipy does"
        assert other is None, f"regipy finds no {key}, dissect.regf does"
        return None
    assert one.subkeys == other.subkeys, f"regipy and dissect.regf differ about {key}"
    assert one.values.keys() == other.values.keys(), f"regipy and dissect.regf differ about {key}"
    return other


def _by_regipy(hive: Path, key: str) -> Key | None:
    try:
        found = _regipy(hive, hive.stat().st_mtime_ns).get_key("\\" + key)
    except RegistryKeyNotFoundException:
        return None
    names = frozenset(each.name.lower() for each in found.iter_subkeys())
    return Key(names, {_plain(value.name): value.value for value in found.iter_values()})


def _by_dissect(hive: Path, key: str) -> Key | None:
    try:
        found = _dissect(hive, hive.stat().st_mtime_ns).open(key)
    except dissect_regf.RegistryKeyNotFoundError:
        return None
    names = frozenset(each.name.lower() for each in found.subkeys())
    return Key(names, {_plain(value.name): value.value for value in found.values()})


@lru_cache(maxsize=2)
def _regipy(hive: Path, _changed: int) -> Any:
    opened: Any = RegistryHive
    return opened(str(hive))


@lru_cache(maxsize=2)
def _dissect(hive: Path, _changed: int) -> Any:
    return dissect_regf.RegistryHive(io.BytesIO(hive.read_bytes()))


def _plain(name: str | None) -> str:
    """Readers have names of their own for the default value."""
    text = (name or "").lower()
    return "" if text == "(default)" else text
