"""Registry hives as a conversion sees them: keys, typed values, and a record of every change.

Key paths are relative to the root of the hive, with backslashes (`ControlSet001\\Services\\storahci`), and
are compared without case. Types are those of winnt.h; a type that is none of them is kept as it is, since
the properties of devices use numbers such as 0xFFFF0012.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

from p2v.errors import GuestError

SHOWN = 256
"""Bytes of a binary value that a receipt shows in full; of a longer one its length and its start."""


class ValueType(IntEnum):
    """winnt.h, REG_*."""

    NONE = 0
    SZ = 1
    EXPAND_SZ = 2
    BINARY = 3
    DWORD = 4
    DWORD_BIG_ENDIAN = 5
    LINK = 6
    MULTI_SZ = 7
    QWORD = 11


@dataclass(frozen=True, slots=True)
class Value:
    """One value of a key as the hive has it: `name` is empty for the default one, `kind` a type number."""

    name: str
    kind: int
    data: bytes

    def number(self) -> int:
        """Of a DWORD or a QWORD. Raises GuestError for anything else."""
        if self.kind in (ValueType.DWORD, ValueType.QWORD) and len(self.data) in (4, 8):
            return int.from_bytes(self.data, "little")
        raise GuestError(f"The registry value {self.name!r} is no number")

    def text(self) -> str:
        """Of a string, up to its end mark. Raises GuestError for anything else."""
        return (self.texts() or ("",))[0]

    def texts(self) -> tuple[str, ...]:
        """Of a list of strings; one for a plain string. Raises GuestError for anything else."""
        if self.kind not in (ValueType.SZ, ValueType.EXPAND_SZ, ValueType.MULTI_SZ):
            raise GuestError(f"The registry value {self.name!r} is no text")
        whole = self.data[: len(self.data) // 2 * 2].decode("utf-16-le", "surrogatepass")
        if self.kind != ValueType.MULTI_SZ:
            return (whole.split("\0", 1)[0],)
        return tuple(part for part in whole.split("\0") if part)

    def shown(self) -> str:
        """As a receipt shows it, in the manner of .reg files: `dword:00000003`, `sz:…`, `hex(7):…`."""
        if self.kind == ValueType.DWORD and len(self.data) == 4:
            return f"dword:{self.number():08x}"
        if self.kind in (ValueType.SZ, ValueType.EXPAND_SZ) and len(self.data) <= 2 * SHOWN:
            word = "sz" if self.kind == ValueType.SZ else "expand_sz"
            return f"{word}:{_printable(self.text())}"
        if self.kind == ValueType.MULTI_SZ and len(self.data) <= 2 * SHOWN:
            return "multi_sz:" + "|".join(_printable(text) for text in self.texts())
        more = f"… ({len(self.data)} bytes)" if len(self.data) > SHOWN else ""
        return f"hex({self.kind:x}):{self.data[:SHOWN].hex()}{more}"


def dword(name: str, number: int) -> Value:
    return Value(name, ValueType.DWORD, struct.pack("<I", number))


def sz(name: str, text: str) -> Value:
    return Value(name, ValueType.SZ, _encoded(f"{text}\0"))


def expand_sz(name: str, text: str) -> Value:
    return Value(name, ValueType.EXPAND_SZ, _encoded(f"{text}\0"))


def multi_sz(name: str, texts: Sequence[str]) -> Value:
    return Value(name, ValueType.MULTI_SZ, _encoded("".join(f"{text}\0" for text in (*texts, ""))))


def binary(name: str, data: bytes) -> Value:
    return Value(name, ValueType.BINARY, data)


class Readable(Protocol):
    """What is read of an open hive. Every method raises GuestError where the hive is damaged.

    Reading what is not there gives nothing, never an error.
    """

    def keys(self, key: str) -> tuple[str, ...]:
        """Names of the keys below `key` (`""`: the root), as they are written there; none if it is absent."""

    def has(self, key: str) -> bool: ...

    def values(self, key: str) -> tuple[Value, ...]: ...

    def value(self, key: str, name: str) -> Value | None:
        """`name` is compared without case; empty is the default value."""


class Hive(Readable, Protocol):
    """An open hive that may be written, which makes a key and its parents."""

    def set(self, key: str, value: Value) -> None: ...

    def remove_value(self, key: str, name: str) -> None: ...

    def remove_key(self, key: str) -> None:
        """With everything below it."""


class HiveOpener(Protocol):
    """Opens hives of a mounted guest, by their path in it; `p2v.hives` in the product."""

    def read(self, path: str) -> AbstractContextManager[Hive]:
        """For reading. Raises GuestError where there is no such file, or where it is no sound hive."""

    def edit(self, path: str) -> AbstractContextManager[Hive]:
        """For writing: the file in the guest is replaced at the end of the block, if anything was changed.

        Nothing of it is written when the block fails. Raises GuestError, also for a hive whose logs were not
        replayed.
        """


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def _encoded(text: str) -> bytes:
    """Half a surrogate pair comes back as it was read: a registry may hold one."""
    return text.encode("utf-16-le", "surrogatepass")
