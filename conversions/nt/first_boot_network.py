"""Scripts that give network settings back to the adapters they were for, at the first boot on other hardware.

New hardware is a new adapter to Windows: it gets an address from DHCP, and the old one stays with an adapter
that is not there any more. PowerShell's NetTCPIP came with 8 and 2012; older ones have netsh and wmic.
Everything that is put into a script was parsed before (`conversions.nt.static_addresses`), so that nothing
in it needs quotes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from conversions.nt.first_boot_scripts import fill
from conversions.nt.static_addresses import Assignment

TRIES, PAUSE = 60, 5
"""How often, and after how many seconds each, an adapter is looked for: five minutes in all."""


def powershell(settings: Sequence[Assignment]) -> str:
    """For 8, 2012 and newer; ends with the number of adapters that did not get their settings."""
    entries = "\n".join(_entry(one) for one in settings)
    return fill("network.ps1", entries=entries, tries=TRIES, pause=PAUSE)


def batch(settings: Sequence[Assignment], version: tuple[int, int]) -> str:
    """For what is older than 8: ends with 1 where an adapter did not get its settings.

    Interfaces are named by number where Windows counts them (Vista and 7): their names may be of any
    language.
    """
    names = range(1, len(settings) + 1)
    return fill(
        "network.cmd",
        calls="\n".join(f"call :adapter{number}" for number in names),
        blocks="\n".join(_block(number, one, version) for number, one in zip(names, settings, strict=True)),
        name="InterfaceIndex" if version >= (6, 0) else "NetConnectionID",
        tries=TRIES,
        pings=PAUSE + 1,
    )


def _entry(one: Assignment) -> str:
    wanted = one.settings
    lists = {
        "Old": one.old,
        "Addresses": wanted.addresses,
        "Gateways": _ipv4(wanted.gateways),
        "Dns": wanted.dns,
    }
    texts = "; ".join(f"{name} = @({_quoted(values)})" for name, values in lists.items())
    return f"    @{{ Mac = '{one.mac.replace(':', '').upper()}'; {texts}; Suffix = '{wanted.suffix}' }}"


def _quoted(values: Sequence[str]) -> str:
    return ", ".join(f"'{value}'" for value in values)


def _block(number: int, one: Assignment, version: tuple[int, int]) -> str:
    lines = [
        f":adapter{number}",
        f"call :find {one.mac.upper()}",
        "if not defined NAME goto :eof",
        *(f'call :forget "{guid}"' for guid in one.old),
        *_address_lines(one),
        *_dns_lines(one, version),
        f"echo p2v: the adapter {one.mac} is done",
        "goto :eof",
    ]
    return "\n".join(lines) + "\n"


def _address_lines(one: Assignment) -> list[str]:
    """netsh takes these without their names in every version, which spell the names differently."""
    addresses = [ipaddress.IPv4Interface(address) for address in one.settings.addresses]
    if not addresses:
        return []
    first, *more = addresses
    gateways = _ipv4(one.settings.gateways)
    route = f"{gateways[0]} 1" if gateways else "none"
    add = 'netsh interface ip add address "%NAME%"'
    return [
        f'netsh interface ip set address "%NAME%" static {first.ip} {first.netmask} {route}',
        *(f"{add} {address.ip} {address.netmask}" for address in more),
        *(f"{add} gateway={gateway} gwmetric={metric}" for metric, gateway in enumerate(gateways[1:], 2)),
        *(f"call :check IPAddress {address.ip}" for address in addresses),
    ]


def _dns_lines(one: Assignment, version: tuple[int, int]) -> list[str]:
    old = _ipv4(one.settings.dns)
    new = [server for server in one.settings.dns if server not in old] if version >= (6, 0) else []
    if not old and not new:
        return []
    lines = [f'netsh interface ip set dns "%NAME%" static {old[0]}'] if old else []
    lines += [f'netsh interface ip add dns "%NAME%" {server}' for server in old[1:]]
    lines += [f'netsh interface ipv6 add dnsserver "%NAME%" {server}' for server in new]
    return [*lines, *(f"call :check NameServer {server}" for server in old)]


def _ipv4(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(value for value in values if ":" not in value)
