"""Addresses that were typed into Windows, and the adapters that get them back."""

from __future__ import annotations

import random

import pytest

from conversions.nt.registry import Value, ValueType, binary, dword, multi_sz, sz
from conversions.nt.static_addresses import (
    NET_CLASS,
    NSI_IPV6,
    Adapter,
    adapters,
    assignments,
    has_ipv6_addresses,
)
from p2v.model import Nic, PlannedNic
from tests.conversions.nt.memory_hives import MemoryHive

GUID = "{c43669b3-ab3e-4d0e-8fde-69579925a20f}"
SECOND = "{c43669b3-ab3e-4d0e-8fde-69579925a210}"
SET = "ControlSet001"
INTERFACES = f"{SET}\\Services\\Tcpip\\Parameters\\Interfaces"
MAC = "00:0c:29:66:1a:a2"
INSTANCE = "PCI\\VEN_8086&DEV_10D3&SUBSYS_07D015AD&REV_00\\000C29FFFF661AA200"
"""Of the Windows 10 in the sdist of dissect.regf, whose card has the MAC above."""


def static(hive: MemoryHive, guid: str = GUID, *values: Value) -> MemoryHive:
    default = (
        dword("EnableDHCP", 0),
        multi_sz("IPAddress", ["192.0.2.7", "198.51.100.9"]),
        multi_sz("SubnetMask", ["255.255.255.0", "255.255.0.0"]),
        multi_sz("DefaultGateway", ["192.0.2.1"]),
        sz("NameServer", "192.0.2.53,198.51.100.53 203.0.113.53"),
        sz("Domain", "example.org"),
    )
    return hive.put(f"{INTERFACES}\\{guid}", *default, *values)


def connection(hive: MemoryHive, name: str, guid: str = GUID, instance: str = INSTANCE) -> MemoryHive:
    return hive.put(
        f"{SET}\\Control\\Network\\{NET_CLASS}\\{guid}\\Connection",
        sz("Name", name),
        sz("PnpInstanceID", instance),
    )


@pytest.mark.parametrize("name", ["Ethernet0", "Подключение по локальной сети", "ローカル エリア接続"])
def test_all_settings_of_an_adapter_are_read(name: str) -> None:
    hive = connection(static(MemoryHive()), name)
    hive.put(f"{SET}\\Control\\NetworkSetup2\\Interfaces\\{GUID.upper()}\\Kernel")
    hive.put(
        f"{SET}\\Control\\NetworkSetup2\\Interfaces\\{GUID.upper()}\\Kernel",
        binary("PermanentAddress", bytes.fromhex("001122334455")),
    )
    hive.put(f"{SET}\\Services\\Tcpip6\\Parameters\\Interfaces\\{GUID}", sz("NameServer", "2001:db8::53"))
    assert adapters(hive, SET) == (
        Adapter(
            GUID,
            "00:11:22:33:44:55",
            name,
            ("192.0.2.7/24", "198.51.100.9/16"),
            ("192.0.2.1",),
            ("192.0.2.53", "198.51.100.53", "203.0.113.53", "2001:db8::53"),
            "example.org",
        ),
    )


def test_the_serial_number_of_a_card_gives_its_address_where_nothing_else_does() -> None:
    (found,) = adapters(connection(static(MemoryHive()), "LAN"), SET)
    assert (found.mac, found.serial_mac) == (MAC, True)


def test_a_serial_number_that_two_ports_share_is_no_address() -> None:
    hive = connection(connection(static(static(MemoryHive()), SECOND), "LAN"), "LAN 2", SECOND)
    assert [found.mac for found in adapters(hive, SET)] == ["", ""]


def test_an_address_that_was_set_by_hand_counts_most() -> None:
    hive = connection(static(MemoryHive()), "LAN")
    driver = f"{SET}\\Control\\Class\\{NET_CLASS}\\0007"
    hive.put(driver, sz("NetCfgInstanceId", GUID.upper()), sz("NetworkAddress", "02-00-5E-10-00-01"))
    assert adapters(hive, SET)[0].mac == "02:00:5e:10:00:01"


def test_what_dhcp_gives_is_not_taken_for_static() -> None:
    hive = MemoryHive().put(
        f"{INTERFACES}\\{GUID}",
        dword("EnableDHCP", 1),
        multi_sz("IPAddress", ["192.0.2.7"]),
        multi_sz("SubnetMask", ["255.255.255.0"]),
        sz("NameServer", ""),
    )
    (found,) = adapters(hive, SET)
    assert (found.addresses, found.is_static) == ((), False)


def test_name_servers_beside_dhcp_are_kept() -> None:
    hive = MemoryHive().put(f"{INTERFACES}\\{GUID}", dword("EnableDHCP", 1), sz("NameServer", "192.0.2.53"))
    (found,) = adapters(hive, SET)
    assert (found.dns, found.is_static) == (("192.0.2.53",), True)


@pytest.mark.parametrize(
    ("address", "mask"),
    [
        ("0.0.0.0", "0.0.0.0"),
        ("127.0.0.1", "255.0.0.0"),
        ("192.0.2.7", ""),
        ("192.0.2.7", "255.0.255.0"),
        ("192.0.2.7'; Remove-Item C:\\", "255.255.255.0"),
        ("$(calc)", "24"),
    ],
)
def test_what_is_no_address_of_a_machine_is_left_out(address: str, mask: str) -> None:
    hive = MemoryHive().put(
        f"{INTERFACES}\\{GUID}",
        dword("EnableDHCP", 0),
        multi_sz("IPAddress", [address]),
        multi_sz("SubnetMask", [mask]),
        multi_sz("DefaultGateway", ["`calc`"]),
        sz("Domain", "a'; calc"),
    )
    (found,) = adapters(hive, SET)
    assert found == Adapter(found.guid)


