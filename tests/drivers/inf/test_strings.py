"""Tokens, the languages of their strings, and numbers."""

from __future__ import annotations

import pytest

from drivers.inf.strings import Inf, number, with_strings
from drivers.inf.text import InfError, parse


def inf(text: str, language: int = 0x0409) -> Inf:
    return with_strings(parse(text.encode()), language)


class TestTokens:
    def test_are_replaced_without_regard_to_case(self) -> None:
        assert inf('[Strings]\nName = "Example, Inc."').expand("by %NAME%") == "by Example, Inc."

    def test_two_percent_signs_are_one(self) -> None:
        text = "%%SystemRoot%%\\System32\\IoLogMsg.dll"
        assert inf("[Strings]\nSystemRoot=no").expand(text) == "%SystemRoot%\\System32\\IoLogMsg.dll"

    def test_unknown_ones_and_directories_stay(self) -> None:
        assert inf("[Strings]").expand("%12%\\a.sys %what%") == "%12%\\a.sys %what%"

    def test_what_they_stand_for_is_not_expanded_again(self) -> None:
        assert inf('[Strings]\na = "%b%"\nb = "%a%"').expand("%a%") == "%b%"

    def test_a_percent_sign_in_a_name_is_doubled_there(self) -> None:
        assert inf('[Strings]\n100%% = "all"').strings == {"100%": "all"}

    def test_a_result_has_a_limit(self) -> None:
        swelling = inf('[Strings]\na = "' + "x" * 4000 + '"')
        assert len(swelling.expand("%a%")) == 4000
        with pytest.raises(InfError, match="once expanded"):
            swelling.expand("%a%%a%")

    def test_are_replaced_in_values_that_are_looked_up(self) -> None:
        text = "[Version]\nProvider = %V%\nx = 1,,2\nX = 3\n[Strings]\nV = Vendor"
        assert inf(text).value("version", "provider") == "Vendor"
        assert inf(text).values("VERSION", "X") == ("1", "2", "3")


class TestLanguages:
    """ "INF Strings Section": the dialect, the language alone, another dialect, the neutral section."""

    SECTIONS = ("[Strings]\nw=neutral\n", "[Strings.0007]\nw=german\n", "[Strings.0C07]\nw=austrian\n")

    @pytest.mark.parametrize(
        ("sections", "language", "word"),
        [
            (SECTIONS, 0x0C07, "austrian"),
            (SECTIONS, 0x0407, "german"),
            ((SECTIONS[0], SECTIONS[2]), 0x0407, "austrian"),
            (SECTIONS, 0x0409, "neutral"),
            (SECTIONS[1:2], 0x0409, "german"),
        ],
    )
    def test_choice(self, sections: tuple[str, ...], language: int, word: str) -> None:
        assert inf("".join(sections), language).expand("%w%") == word

    def test_what_a_language_lacks_comes_from_the_neutral_section(self) -> None:
        text = "[Strings]\nBOOT = 0\n[Strings.0409]\nname = Name"
        assert (inf(text).expand("%boot%"), inf(text).expand("%name%")) == ("0", "Name")

    def test_a_section_that_is_no_language_counts_last(self) -> None:
        assert inf("[Strings.x]\nw=odd\n[Strings.0407]\nw=german").expand("%w%") == "german"


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "value"),
        [("0x10001", 65537), ("12", 12), (" 0X0A ", 10), ("-1", -1), ("4294967295", 2**32 - 1)],
    )
    def test_are_decimal_or_hexadecimal(self, text: str, value: int) -> None:
        assert number(text) == value

    @pytest.mark.parametrize("text", ["", "0x", "FF", "1.0", "0x100000000", "1" * 5000, "٣", "--1x", "1_0"])
    def test_anything_else_is_none(self, text: str) -> None:
        with pytest.raises(InfError, match="number"):
            number(text)
