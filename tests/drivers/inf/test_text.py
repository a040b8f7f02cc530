"""The grammar of INF files, by the examples of its documentation and by a file of somebody else."""

from __future__ import annotations

import codecs

import pytest

from drivers.inf.model import Encoding
from drivers.inf.text import FIELD_LIMIT, InfError, Line, decode, parse, split_entry


def lines(text: str, section: str = "A") -> list[Line]:
    return list(parse(f"[A]\n{text}".encode()).lines(section))


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (codecs.BOM_UTF16_LE + "[Ä]".encode("utf-16-le"), Encoding.UTF16_LE),
        (codecs.BOM_UTF16_BE + "[Ä]".encode("utf-16-be"), Encoding.UTF16_BE),
        (codecs.BOM_UTF8 + "[Ä]".encode(), Encoding.UTF8),
        ("[Ä]".encode(), Encoding.UTF8),
        ("[Ä]".encode("cp1252"), Encoding.CP1252),
    ],
)
def test_the_encoding_is_found_and_said(data: bytes, encoding: Encoding) -> None:
    assert decode(data) == ("[Ä]", encoding)
    assert parse(data).encoding is encoding
    assert "ä" in parse(data)


def test_utf16_that_is_cut_in_a_character_is_damage() -> None:
    with pytest.raises(InfError, match="damaged"):
        parse(codecs.BOM_UTF16_LE + "[A]".encode("utf-16-le")[:-1])


class TestComments:
    def test_reach_to_the_end_of_the_line(self) -> None:
        assert lines("a = 1 ; two\n; three\n\t; four\nb = 5;") == [Line("a", ("1",)), Line("b", ("5",))]

    def test_do_not_begin_in_quotes_or_in_a_token(self) -> None:
        assert lines('a = "x;y", %one;two% ; comment') == [Line("a", ("x;y", "%one;two%"))]

    def test_a_single_percent_sign_hides_no_comment(self) -> None:
        assert lines("a = 100% ; comment\nb = 2") == [Line("a", ("100%",)), Line("b", ("2",))]


class TestContinuation:
    """The examples of "General Syntax Rules for INF Files"."""

    def test_a_quoted_path_and_a_continued_line(self) -> None:
        text = 'CopyFiles = "SomeDirectory\\"\\\n,SomeFile'
        assert lines(text) == [Line("CopyFiles", ("SomeDirectory\\", "SomeFile"))]

    def test_of_two_backslashes_the_first_is_ignored(self) -> None:
        assert lines("CopyFiles = SomeDirectory\\\\\n,SomeFile") == [
            Line("CopyFiles", ("SomeDirectory", "SomeFile"))
        ]

    def test_before_a_comment(self) -> None:
        text = 'CopyFiles = "SomeDirectory\\"\\ ; comment \n,SomeFile'
        assert lines(text) == [Line("CopyFiles", ("SomeDirectory\\", "SomeFile"))]

    def test_not_behind_a_comment(self) -> None:
        assert lines('CopyFiles = "Dir\\" ; comment \\\n,SomeFile')[0] == Line("CopyFiles", ("Dir\\",))

    def test_a_backslash_in_open_quotes_is_text(self) -> None:
        assert lines('a = "C:\\\nb = 2') == [Line("a", ("C:\\",)), Line("b", ("2",))]

    def test_a_line_that_looks_like_a_section_is_still_continued(self) -> None:
        assert lines("a = 1,\\\n[b]") == [Line("a", ("1", "[b]"))]

    def test_the_last_line_may_be_continued_by_nothing(self) -> None:
        assert lines("a = 1,\\") == [Line("a", ("1", ""))]


class TestQuotes:
    def test_two_quotes_are_one(self) -> None:
        line = split_entry('HKR,,Example,,"Display an ""example"" string"')
        assert line == Line(None, ("HKR", "", "Example", "", 'Display an "example" string'))

    def test_space_counts_inside_and_not_outside(self) -> None:
        assert split_entry('a = " b " , c ') == Line("a", (" b ", "c"))

    def test_a_comma_and_an_equals_sign_inside_separate_nothing(self) -> None:
        assert split_entry('"a=b" = "c,d"') == Line("a=b", ("c,d",))

    def test_an_equals_sign_behind_a_comma_makes_no_key(self) -> None:
        assert split_entry("HKR,,a,,b=c") == Line(None, ("HKR", "", "a", "", "b=c"))


class TestSections:
    def test_of_one_name_are_one_whatever_their_case(self) -> None:
        sections = parse(b"[One]\na=1\n[two]\nb=2\n[ONE]\na=3\n")
        assert list(sections.lines("oNe")) == [Line("a", ("1",)), Line("a", ("3",))]
        assert sections.names == ("one", "two")

    def test_may_hold_a_semicolon(self) -> None:
        assert ";; Std Mfg" in parse(b'[;; Std Mfg ]\na=1\n[b]\nc=";; Std Mfg"')

    def test_an_empty_one_is_there(self) -> None:
        assert "a" in parse(b"[a]")
        assert "b" not in parse(b"[a]")

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("[open\na=1", "not closed"),
            ("[" + "a" * 256 + "]", "256 characters"),
            ("a=1\n[b]", "does not begin with a section"),
            ("MZ\x90\0", "NUL"),
            ("[a]\n" + "b" * (FIELD_LIMIT + 1), "a field has"),
            ("[a]\n" + "b,\\\n" * 40_000, "an entry has more than"),
            ("\n" * 100_001, "lines"),
            ("[a]\n" + "x" * (4 << 20), "bytes"),
        ],
    )
    def test_damage_is_named(self, text: str, reason: str) -> None:
        with pytest.raises(InfError, match=reason):
            list(parse(text.encode()).lines("a"))

    def test_the_limits_themselves_are_allowed(self) -> None:
        name, value = "a" * 255, "b" * FIELD_LIMIT
        assert list(parse(f"[{name}]\n{value}".encode()).lines(name)) == [Line(None, (value,))]

    def test_control_z_ends_the_file(self) -> None:
        assert parse(b"[a]\nb=1\n\x1a[c]\n\0").names == ("a",)

    def test_every_kind_of_line_end(self) -> None:
        assert list(parse(b"[a]\r\nb=1\rc=2\nd=3").lines("a")) == [
            Line("b", ("1",)),
            Line("c", ("2",)),
            Line("d", ("3",)),
        ]
