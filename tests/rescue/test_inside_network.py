"""The kernel command line of the rescue system, as people and PXE loaders write it."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest

from p2v.rescue import inside_network
from p2v.rescue.inside_network import Static, Wish, network_file, parse, parse_address


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("ip=10.1.2.3/24", Static("10.1.2.3/24", "", ())),
        ("ip=10.1.2.3/24,10.1.2.1", Static("10.1.2.3/24", "10.1.2.1", ())),
        ("ip=10.1.2.3/24,,9.9.9.9", Static("10.1.2.3/24", "", ("9.9.9.9",))),
        (
            "ip=10.1.2.3/24,10.1.2.1,9.9.9.9,1.1.1.1",
            Static("10.1.2.3/24", "10.1.2.1", ("9.9.9.9", "1.1.1.1")),
        ),
        ("ip=2001:db8::5/64,fe80::1", Static("2001:db8::5/64", "fe80::1", ())),
        ("ip=10.1.2.3:10.1.2.9:10.1.2.1:255.255.252.0", Static("10.1.2.3/22", "10.1.2.1", ())),
        ("ip=10.1.2.3::10.1.2.1:255.255.255.0::eth0:off", Static("10.1.2.3/24", "10.1.2.1", ())),
        ("ip=dhcp", None),
        ("ip=:::::eth0:dhcp", None),
        ("quiet", None),
    ],
)
def test_addresses(word: str, expected: Static | None) -> None:
    assert parse(["quiet", "console=ttyS0", word]).static == expected


@pytest.mark.parametrize(
    "value",
    [
        "10.1.2.3/33",
        "10.1.2/24",
        "10.1.2.3/24,gateway",
        "10.1.2.3/24,fe80::1",
        "10.1.2.3/24,10.1.2.1\nGateway=6.6.6.6",
        "hello",
        "10.1.2.3:::lots",
    ],
)
def test_what_is_no_address_is_an_error(value: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011, the message is Python's own
        parse_address(value)


def test_the_last_word_counts_and_a_default_comes_first() -> None:
    assert parse(["ip=10.1.2.3/24", "ip=dhcp"]) == Wish()


@pytest.mark.parametrize(
    ("words", "card"),
    [
        (["nic=00:1B:21:3A:4F:15"], "00:1b:21:3a:4f:15"),
        (["nic=enp3s0f0"], "enp3s0f0"),
        (["BOOTIF=01-00-1b-21-3A-4f-15"], "00:1b:21:3a:4f:15"),
        (["nic=eth1", "BOOTIF=01-00-1b-21-3a-4f-15"], "eth1"),
        (["BOOTIF=01-00-1b-21-3a-4f-15", "nic=eth1"], "eth1"),
    ],
)
def test_cards(words: list[str], card: str) -> None:
    assert parse(words).card == card


@pytest.mark.parametrize("name", ["a\nb", "x y", "n" * 33, "*"])
def test_a_card_that_would_be_another_line_or_a_pattern_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="not a network card"):
        parse([f"nic={name}"])


def sections(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    return parser


def test_a_static_file_is_for_one_card_only() -> None:
    found = sections(network_file(Wish(Static("10.1.2.3/24", "10.1.2.1", ()), ""), "enp0s4"))
    assert dict(found["Match"]) == {"Name": "enp0s4"}
    assert found["Network"]["Address"] == "10.1.2.3/24"
    assert found["Network"]["DHCP"] == "no"
    assert found["Route"]["Gateway"] == "10.1.2.1"
    by_mac = sections(network_file(Wish(Static("10.1.2.3/24", "", ())), "00:1b:21:3a:4f:15"))
    assert dict(by_mac["Match"]) == {"MACAddress": "00:1b:21:3a:4f:15"}
    assert not by_mac.has_section("Route")


def test_without_an_address_every_card_asks_by_dhcp() -> None:
    found = sections(network_file(Wish(), ""))
    assert (found["Match"]["Type"], found["Network"]["DHCP"]) == ("ether", "yes")


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CMDLINE", "DEFAULTS", "NETWORK_FILE", "RESOLVER", "COMPLAINT"):
        monkeypatch.setattr(inside_network, name, tmp_path / name.lower())
    monkeypatch.setattr(inside_network, "card_with_cable", lambda: "enp0s4")
    return tmp_path


def test_what_was_built_in_yields_to_the_command_line(places: Path) -> None:
    (places / "defaults").write_text("ip=10.1.2.3/24,10.1.2.1,9.9.9.9\n")
    (places / "cmdline").write_text("quiet BOOT_IMAGE=/p2v/vmlinuz\n")
    inside_network.main()
    assert "Address=10.1.2.3/24" in (places / "network_file").read_text()
    assert (places / "resolver").read_text() == "nameserver 9.9.9.9\n"
    (places / "cmdline").write_text("quiet ip=dhcp\n")
    inside_network.main()
    assert "DHCP=yes" in (places / "network_file").read_text()


def test_a_slip_of_the_pen_is_told_and_leaves_dhcp(places: Path) -> None:
    (places / "cmdline").write_text("ip=10.1.2.3/99\n")
    inside_network.main()
    assert "DHCP=yes" in (places / "network_file").read_text()
    assert "10.1.2.3/99" in (places / "complaint").read_text()
