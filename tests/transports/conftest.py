"""A private SSH server for the tests of this folder, and a place without the user's own SSH setup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sshd import Sshd, private_sshd


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder and no agent: the keys of whoever runs the tests must not decide them."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One server for the tests of a module; those that change known_hosts use a copy."""
    with private_sshd(tmp_path_factory.mktemp("sshd"), host_key_kinds=("ed25519", "rsa", "ecdsa")) as server:
        yield server
