"""Every change to a registry goes through here, so that the receipt can name each key and value with a
reason.

What is right already is left alone and is not recorded: a second conversion changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from conversions.nt.registry import Hive, Value
from p2v.model import ChangeKind, RegistryChange


class Presence(Enum):
    """The state of a key, as that of a value is the value."""

    THERE = "there"


State = Presence | Value | None
"""Of a key or a value; None where there is none."""


@dataclass(frozen=True, slots=True)
class _Edit:
    hive: str
    key: str
    name: str | None
    reason: str
    before: State
    after: State

    def change(self) -> RegistryChange:
        return RegistryChange(
            _kind(self.before, self.after),
            self.hive,
            self.key,
            self.name,
            self.reason,
            before=_shown(self.before),
            after=_shown(self.after),
        )


class RegistryRecord:
    """What was changed in all hives of a guest, one entry for each key or value however often it changed."""

    def __init__(self) -> None:
        self._edits: dict[tuple[str, str, str | None], _Edit] = {}

    @property
    def changes(self) -> tuple[RegistryChange, ...]:
        """In the order of the first touch, without what came out as it was."""
        return tuple(edit.change() for edit in self._edits.values() if edit.before != edit.after)

    def add(self, hive: str, key: str, name: str | None, reason: str, *, before: State, after: State) -> None:
        place = (hive, key.lower(), None if name is None else name.lower())
        first = self._edits.get(place)
        edit = _Edit(hive, key, name, reason, before, after)
        self._edits[place] = edit if first is None else _merge(first, edit)


class RegistryEdits:
    """An open hive whose changes are recorded; `path` is where its file is in the guest.

    Keys are relative to the root of the hive. Reading what is not there gives nothing. Every method raises
    GuestError where the hive is damaged.
    """

    def __init__(self, hive: Hive, path: str, record: RegistryRecord) -> None:
        self.path = path
        self._hive = hive
        self._record = record

    def keys(self, key: str) -> tuple[str, ...]:
        return self._hive.keys(key)

    def has(self, key: str) -> bool:
        return self._hive.has(key)

    def values(self, key: str) -> tuple[Value, ...]:
        return self._hive.values(key)

    def value(self, key: str, name: str) -> Value | None:
        return self._hive.value(key, name)

    def text(self, key: str, name: str) -> str:
        """Of a string; empty where there is none. Raises GuestError where it is no string."""
        value = self._hive.value(key, name)
        return value.text() if value else ""

    def number(self, key: str, name: str) -> int | None:
        """Of a DWORD or QWORD; None where there is none. Raises GuestError where it is no number."""
        value = self._hive.value(key, name)
        return value.number() if value else None

    def set(self, key: str, value: Value, reason: str) -> None:
        """Give the key this value, and make the key and its parents where they are missing."""
        before = self._hive.value(key, value.name)
        if before is not None:
            value = replace(value, name=before.name)  # the case in which the guest spells it
        if before == value:
            return
        missing = self._missing(key)
        self._hive.set(key, value)
        for parent in missing:
            self._record.add(self.path, parent, None, reason, before=None, after=Presence.THERE)
        self._record.add(self.path, key, value.name, reason, before=before, after=value)

    def remove_value(self, key: str, name: str, reason: str) -> None:
        before = self._hive.value(key, name)
        if before is not None:
            self._hive.remove_value(key, name)
            self._record.add(self.path, key, before.name, reason, before=before, after=None)

    def remove_key(self, key: str, reason: str) -> None:
        """With everything below it, each key and value of which is recorded."""
        if not self._hive.has(key):
            return
        self._record_removed(key, reason)
        self._hive.remove_key(key)

    def _missing(self, key: str) -> list[str]:
        """What of a key's path is not there yet, the outermost first."""
        parts = key.split("\\") if key else []
        paths = ["\\".join(parts[: count + 1]) for count in range(len(parts))]
        return [path for path in paths if not self._hive.has(path)]

    def _record_removed(self, key: str, reason: str) -> None:
        for value in self._hive.values(key):
            self._record.add(self.path, key, value.name, reason, before=value, after=None)
        for name in self._hive.keys(key):
            self._record_removed(f"{key}\\{name}", reason)
        self._record.add(self.path, key, None, reason, before=Presence.THERE, after=None)


def _merge(first: _Edit, second: _Edit) -> _Edit:
    reason = first.reason if second.reason in first.reason else f"{first.reason}; {second.reason}"
    return replace(second, before=first.before, reason=reason)


def _kind(before: State, after: State) -> ChangeKind:
    if before is None:
        return ChangeKind.CREATED
    return ChangeKind.REMOVED if after is None else ChangeKind.EDITED


def _shown(state: State) -> str:
    return state.shown() if isinstance(state, Value) else ""
