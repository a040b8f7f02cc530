"""Versions of kernels, in the order in which a person would put them."""

from __future__ import annotations

import re


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts versions as a person would: runs of digits as numbers, above letters."""
    parts = re.findall(r"\d+|[a-z]+", version.lower())
    return tuple((1, int(part[:18])) if part.isdigit() else (0, part) for part in parts)
