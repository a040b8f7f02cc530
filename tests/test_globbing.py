"""Patterns over names of any encoding."""

from __future__ import annotations

import pytest

from p2v.globbing import folder_of, matching

LISTING = b"away\0/data\0B\xfcro\0sub/x\0sub/.keep\0.hidden\0su\xffb/x\0"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("/etc/*", ["/etc/away", "/etc/data", "/etc/sub"]),
        ("/etc/[ab]*", ["/etc/away"]),
        ("/etc/*/*", ["/etc/sub/x"]),
        ("/etc/d?ta", ["/etc/data"]),
        ("/etc/*/x/*", []),
    ],
)
def test_what_is_readable_is_found(pattern: str, expected: list[str]) -> None:
    assert list(matching(b"sub\0" + LISTING, pattern)) == sorted(
        expected, key=lambda path: path != "/etc/sub"
    )


def test_the_folder_holds_no_pattern() -> None:
    patterns = ("/etc/*", "/etc/x*", "/lib/modules/*/modules.dep", "/*", "/etc/a")
    assert [folder_of(pattern) for pattern in patterns] == ["/etc", "/etc", "/lib/modules", "/", "/etc"]
