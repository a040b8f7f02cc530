"""A running Windows by the command line: what a scan says of it, and what the receipt of a capture says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli import Answer, p2v
from tests.transports.windows_source import SYSTEM, WindowsSource, windows_source

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(120)]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[WindowsSource]:
    with windows_source(tmp_path) as made:
        yield made


def run(source: WindowsSource, command: str, *words: str | Path) -> Answer:
    sshd = source.sshd
    login = ("--identity", sshd.identity, "--known-hosts", sshd.known_hosts)
    return p2v(command, sshd.url, *words, *login, home=source.folder / "home", timeout=100)


def inventory(source: WindowsSource, **changes: object) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(source.state.read_text())["inventory"]
    return {**known, **changes}


def test_a_scan_finds_what_is_in_the_way(source: WindowsSource) -> None:
    encrypted = [{"name": SYSTEM, "place": "C:", "protection": 1, "conversion": 1}]
    source.change(inventory=inventory(source, encrypted=encrypted, pending_reboots=["Windows Update"]))
    answer = run(source, "scan", "--json")
    assert answer.code == 0, answer.stderr
    said = answer.json()
    assert said["machine"]["os"]["version"] == "10.0.19041"
    found = {one["message"]: one for one in said["findings"]}
    assert [one["hint"] for one in found.values() if one["severity"] == "blocker"] == [
        "On the source: manage-bde -off C:, and wait until manage-bde -status C: says Fully Decrypted"
    ]
    hints = [one["hint"] for one in found.values() if one["severity"] == "warning"]
    assert "On the source: powercfg /h off" in hints
    assert "On the source: shutdown /r /t 0, then scan again" in hints


def test_a_capture_says_that_it_is_of_snapshots(source: WindowsSource) -> None:
    answer = run(source, "capture", "--output", source.folder / "out", "--name", "win", "--json")
    assert answer.code == 0, answer.stderr
    receipt = json.loads((source.folder / "out/win/receipt.json").read_text())
    assert receipt["capture"]["reached"]["grade"] == "snapshot"
    source.wait_until_clean()


def test_a_windows_without_snapshots_is_fuzzy_in_the_receipt(source: WindowsSource) -> None:
    source.change(vss={SYSTEM: 12})
    answer = run(source, "capture", "--output", source.folder / "out", "--name", "win")
    assert answer.code == 0, answer.stderr
    receipt = json.loads((source.folder / "out/win/receipt.json").read_text())
    assert receipt["capture"]["reached"]["grade"] == "fuzzy"
    assert any("its provider failed" in warning for warning in receipt["warnings"])


@pytest.mark.parametrize("command", ["scan", "capture"])
def test_who_is_no_administrator_is_told_what_to_type(source: WindowsSource, command: str) -> None:
    source.change(hello={"administrator": False})
    words = () if command == "scan" else ("--output", source.folder / "out")
    answer = run(source, command, *words)
    assert answer.code == 4
    assert "is no administrator" in answer.stderr
    assert "net localgroup Administrators" in answer.stderr
    assert "Traceback" not in answer.stderr
