"""Names of network cards, bound to their addresses."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.network import keep_network
from p2v.model import Nic
from tests.conversions.network.guests import (
    MAC_1,
    MAC_2,
    NEW_1,
    NEW_2,
    ONE,
    RULES,
    TWO,
    guest,
    kept,
    request,
    text,
    unseen,
)

IFCFG = "/etc/sysconfig/network-scripts/ifcfg-eth0"
ALPINE = {"/etc/mdev.conf": "# rules of mdev\nnull root:root 666\n"}
ETH = (Nic("eth0", MAC_1), Nic("eth1", MAC_2))
OLD_UDEV = {"/etc/udev/rules.d/50-udev.rules": "# udev 095\n"}


def test_a_card_keeps_its_name_by_its_address(tmp_path: Path) -> None:
    made = guest(tmp_path, {})
    kept(made, request(TWO))
    rules = [line for line in text(made, RULES).splitlines() if not line.startswith("#")]
    assert len(rules) == 2
    for rule, nic in zip(rules, TWO, strict=True):
        assert f'ATTR{{address}}=="{nic.mac}"' in rule
        assert f'NAME="{nic.name}"' in rule
        # Without this the rule would fit a VLAN or a bridge on the card, which has the same address.
        assert 'DRIVERS=="?*"' in rule


def test_the_guest_s_own_rules_stay_above(tmp_path: Path) -> None:
    made = guest(tmp_path, {RULES: "# kept"})
    kept(made, request(ONE))
    assert text(made, RULES).startswith("# kept\n# ")


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (RULES, f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC_1}", KERNEL=="eth*", NAME="lan0"\n'),
        ("/etc/udev/rules.d/30-net.rules", f'SYSFS{{address}}=="{MAC_1.upper()}", NAME="lan0"\n'),
        ("/etc/systemd/network/70-lan.link", f"[Match]\nMACAddress={MAC_1.upper()}\n[Link]\nName=lan0\n"),
    ],
)
def test_a_name_that_the_guest_binds_itself_is_left_alone(tmp_path: Path, path: str, content: str) -> None:
    made = guest(tmp_path, {path: content})
    assert kept(made, request(ONE)).changes == ()


@pytest.mark.parametrize(
    ("path", "content"),
    [
        # Only the MTU, no name; a comment; a name for the address on the old driver or slot only.
        ("/etc/systemd/network/70-lan.link", f"[Match]\nMACAddress={MAC_1}\n[Link]\nMTUBytes=9000\n"),
        (RULES, f'# SUBSYSTEM=="net", ATTR{{address}}=="{MAC_1}", NAME="lan0"\n'),
        (RULES, f'SUBSYSTEM=="net", DRIVERS=="ixgbe", ATTR{{address}}=="{MAC_1}", NAME="enp5s0f0"\n'),
        (RULES, f'SUBSYSTEM=="net", KERNELS=="0000:05:00.0", ATTR{{address}}=="{MAC_1}", NAME="enp5s0f0"\n'),
    ],
)
def test_what_names_nothing_on_the_virtual_machine_does_not_count(
    tmp_path: Path, path: str, content: str
) -> None:
    made = guest(tmp_path, {path: content})
    kept(made, request(ONE))
    last = text(made, RULES).splitlines()[-1]
    assert f'DRIVERS=="?*", ATTR{{address}}=="{MAC_1}"' in last
    assert 'NAME="enp5s0f0"' in last


def test_a_later_rule_for_a_slot_is_a_warning(tmp_path: Path) -> None:
    rule = 'SUBSYSTEM=="net", KERNELS=="0000:00:03.0", NAME="dmz"\n'
    made = guest(tmp_path, {"/etc/udev/rules.d/90-slots.rules": rule})
    assert any("90-slots.rules" in warning for warning in kept(made, request(ONE)).warnings)


@pytest.mark.parametrize("name", ["../evil", "a b", "x" * 16, "eth0\n[Match]", "-x", ""])
def test_a_hostile_name_makes_no_file(tmp_path: Path, name: str) -> None:
    made = guest(tmp_path, {})
    changes = kept(made, request((Nic(name, MAC_1),)))
    assert changes.changes == ()
    assert changes.warnings


def test_cards_of_one_address_cannot_be_told_apart(tmp_path: Path) -> None:
    changes = kept(guest(tmp_path, {}), request((Nic("eno1", MAC_1), Nic("eno2", MAC_1))))
    assert changes.changes == ()
    assert "Several cards" in changes.warnings[0]


def test_the_only_unseen_card_gets_the_only_configured_name(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/etc/network/interfaces": "iface lo inet loopback\niface lan7 inet dhcp\n"})
    changes = kept(made, unseen(MAC_1))
    assert 'NAME="lan7"' in text(made, RULES)
    assert "lan7" in changes.warnings[0]


def test_two_unseen_cards_get_no_name_by_their_position(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/etc/network/interfaces": "iface lan7 inet dhcp\niface lan8 inet dhcp\n"})
    changes = kept(made, unseen(MAC_1, MAC_2))
    assert changes.changes == ()
    assert "lan7, lan8" in changes.warnings[0]


@pytest.mark.parametrize(
    ("names", "warned"),
    [(("eth0", "eth1"), False), (("eth1", "eth0"), True), (("eth0", "eno1"), True), (("eth0",), False)],
)
def test_names_of_the_kernel_are_a_warning_where_its_order_is_another(
    tmp_path: Path, names: tuple[str, ...], *, warned: bool
) -> None:
    nics = tuple(Nic(name, mac) for name, mac in zip(names, (MAC_1, MAC_2), strict=False))
    changes = kept(guest(tmp_path, {}), request(nics))
    assert bool(changes.warnings) is warned


def test_busybox_gets_its_own_table_and_the_rule_that_reads_it(tmp_path: Path) -> None:
    made = guest(tmp_path, {}, udev=ALPINE)
    kept(made, request(ETH))
    assert text(made, "/etc/mactab") == f"eth0\t{MAC_1}\neth1\t{MAC_2}\n"
    rule, *rest = text(made, "/etc/mdev.conf").splitlines(keepends=True)
    assert "@/sbin/nameif" in rule
    assert "".join(rest) == ALPINE["/etc/mdev.conf"]


def test_busybox_with_one_card_needs_nothing(tmp_path: Path) -> None:
    assert kept(guest(tmp_path, {}, udev=ALPINE), request(ETH[:1])).changes == ()


def test_initscripts_before_udev_s_names_get_an_address(tmp_path: Path) -> None:
    files = {
        IFCFG: "DEVICE=eth0\nBOOTPROTO=static\nONBOOT=yes",
        "/etc/sysconfig/network-scripts/ifcfg-eth1": "",
    }
    made = guest(tmp_path, files, udev=OLD_UDEV)
    changes = kept(made, request(ETH))
    assert text(made, IFCFG).splitlines()[-1] == f"HWADDR={MAC_1.upper()}"
    assert any("eth1" in warning for warning in changes.warnings)


def test_a_new_address_is_written_wherever_the_old_one_stood(tmp_path: Path) -> None:
    files = {
        IFCFG: f'DEVICE=eth0\nHWADDR="{MAC_1.upper()}"\n',
        RULES: f'SUBSYSTEM=="net", ATTR{{address}}=="{MAC_1}", NAME="eth0"\n',
        "/etc/NetworkManager/system-connections/a.nmconnection": f"[ethernet]\nmac-address={MAC_2}\n",
        "/etc/netplan/1.yaml": f"network:\n  ethernets:\n    a:\n      match: {{macaddress: {MAC_2}}}\n",
        "/etc/hosts": f"# {MAC_1}\n",
    }
    made = guest(tmp_path, files)
    kept(made, request(ETH, macs=(NEW_1, NEW_2)))
    assert text(made, IFCFG) == f'DEVICE=eth0\nHWADDR="{NEW_1.upper()}"\n'
    own, _, added = text(made, RULES).splitlines()
    assert own == f'SUBSYSTEM=="net", ATTR{{address}}=="{NEW_1}", NAME="eth0"'
    assert NEW_2 in added
    assert NEW_2 in text(made, "/etc/NetworkManager/system-connections/a.nmconnection")
    assert f"macaddress: {NEW_2}" in text(made, "/etc/netplan/1.yaml")
    assert text(made, "/etc/hosts") == f"# {MAC_1}\n"


def test_addresses_that_are_swapped_are_swapped(tmp_path: Path) -> None:
    files = {"/etc/mactab": f"eth0 {MAC_1}\neth1 {MAC_2}\n", "/etc/mdev.conf": "nameif\n"}
    made = guest(tmp_path, files, udev={})

    keep_network(Changes(made), request(ETH, macs=(MAC_2, MAC_1)))
    assert text(made, "/etc/mactab") == f"eth0 {MAC_2}\neth1 {MAC_1}\n"
