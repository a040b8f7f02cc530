"""mmdebstrap's place taken by small scripts: how it ends, and that nothing of it is left."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from p2v import command
from p2v.errors import TargetError
from p2v.rescue import install
from p2v.rescue.install import run_mmdebstrap


def script(folder: Path, text: str) -> list[str]:
    path = folder / "mmdebstrap"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return [str(path)]


def test_a_failure_says_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = script(tmp_path, "echo 'E: no such archive' >&2; exit 3")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TargetError, match=r"exit code 3\): E: no such archive") as caught:
        run_mmdebstrap(argv, tmp_path / "log")
    assert "newuidmap" in caught.value.hint


def test_proxies_reach_it_and_secrets_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    run_mmdebstrap(script(tmp_path, "env"), tmp_path / "log")
    said = (tmp_path / "log").read_text()
    assert "http_proxy=http://proxy:3128" in said
    assert "hunter2" not in said


def test_it_has_not_all_the_time_in_the_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "INSTALL_SECONDS", 0.3)
    with pytest.raises(TargetError, match="did not finish"):
        run_mmdebstrap(script(tmp_path, "sleep 60"), tmp_path / "log")


def test_interrupted_it_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As mmdebstrap does: deaf itself while a child works, and tidying up once that has ended."""
    work = "trap 'echo tidied' EXIT; trap '' TERM; (trap - TERM; exec sleep 60) & echo $! > pid; wait"
    argv = script(tmp_path, f"cd '{tmp_path}'; {work}")

    def interrupted(_child: command.Child, _seconds: float) -> int:
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            time.sleep(0.02)
        time.sleep(0.2)
        raise KeyboardInterrupt

    monkeypatch.setattr(install, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_mmdebstrap(argv, tmp_path / "log")
    child = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert (tmp_path / "log").read_text() == "tidied\n"
