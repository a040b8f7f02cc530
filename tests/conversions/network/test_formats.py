"""Each way of describing a network: the file that met a card on the metal meets the same card afterwards."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversions.network import configured_cards
from p2v.model import Nic
from tests.conversions.network.guests import (
    MAC_1,
    MAC_2,
    MAC_3,
    MODERN,
    ONE,
    RULES,
    THREE,
    TWO,
    guest,
    kept,
    request,
    text,
    unseen,
)
from tests.tree_guest import TreeGuest

PLAN = "/etc/netplan/01-netcfg.yaml"
NETWORK = "/etc/systemd/network/10-lan.network"
LINK = "/etc/systemd/network/10-lan.link"
PROFILE = "/etc/NetworkManager/system-connections/lan.nmconnection"
INTERFACES = "/etc/network/interfaces"
CLOUD = "/etc/cloud/cloud.cfg"
CLOUD_PLAN = "/etc/netplan/50-cloud-init.yaml"
OWN_CLOUD = "/etc/cloud/cloud.cfg.d/99-p2v-network.cfg"


def section(made: TreeGuest, path: str, name: str) -> dict[str, str]:
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text(made, path))
    return dict(parser[name])


def plan(match: str, *, more: str = "") -> str:
    return (
        "# by hand\nnetwork:\n  version: 2\n  renderer: networkd\n  ethernets:\n"
        f"    lan:   # the first\n      match:\n{match}      dhcp4: true\n{more}"
    )


@pytest.mark.parametrize(
    ("before", "after", "nics"),
    [
        ("        driver: tg3\n", {"macaddress": MAC_2}, TWO),
        ("        driver: [tg3, e1000e]\n", {"macaddress": MAC_2}, TWO),
        ("        driver: ix*\n", {"name": "enp5s0f*"}, THREE),
        (f"        macaddress: {MAC_2}\n        driver: tg3\n", {"macaddress": MAC_2, "name": "*"}, TWO),
        ("        name: en*\n        driver: tg3\n", {"name": "en*", "macaddress": MAC_2}, TWO),
    ],
)
def test_netplan_finds_the_card_without_its_driver(
    tmp_path: Path, before: str, after: dict[str, str], nics: tuple[Nic, ...]
) -> None:
    made = guest(tmp_path, {PLAN: plan(before)})
    changes = kept(made, request(nics))
    body = yaml.safe_load(text(made, PLAN))["network"]["ethernets"]["lan"]
    assert body == {"match": after, "dhcp4": True}
    assert "# the first" in text(made, PLAN)
    assert not changes.warnings


@pytest.mark.parametrize("driver", ["iwlwifi", "bnx2x"])
def test_netplan_for_a_card_that_was_never_there_stays(tmp_path: Path, driver: str) -> None:
    made = guest(tmp_path, {PLAN: plan(f"        driver: {driver}\n")})
    changes = kept(made, request(TWO))
    assert f"driver: {driver}" in text(made, PLAN)
    assert not changes.warnings


def test_netplan_by_driver_on_cards_that_nobody_saw_is_a_warning(tmp_path: Path) -> None:
    nics = (Nic("eno1", MAC_1), Nic("eno2", MAC_2))
    changes = kept(guest(tmp_path, {PLAN: plan("        driver: tg3\n")}), request(nics))
    assert any(PLAN in warning for warning in changes.warnings)


@pytest.mark.parametrize(
    "content",
    [
        b"network: [" * 5000,
        b"network: {ethernets: {a: {match: {driver: !!python/object:os.system x}}}}\n",
        b"\xff\xfenetwork:\n",
        b"&a [*a, *a]\n",
        b"network:\n  ethernets: 7\n",
        b"- 1\n",
        b"network:\n\tethernets:\n",
        b"n\0e\0t\0",
        b"",
    ],
)
def test_a_plan_that_is_none_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    made = guest(tmp_path, {PLAN: content})
    kept(made, request(ONE))
    assert made.read(PLAN) == content


def test_networkd_finds_the_card_by_name_instead_of_slot_and_driver(tmp_path: Path) -> None:
    before = "[Match]\nPath=pci-0000:05:00.0\nDriver=ixgbe\nVirtualization=!vm\n\n[Network]\nDHCP=yes\n"
    made = guest(tmp_path, {NETWORK: before})
    changes = kept(made, request(THREE[:2]))
    assert section(made, NETWORK, "Match") == {"Name": "enp5s0f0"}
    assert section(made, NETWORK, "Network") == {"DHCP": "yes"}
    assert not changes.warnings


@pytest.mark.parametrize(
    ("match", "names"),
    [
        ("Driver=ixgbe", "enp5s0f0 enp5s0f1"),
        ("Driver=tg3 e1000e", "eno1"),
        ("Name=en*\nDriver=!tg3", "enp5s0f0 enp5s0f1"),
        (f"Driver=ixgbe\nMACAddress={MAC_2}", "enp5s0f1"),
    ],
)
def test_networkd_takes_all_cards_that_it_took(tmp_path: Path, match: str, names: str) -> None:
    made = guest(tmp_path, {NETWORK: f"[Match]\n{match}\n[Network]\nDHCP=yes"})
    kept(made, request(THREE))
    assert section(made, NETWORK, "Match")["Name"] == names


def test_networkd_by_a_slot_that_no_name_tells_is_a_warning(tmp_path: Path) -> None:
    before = "[Match]\nPath=pci-0000:01:00.0\n[Network]\nDHCP=yes\n"
    made = guest(tmp_path, {NETWORK: before})
    changes = kept(made, request((Nic("eno1", MAC_1), Nic("eno2", MAC_2))))
    assert text(made, NETWORK) == before
    assert any(NETWORK in warning for warning in changes.warnings)


def test_networkd_for_metal_only_holds_on_the_virtual_machine(tmp_path: Path) -> None:
    made = guest(tmp_path, {NETWORK: "[Match]\nName=en*\nVirtualization=no\n"})
    kept(made, request(ONE))
    assert section(made, NETWORK, "Match") == {"Name": "en*"}


def test_a_link_file_keeps_its_mtu_by_the_address(tmp_path: Path) -> None:
    made = guest(tmp_path, {LINK: "[Match]\nDriver=ixgbe\n[Link]\nMTUBytes=9000\n"})
    kept(made, request(TWO))
    assert section(made, LINK, "Match") == {"MACAddress": MAC_1}
    assert section(made, LINK, "Link") == {"MTUBytes": "9000"}


def test_a_profile_of_networkmanager_finds_the_card_by_name(tmp_path: Path) -> None:
    match = "[match]\npath=pci-0000:05:00.1;\ndriver=ixgbe;\n"
    before = f"[connection]\nid=lan\ntype=ethernet\n\n{match}\n[ipv4]\nmethod=auto\n"
    made = guest(tmp_path, {PROFILE: before})
    kept(made, request(THREE))
    assert section(made, PROFILE, "match") == {"interface-name": "enp5s0f1;"}
    assert section(made, PROFILE, "ipv4") == {"method": "auto"}


def test_ifcfg_of_old_suse_by_slot_becomes_one_by_address(tmp_path: Path) -> None:
    folder = "/etc/sysconfig/network"
    made = guest(tmp_path, {f"{folder}/ifcfg-eth-bus-pci-0000:03:00.0": "BOOTPROTO='dhcp'\n"})
    kept(made, request(ONE))
    assert text(made, f"{folder}/ifcfg-eth-id-{MAC_1}") == "BOOTPROTO='dhcp'\n"
    assert not made.exists(f"{folder}/ifcfg-eth-bus-pci-0000:03:00.0")


def test_ifcfg_of_old_suse_by_slot_with_several_cards_is_a_warning(tmp_path: Path) -> None:
    path = "/etc/sysconfig/network/ifcfg-eth-bus-pci-0000:03:00.0"
    changes = kept(guest(tmp_path, {path: "BOOTPROTO='dhcp'\n"}), request(TWO))
    assert any(path in warning for warning in changes.warnings)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/etc/sysconfig/network-scripts/ifcfg-eno9", "DEVICE=eno9\nHWADDR=00:11:22:33:44:55\n"),
        (PROFILE, "[connection]\ntype=ethernet\n[ethernet]\nmac-address=00:11:22:33:44:55\n"),
        (PLAN, plan('        macaddress: "00:11:22:33:44:55"\n')),
        (NETWORK, "[Match]\nMACAddress=00:11:22:33:44:55\n"),
    ],
)
def test_an_address_that_no_card_has_is_a_warning_with_the_file(
    tmp_path: Path, path: str, content: str
) -> None:
    changes = kept(guest(tmp_path, {path: content}), request(ONE))
    assert any(path in warning and "00:11:22:33:44:55" in warning for warning in changes.warnings)


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (INTERFACES, "iface bond0 inet dhcp\n  bond-mode 802.3ad\n"),
        ("/etc/network/interfaces.d/b", "iface bond0 inet dhcp\n\tbond_mode 4\n"),
        ("/etc/sysconfig/network-scripts/ifcfg-bond0", 'BONDING_OPTS="mode=4 miimon=100"\n'),
        ("/etc/sysconfig/network/ifcfg-bond0", "BONDING_MODULE_OPTS='mode=802.3ad miimon=100'\n"),
        ("/etc/systemd/network/bond0.netdev", "[Bond]\nMode=802.3ad\n"),
        (PROFILE, "[bond]\nmode=802.3ad\n"),
        (PLAN, "network:\n  bonds:\n    bond0:\n      parameters:\n        mode: 802.3ad\n"),
        (
            "/etc/sysconfig/network-scripts/ifcfg-team1",
            'TEAM_CONFIG="{\\"runner\\": {\\"name\\":\\"lacp\\"}}"\n',
        ),
        ("/etc/sysconfig/network-scripts/ifcfg-team0", 'TEAM_CONFIG=\'{"runner": {"name": "lacp"}}\'\n'),
    ],
)
def test_lacp_is_a_warning_with_the_file(tmp_path: Path, path: str, content: str) -> None:
    changes = kept(guest(tmp_path, {path: content}), request(ONE))
    assert any(path in warning and "LACP" in warning for warning in changes.warnings)


def test_other_bonds_are_no_warning(tmp_path: Path) -> None:
    files = {INTERFACES: "iface bond0 inet dhcp\n  bond-mode active-backup\n# bond-mode 4\n  mtu 4\n"}
    assert not kept(guest(tmp_path, files), request(ONE)).warnings


def test_cloud_init_keeps_what_it_wrote(tmp_path: Path) -> None:
    made = guest(tmp_path, {CLOUD: "users: [default]\n", CLOUD_PLAN: "network: {version: 2}\n"})
    kept(made, request(ONE))
    assert yaml.safe_load(text(made, OWN_CLOUD)) == {"network": {"config": "disabled"}}


@pytest.mark.parametrize(
    "files",
    [
        {CLOUD_PLAN: "network: {version: 2}\n"},
        {CLOUD: "", PLAN: "network: {version: 2}\n"},
        {CLOUD: "", CLOUD_PLAN: "", "/etc/cloud/cloud-init.disabled": ""},
        {CLOUD: "", CLOUD_PLAN: "", "/etc/cloud/cloud.cfg.d/99-x.cfg": "network: {config: disabled}\n"},
        {CLOUD: "network:\n  config: disabled\n", CLOUD_PLAN: ""},
    ],
)
def test_cloud_init_is_left_alone_where_it_writes_no_network(tmp_path: Path, files: dict[str, str]) -> None:
    made = guest(tmp_path, files)
    kept(made, request(ONE))
    assert not made.exists(OWN_CLOUD)


def test_what_the_guest_configures_is_seen_in_every_format(tmp_path: Path) -> None:
    files = {
        INTERFACES: "source interfaces.d/*\niface lo inet loopback\niface eno1 inet dhcp\n"
        "iface br0 inet dhcp\n"
        "  bridge_ports eno7 none\niface eno1.5 inet dhcp\niface vlan9 inet dhcp\n vlan-raw-device eno8\n",
        PLAN: plan(f"        macaddress: {MAC_1}\n      set-name: eno2\n") + "    eno3: {dhcp4: true}\n",
        NETWORK: "[Match]\nName=eno4 en*\n",
        LINK: f"[Match]\nMACAddress={MAC_2}\n[Link]\nName=eno4\n",
        PROFILE: f"[connection]\ntype=ethernet\ninterface-name=eno5\n"
        f"[ethernet]\nmac-address={MAC_3.upper()}\n",
        "/etc/NetworkManager/system-connections/b": "[connection]\ntype=bond\ninterface-name=abc\n",
        "/etc/sysconfig/network-scripts/ifcfg-a": "DEVICE=eno6\nTYPE=Ethernet\nHWADDR=52:54:00:AA:00:06\n",
        "/etc/sysconfig/network-scripts/ifcfg-eno6.7": "DEVICE=eno6.7\nVLAN=yes\n",
        "/etc/sysconfig/network/ifcfg-eth9": "BOOTPROTO='static'\n",
        RULES: 'SUBSYSTEM=="net", ATTR{address}=="52:54:00:AA:00:09", NAME="eth9"\n'
        'SUBSYSTEM=="net", ATTR{address}=="52:54:00:aa:00:99", NAME="gone"\n',
        "/etc/sysconfig/network/ifcfg-team5x": "TEAM_CONFIG=x\n",
        "/etc/sysconfig/network/ifcfg-eth8.rpmsave": "BOOTPROTO='static'\n",
    }
    found = {nic.name: nic.mac for nic in configured_cards(guest(tmp_path, files))}
    assert found == {
        **dict.fromkeys(("eno1", "eno7", "eno8", "eno3"), ""),
        **{"eno2": MAC_1, "eno4": MAC_2, "eno5": MAC_3, "eno6": "52:54:00:aa:00:06"},
        "eth9": "52:54:00:aa:00:09",
    }


def test_files_that_include_each_other_in_circles_end(tmp_path: Path) -> None:
    files = {
        INTERFACES: "source interfaces\nsource /etc/network/more/*\niface eno1 inet dhcp\n",
        "/etc/network/more/a": "source /etc/network/more/*\nsource-directory .\niface eno2 inet dhcp\n",
    }
    assert [nic.name for nic in configured_cards(guest(tmp_path, files))] == ["eno1", "eno2"]


def test_links_that_lead_out_or_nowhere_or_in_circles_touch_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("iface eno1 inet dhcp\n")
    made = guest(tmp_path, {"/etc/network/x": ""})
    for name, target in (("interfaces", str(outside)), ("loop", "loop"), ("up", "../../../../outside")):
        (made.root / "etc/network" / name).symlink_to(target)
    (made.root / "etc/netplan").symlink_to("netplan")
    (made.root / "etc/udev").mkdir()
    (made.root / "etc/udev/rules.d").symlink_to(tmp_path)
    kept(made, request(ONE))
    assert outside.read_text() == "iface eno1 inet dhcp\n"
    assert not list(tmp_path.glob("*.rules"))
    assert [nic.name for nic in configured_cards(made)] == []


@pytest.mark.parametrize("path", [INTERFACES, PLAN, NETWORK, PROFILE])
def test_a_file_of_many_megabytes_is_a_warning(tmp_path: Path, path: str) -> None:
    made = guest(tmp_path, {path: b"# x\n" * 1_000_000})
    changes = kept(made, request(ONE))
    assert any(path in warning for warning in changes.warnings)


FRAGMENTS = st.sampled_from(
    [
        *(
            "[Match]",
            "[match]",
            "[connection]",
            "Driver=ixgbe",
            "Path=pci-*",
            "Name=!en*",
            "Name=",
            "driver=;;",
        ),
        *(
            "network:",
            "  ethernets:",
            "    a:",
            "      match:",
            "        driver: '*'",
            "   - x",
            "{",
            "}: [",
            "&a *a",
        ),
        *(
            "iface eno1 inet dhcp",
            "source *",
            "source-directory .",
            f"HWADDR={MAC_1}",
            'DEVICE="',
            "\udcff",
            "\r",
            "\\",
        ),
        *(
            "type=ethernet",
            "interface-name=eno1",
            "bond-mode 4",
            f"MACAddress={MAC_1} {MAC_2}",
            " !binary x",
            "<<: *a",
        ),
    ]
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(FRAGMENTS, max_size=12), st.sampled_from([PLAN, NETWORK, LINK, PROFILE, INTERFACES]))
def test_no_file_of_nonsense_stops_a_conversion(
    tmp_path_factory: pytest.TempPathFactory, fragments: list[str], path: str
) -> None:
    content = "\n".join(fragments).encode("utf-8", "surrogateescape")
    made = guest(tmp_path_factory.mktemp("fuzz"), {path: content}, udev=MODERN)
    kept(made, request(THREE))
    kept(made, unseen(MAC_1, MAC_2))
    configured_cards(made)