def test_static_ipv6_addresses_are_noticed() -> None:
    hive = MemoryHive()
    assert not has_ipv6_addresses(hive, SET)
    hive.put(f"{SET}\\Control\\Nsi\\{NSI_IPV6}\\10", binary("00000001800006002001", b"\0"))
    assert has_ipv6_addresses(hive, SET)


OWN = Adapter(GUID, MAC, "Ethernet0", ("192.0.2.7/24",))


def test_settings_go_to_the_card_with_the_same_address() -> None:
    sure, lost = assignments([OWN], [Nic("Ethernet0", MAC)], [PlannedNic(MAC, "Ethernet0")])
    assert ([one.mac for one in sure], sure[0].old, lost) == ([MAC], (GUID,), ())


def test_settings_go_to_the_new_address_of_the_card_that_they_were_for() -> None:
    nics = [Nic("Ethernet0", MAC), Nic("Ethernet1", "00:0c:29:00:00:02")]
    planned = [PlannedNic("52:54:00:00:00:02", "Ethernet1"), PlannedNic("52:54:00:00:00:01", "Ethernet0")]
    sure, lost = assignments([OWN], nics, planned)
    assert ([one.mac for one in sure], lost) == (["52:54:00:00:00:01"], ())


def test_a_running_machine_says_which_card_had_the_address() -> None:
    nameless = Adapter(GUID, "", "", ("192.0.2.7/24",))
    nics = [Nic("Ethernet5", "00:0c:29:00:00:05", addresses=("192.0.2.7/24",)), Nic("Ethernet6", MAC)]
    sure, _ = assignments([nameless], nics, [PlannedNic(nic.mac, nic.name) for nic in nics])
    assert [one.mac for one in sure] == ["00:0c:29:00:00:05"]


def test_a_single_card_gets_the_only_settings_there_are() -> None:
    nameless = Adapter(GUID, "", "", ("192.0.2.7/24",))
    sure, lost = assignments([nameless], [], [PlannedNic("52:54:00:00:00:01")])
    assert ([one.mac for one in sure], lost) == (["52:54:00:00:00:01"], ())


def test_settings_that_no_card_can_get_are_named() -> None:
    one, other = Adapter(GUID, "", "", ("192.0.2.7/24",)), Adapter(SECOND, "", "", ("192.0.2.8/24",))
    sure, lost = assignments([one, other], [], [PlannedNic("52:54:00:00:00:01")])
    assert (sure, lost) == ((), (one, other))


def test_two_settings_for_one_card_are_given_to_none() -> None:
    other = Adapter(SECOND, MAC, "Team", ("192.0.2.8/24",))
    sure, lost = assignments([OWN, other], [Nic("Ethernet0", MAC)], [PlannedNic(MAC, "Ethernet0")])
    assert (sure, lost) == ((), (OWN, other))


def test_a_card_that_windows_met_twice_is_one_card() -> None:
    again = Adapter(SECOND, MAC, "Ethernet0 2", ("192.0.2.7/24",))
    sure, lost = assignments([OWN, again], [Nic("Ethernet0", MAC)], [PlannedNic(MAC, "Ethernet0")])
    assert ([(one.mac, one.old) for one in sure], lost) == ([(MAC, (GUID, SECOND))], ())


def test_an_adapter_that_is_gone_gives_up_its_claim() -> None:
    """As after an earlier move: the address is kept twice, and one of the adapters is no more."""
    ghost = Adapter(SECOND, "00:0c:29:00:00:09", "Old", ("192.0.2.7/24",))
    nics = [Nic("Old", ghost.mac, addresses=("192.0.2.7/24",)), Nic("Ethernet0", MAC)]
    sure, lost = assignments([ghost, OWN], nics, [PlannedNic(MAC, "Ethernet0")])
    assert ([(one.mac, one.old) for one in sure], lost) == ([(MAC, (GUID, SECOND))], ())


def test_mutated_values_give_sound_settings_or_none() -> None:
    """1,000 mutations of every value of an adapter, of their types and their bytes."""
    chance = random.Random(6)
    for _ in range(1000):
        hive = connection(static(MemoryHive()), "LAN")
        for value in hive.values(f"{INTERFACES}\\{GUID}"):
            hive.put(f"{INTERFACES}\\{GUID}", mutated(value, chance))
        for found in adapters(hive, SET):
            plain = "".join((*found.addresses, *found.gateways, *found.dns, found.suffix, found.mac))
            assert set(plain) <= set("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.:/-")


def mutated(value: Value, chance: random.Random) -> Value:
    data = bytearray(value.data)
    for _ in range(chance.randint(0, 3)):
        if data:
            data[chance.randrange(len(data))] = chance.randrange(256)
    kind = chance.choice(
        (value.kind, value.kind, value.kind, ValueType.BINARY, ValueType.MULTI_SZ, 0xFFFF0012)
    )
    return Value(value.name, kind, bytes(data[: chance.choice((len(data), chance.randint(0, len(data))))]))
