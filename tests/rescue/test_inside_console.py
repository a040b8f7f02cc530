"""What a person in front of the rescue system reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v import command
from p2v.rescue import inside_console
from p2v.rescue.inside_console import Card, addresses6, fingerprint, page
from tests.conftest import need_tools

IF_INET6 = """\
fe80000000000000021b21fffe3a4f15 02 40 20 80   enp0s4
20010db8000000000000000000000005 02 40 00 80   enp0s4
20010db8000000000000000000000006 03 40 00 80   enp0s5
00000000000000000000000000000001 01 80 10 80       lo
"""
"""As /proc/net/if_inet6 of Linux 6.1 has it."""


def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, plugged: bool, address: str = "") -> Card:
    folder = tmp_path / "net" / "enp0s4"
    folder.mkdir(parents=True)
    (folder / "address").write_text("00:1b:21:3a:4f:15\n")
    (folder / "carrier").write_text("1\n" if plugged else "0\n")
    monkeypatch.setattr(inside_console, "CARDS", tmp_path / "net")
    monkeypatch.setattr(inside_console, "ADDRESSES6", tmp_path / "none")
    monkeypatch.setattr(inside_console, "address4", lambda _name: address)
    return Card("enp0s4")


@pytest.mark.tools
def test_the_fingerprint_is_what_ssh_keygen_says(tmp_path: Path) -> None:
    need_tools("ssh-keygen")
    key = tmp_path / "key"
    command.check(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], timeout=30, reason="make a key")
    said = command.check(["ssh-keygen", "-l", "-f", key], timeout=30, reason="say its fingerprint")
    assert fingerprint((tmp_path / "key.pub").read_text()) == f"ssh-ed25519 {said.split()[1]}"


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 %%%"])
def test_a_key_that_is_not_there_yet_has_no_fingerprint(line: str) -> None:
    assert fingerprint(line) == ""


def test_only_addresses_that_others_reach_are_shown() -> None:
    assert addresses6(IF_INET6, "enp0s4") == ["2001:db8::5"]


def test_the_command_is_there_once_it_would_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = card(monkeypatch, tmp_path, plugged=True, address="10.77.0.15")
    text = page([found], "p2v rescue system\non a machine (BIOS)", "ssh-ed25519 SHA256:abc", "")
    assert "  p2v scan ssh://root@10.77.0.15 --known-hosts rescue-keys\n" in text
    assert "ssh-ed25519 SHA256:abc" in text
    assert "p2v scan" not in page([found], "p2v rescue system", "", "")
    assert max(len(line) for line in text.splitlines()) < 80


def test_an_ipv6_address_stands_in_brackets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = card(monkeypatch, tmp_path, plugged=True, address="2001:db8::5")
    assert "ssh://root@[2001:db8::5] " in page([found], "", "ssh-ed25519 SHA256:abc", "")


def test_what_keeps_it_from_being_reached_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = card(monkeypatch, tmp_path, plugged=False)
    text = page([found], "", "ssh-ed25519 SHA256:abc", "'10.1.2.3/99' is no address")
    assert "no cable" in text
    assert "'10.1.2.3/99' is no address; DHCP is used" in text
    assert "p2v scan" not in text
    assert "no card that this system has a driver for" in page([], "", "", "")
    (tmp_path / "net/enp0s4/carrier").write_text("1\n")
    assert "waiting for an address" in page([Card("enp0s4")], "", "", "")


def test_a_line_that_takes_nothing_holds_nothing_up(tmp_path: Path) -> None:
    inside_console.show(str(tmp_path / "missing"), "text")
    (tmp_path / "line").touch()
    inside_console.show(str(tmp_path / "line"), "text\n")
    assert (tmp_path / "line").read_text() == "text\n"
