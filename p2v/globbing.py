"""Shell patterns over a listing of names in any encoding, where libguestfs' own answer would be an error."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator

UNUSABLE = re.compile("\ufffd|/\\.")
"""A name that is not UTF-8, and one that begins with a dot, which a shell's `*` leaves out."""


def folder_of(pattern: str) -> str:
    """The folder below which all matches of a pattern are."""
    return posixpath.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0] + "x")


def matching(listing: bytes, pattern: str) -> Iterator[str]:
    """What of `listing` matches; its names are relative to `folder_of(pattern)`, each ends in a zero byte."""
    parts = pattern.split("/")
    for name in listing.decode("utf-8", "replace").split("\0"):
        path = posixpath.join(folder_of(pattern), name.lstrip("/"))
        fits = name and path.count("/") + 1 == len(parts) and not UNUSABLE.search(path)
        if fits and all(map(fnmatch.fnmatchcase, path.split("/"), parts)):
            yield path
