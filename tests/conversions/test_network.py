"""Names of network cards, bound to their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.network import configured_names, keep_names
from p2v.model import PlannedNic
from tests.conversions.machines import MAC, NICS, tree

LINK = "/etc/systemd/network/10-p2v-enp0s4.link"
RULES = "/etc/udev/rules.d/70-persistent-net.rules"


def test_a_card_keeps_its_name_by_its_address(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    keep_names(Changes(guest), NICS)
    lines = guest.read(LINK).decode().splitlines()
    assert {f"MACAddress={MAC}", "Type=ether", "Name=enp0s4"} <= set(lines)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (RULES, f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC}", NAME="lan0"\n'),
        ("/etc/systemd/network/70-lan.link", f"[Match]\nMACAddress={MAC.upper()}\n[Link]\nName=lan0\n"),
    ],
)
def test_a_name_that_the_guest_binds_itself_is_left_alone(tmp_path: Path, path: str, text: str) -> None:
    guest = tree(tmp_path)
    guest.mkdir(path.rsplit("/", 1)[0])
    guest.write(path, text.encode())
    changes = Changes(guest)
    keep_names(changes, NICS)
    assert changes.changes == ()


def test_an_old_udev_gets_a_rule(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.remove("/lib/systemd/network/99-default.link")
    guest.mkdir("/etc/udev/rules.d")
    guest.write(RULES, b"# kept")
    keep_names(Changes(guest), NICS)
    kept, rule = guest.read(RULES).decode().splitlines()
    assert kept == "# kept"
    assert f'ATTR{{address}}=="{MAC}"' in rule
    assert 'NAME="enp0s4"' in rule
    changes = Changes(guest)
    keep_names(changes, NICS)
    assert changes.changes == ()


def test_without_a_known_name_the_configured_one_is_taken_and_said(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    changes = Changes(guest)
    keep_names(changes, (PlannedNic(MAC),))
    assert guest.exists(LINK)
    assert "enp0s4" in changes.warnings[0]


@pytest.mark.parametrize("name", ["../evil", "a b", "x" * 16, "eth0\n[Match]", "-x"])
def test_a_hostile_name_makes_no_file(tmp_path: Path, name: str) -> None:
    changes = Changes(tree(tmp_path))
    keep_names(changes, (PlannedNic(MAC, name),))
    assert changes.changes == ()
    assert changes.warnings


def test_cards_of_one_address_cannot_be_told_apart(tmp_path: Path) -> None:
    changes = Changes(tree(tmp_path))
    keep_names(changes, (PlannedNic(MAC, "eno1"), PlannedNic(MAC, "eno2")))
    assert changes.changes == ()
    assert "Several cards" in changes.warnings[0]


def test_names_come_from_ifupdown_and_netplan_without_what_is_no_card(tmp_path: Path) -> None:
    guest = tree(tmp_path)
    guest.mkdir("/etc/network/interfaces.d")
    guest.write(
        "/etc/network/interfaces.d/more",
        b"iface br0 inet static\niface eno2 inet6 auto\niface eno2.7 inet dhcp\n",
    )
    guest.mkdir("/etc/netplan")
    netplan = (
        b"network:\n  version: 2\n  ethernets:\n    ens3:\n      dhcp4: true\n      match:\n        name: x\n"
        b"    ens4:\n      addresses: [10.0.0.1/8]\n  vlans:\n    vlan7:\n      id: 7\n"
    )
    guest.write("/etc/netplan/01.yaml", netplan)
    assert configured_names(Changes(guest)) == ("enp0s4", "eno2", "ens3", "ens4")
