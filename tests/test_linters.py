"""The linters are tests: types, rules, format, the same in CI and on a desk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from p2v import command

ROOT = Path(__file__).resolve().parent.parent

LINTERS = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy",),
}

pytestmark = pytest.mark.tools


@pytest.mark.timeout(300)
@pytest.mark.parametrize("linter", LINTERS)
def test_linter(linter: str) -> None:
    result = command.run([sys.executable, "-m", *LINTERS[linter]], timeout=280, cwd=ROOT)
    if result.code != 0:
        pytest.fail(f"{linter}:\n{result.stdout}{result.stderr}", pytrace=False)
