"""AddReg lines as a hive stores them ("INF AddReg Directive")."""

from __future__ import annotations

import pytest

from drivers.inf.model import RegistryAction, RegistryRoot, RegistryType, RegistryValue
from drivers.inf.registry import VALUE_LIMIT, added_values
from drivers.inf.strings import with_strings
from drivers.inf.text import InfError, parse

STRINGS = "[Strings]\nREG_DWORD=0x00010001\nREG_EXPAND_SZ=0x00020000\n"


def values(*lines: str) -> tuple[RegistryValue, ...]:
    body = "\n".join(lines)
    return added_values(with_strings(parse(f"[S]\nAddReg=R\n[R]\n{body}\n{STRINGS}".encode())), "S")


def value(line: str) -> RegistryValue:
    (one,) = values(line)
    return one


def sz(text: str) -> bytes:
    return text.encode("utf-16-le") + b"\0\0"


@pytest.mark.parametrize(
    ("line", "key", "name", "kind", "data"),
    [
        (
            'HKR, Parameters\\PnpInterface, "5", %REG_DWORD%, 1',
            "Parameters\\PnpInterface",
            "5",
            4,
            b"\1\0\0\0",
        ),
        ("HKR, Parameters, BusType, %REG_DWORD%, 0x0000000A", "Parameters", "BusType", 4, b"\x0a\0\0\0"),
        ("HKR,,TypesSupported,0x00010001,-1", "", "TypesSupported", 4, b"\xff\xff\xff\xff"),
        ("HKR,,Four,0x00010001,1,2,3,4", "", "Four", 4, b"\1\2\3\4"),
        ("HKR,,Nothing,0x00010001", "", "Nothing", 4, b"\0\0\0\0"),
        ('HKR,,Text,,"a, b"', "", "Text", 1, sz("a, b")),
        (
            'HKR, Ndi\\params\\*RSS\\enum, "0", 0, "Disabled"',
            "Ndi\\params\\*RSS\\enum",
            "0",
            1,
            sz("Disabled"),
        ),
        ("HKR,,,,default", "", "", 1, sz("default")),
        (
            'HKR,,EventMessageFile,%REG_EXPAND_SZ%,"%%SystemRoot%%\\System32\\IoLogMsg.dll"',
            "",
            "EventMessageFile",
            2,
            sz("%SystemRoot%\\System32\\IoLogMsg.dll"),
        ),
        ("HKR,,UpperFilters,0x10000,one,two", "", "UpperFilters", 7, sz("one") + sz("two") + b"\0\0"),
        ("HKR,,MyValue,1,1,0,2,3,9,A,B,0xC,f", "", "MyValue", 3, b"\1\0\2\3\x09\x0a\x0b\x0c\x0f"),
        # Example of the documentation: another type, its number in the high word.
        ("HKR,,MYValue,0x00380001,1,0,2", "", "MYValue", 0x38, b"\1\0\2"),
        ("HKR,,Quad,0x000B0001,7", "", "Quad", 11, b"\7\0\0\0\0\0\0\0"),
        ("HKR,,None,0x00020001,FF", "", "None", 0, b"\xff"),
    ],
)
def test_types(line: str, key: str, name: str, kind: int, data: bytes) -> None:
    assert value(line) == RegistryValue(RegistryRoot.RELATIVE, key, name, kind, data)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ('HKR, "Interrupt Management",, 0x00000010', RegistryAction.KEY),
        ("HKR, Parameters", RegistryAction.KEY),
        ("HKR,,a,0x00010003,1", RegistryAction.CREATE),
        ("HKR,,a,0x00010021,1", RegistryAction.OVERWRITE),
        ("HKR,,a,0x00010008,one", RegistryAction.APPEND),
        ("HKR,,a,4", RegistryAction.DELETE),
        ("HKR,,a,0x00011001,1", RegistryAction.SET),
    ],
)
def test_what_is_to_be_done(line: str, action: RegistryAction) -> None:
    assert value(line).action is action


def test_a_key_alone_stores_nothing() -> None:
    assert value('HKR, "A\\B", name, 0x00010011, 5').data == b""


@pytest.mark.parametrize(
    ("root", "meant"),
    [("hkr", RegistryRoot.RELATIVE), ("HKLM", RegistryRoot.MACHINE), ("HKEY_USERS", RegistryRoot.USERS)],
)
def test_roots(root: str, meant: RegistryRoot) -> None:
    assert value(f"{root},Software\\\\Example\\,a,,b").root is meant
    assert value(f"{root},Software\\\\Example\\,a,,b").key == "Software\\Example"


def test_several_sections_in_their_order() -> None:
    text = "[S]\nAddReg=A,B\nAddReg=C\n[A]\nHKR,,a\n[B]\nHKR,,b\n[C]\nHKR,,c"
    assert [each.name for each in added_values(with_strings(parse(text.encode())), "S")] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "line",
    [
        "HKXX,,a,,b",
        "a=b",
        "HKR,,a,flags,b",
        "HKR,,a,0x00010001,many",
        "HKR,,a,1,XY",
        "HKR,,a,1,100",
        "HKR,,a,1,-1",
        "HKR," + "k" * 256 + ",a,,b",
        "HKR,,a,0x00010001,0x100000000",
    ],
)
def test_nonsense_is_refused(line: str) -> None:
    with pytest.raises(InfError):
        value(line)


def test_the_number_of_values_has_a_limit() -> None:
    assert len(values(*["HKR,,a,,b"] * VALUE_LIMIT)) == VALUE_LIMIT
    with pytest.raises(InfError, match="more than"):
        values(*["HKR,,a,,b"] * (VALUE_LIMIT + 1))


def test_numbers_are_those_of_a_hive() -> None:
    assert [int(each) for each in RegistryType] == [0, 1, 2, 3, 4, 7, 11]
