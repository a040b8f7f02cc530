"""PowerShell, written so that no text from a guest can become code.

Quoting: about_Quoting_Rules. In a single-quoted string nothing is expanded and only the quote is special, but
PowerShell takes four typographic quotes for it as well (SpecialCharacters in its CharTraits.cs).
"""

from __future__ import annotations

import re

from p2v.targets.base import one_line

QUOTES = re.compile("['\u2018\u2019\u201a\u201b]")

BYTE_ORDER_MARK = "\ufeff"
"""Windows PowerShell reads a script without it in the code page of the country."""

LINE_END = "\r\n"


def quote(text: str) -> str:
    """A literal string: single-quoted, each quote doubled, no control characters."""
    return "'" + QUOTES.sub(lambda found: found[0] * 2, one_line(text)) + "'"


def comment(text: str) -> str:
    """One line that is never run."""
    return f"# {one_line(text)}"


def script(lines: list[str]) -> str:
    """The whole file."""
    return BYTE_ORDER_MARK + LINE_END.join(lines) + LINE_END
