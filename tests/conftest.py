"""Shared by all tests: `--regenerate`, tools that must be there in CI, and a home of p2v's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2v.command import find_tool

# The product must find out by itself that KVM does not work; the tests say so once for all of them.
os.environ.setdefault("LIBGUESTFS_BACKEND", "direct")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--regenerate", action="store_true", help="write golden files anew instead of comparing")


@pytest.fixture
def regenerate(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written anew."""
    return bool(request.config.getoption("--regenerate"))


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test touches the user's ledger or answers."""
    home = tmp_path_factory.mktemp("p2v-home")
    monkeypatch.setenv("P2V_HOME", str(home))
    return home


def need_tools(*names: str) -> None:
    """Fail in CI and skip elsewhere where a program is missing."""
    missing = [name for name in names if find_tool(name) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"not installed: {', '.join(missing)}")
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
