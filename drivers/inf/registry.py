"""AddReg sections: lines of an INF as values that a hive can store ("INF AddReg Directive", windows-driver-
docs).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from drivers.inf.model import RegistryAction, RegistryRoot, RegistryType, RegistryValue
from drivers.inf.strings import Inf, number
from drivers.inf.text import InfError, Line

VALUE_LIMIT = 5_000
"""Lines that the AddReg directives of one section may bring; network cards have a few hundred."""
NAME_LIMIT = 255
"""Characters of a registry key's name ("Registry Element Size Limits")."""

NO_CLOBBER = 0x00000002
DELETE_VALUE = 0x00000004
APPEND = 0x00000008
KEY_ONLY = 0x00000010
OVERWRITE_ONLY = 0x00000020
KEY_ONLY_COMMON = 0x00002000
BINARY = 0x00000001
TYPE_MASK = 0xFFFF0001
"""FLG_ADDREG_*, setupapi.h."""

TYPES = {
    0x00000000: RegistryType.SZ,
    0x00010000: RegistryType.MULTI_SZ,
    0x00020000: RegistryType.EXPAND_SZ,
    0x00000001: RegistryType.BINARY,
    0x00010001: RegistryType.DWORD,
    0x00020001: RegistryType.NONE,
    0x000B0001: RegistryType.QWORD,
}

ROOTS = {
    "HKR": RegistryRoot.RELATIVE,
    "HKLM": RegistryRoot.MACHINE,
    "HKEY_LOCAL_MACHINE": RegistryRoot.MACHINE,
    "HKCR": RegistryRoot.CLASSES,
    "HKEY_CLASSES_ROOT": RegistryRoot.CLASSES,
    "HKCU": RegistryRoot.USER,
    "HKEY_CURRENT_USER": RegistryRoot.USER,
    "HKU": RegistryRoot.USERS,
    "HKEY_USERS": RegistryRoot.USERS,
}


def added_values(inf: Inf, section: str) -> tuple[RegistryValue, ...]:
    """What the AddReg directives of a section bring. Raises InfError for a line that means nothing."""
    return tuple(_bounded(_every(inf, inf.values(section, "addreg"))))


def _every(inf: Inf, names: Iterable[str]) -> Iterator[RegistryValue]:
    for name in names:
        for line in inf.sections.lines(name):
            yield _value(inf, line)


def _bounded(values: Iterator[RegistryValue]) -> Iterator[RegistryValue]:
    for count, value in enumerate(values):
        if count >= VALUE_LIMIT:
            raise InfError(f"an install section sets more than {VALUE_LIMIT} registry values")
        yield value


def _value(inf: Inf, line: Line) -> RegistryValue:
    fields = inf.fields(line)
    # A line whose first field holds an equals sign was taken for `key=…`; none of a registry line does.
    root = ROOTS.get(fields[0].upper()) if line.key is None else None
    if root is None:
        raise InfError(f"no root of the registry: {(line.key or fields[0])[:40]!r}")
    key, name, flag_text, *data = (*fields[1:], "", "", "")[: max(len(fields) - 1, 3)]
    flags = number(flag_text) & 0xFFFFFFFF if flag_text else 0
    action = _action(flags, bare=not name and not data)
    kind = TYPES.get(flags & TYPE_MASK, flags >> 16)
    stored = b"" if action in (RegistryAction.KEY, RegistryAction.DELETE) else encode(kind, data)
    return RegistryValue(root, _key(key), _name(name), int(kind), stored, action)


def _action(flags: int, *, bare: bool) -> RegistryAction:
    if flags & (KEY_ONLY | KEY_ONLY_COMMON):
        return RegistryAction.KEY
    if flags & DELETE_VALUE:
        return RegistryAction.DELETE
    if flags & APPEND:
        return RegistryAction.APPEND
    if flags & OVERWRITE_ONLY:
        return RegistryAction.OVERWRITE
    if flags & NO_CLOBBER:
        return RegistryAction.CREATE
    return RegistryAction.KEY if bare and not flags else RegistryAction.SET


def encode(kind: int, data: list[str]) -> bytes:
    """The fields behind the flags as a hive stores them. Raises InfError for what the type cannot hold."""
    match kind:
        case RegistryType.SZ | RegistryType.EXPAND_SZ:
            return _text(data[0] if data else "")
        case RegistryType.MULTI_SZ:
            return b"".join(_text(each) for each in (*filter(None, data), ""))
        case RegistryType.DWORD if len(data) <= 1:
            return struct.pack("<I", number((data or ["0"])[0] or "0") & 0xFFFFFFFF)
        case RegistryType.QWORD if len(data) == 1:
            return struct.pack("<Q", number(data[0]) & 0xFFFFFFFFFFFFFFFF)
        case _:
            return _bytes(data)


def _text(text: str) -> bytes:
    return f"{text}\0".encode("utf-16-le", "surrogatepass")


def _bytes(fields: list[str]) -> bytes:
    """`1,0x2,FF`: each field is a byte, in hexadecimal with or without its mark."""
    try:
        return bytes(int(field, 16) for field in fields if field)
    except ValueError as error:
        raise InfError(f"no bytes: {','.join(fields)[:40]!r}") from error


def _key(text: str) -> str:
    names = [name for name in text.split("\\") if name]
    if any(len(name) > NAME_LIMIT for name in names):
        raise InfError(f"a registry key's name has more than {NAME_LIMIT} characters: {text[:40]!r}")
    return "\\".join(names)


def _name(text: str) -> str:
    if "\0" in text:
        raise InfError(f"a registry value's name holds a NUL character: {text[:40]!r}")
    return text
