"""The options of a live import into vSphere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from p2v.errors import UsageError
from p2v.options import Command, add_options
from p2v.vsphere.credentials import PasswordKind, PasswordSource, parse_password
from p2v.vsphere.settings import (
    Destination,
    Placement,
    Provisioning,
    Server,
    parse_address,
    parse_network,
)
from p2v.vsphere.trust import parse_thumbprint

PLACES = {
    "datacenter": "The datacenter, where there are several.",
    "cluster": "The cluster that runs the machine; one of its hosts is chosen.",
    "host": "The host that runs it.",
    "resource_pool": "The resource pool; default: the root of the cluster or host.",
    "datastore": "Where its disks go.",
    "folder": "The folder of the inventory, as a path; default: the datacenter's own.",
}
PREFIX = "vsphere_"


def vsphere_options(command: Command) -> Command:
    """Which vSphere, and where in it; all of them belong to `--to vsphere`."""
    options = [
        _option("server", metavar="HOST[:PORT]", help="The vCenter or ESXi host for --to vsphere."),
        _option("user", help="Who logs in there: administrator@vsphere.local."),
        _option(
            "password",
            metavar="env:NAME|file:PATH|prompt",
            help="Where the password is found, never itself; default: prompt.",
        ),
        _option(
            "ca_file",
            type=click.Path(path_type=Path, resolve_path=True),
            help="CA certificates to verify the server with, instead of the system's.",
        ),
        _option("thumbprint", help="SHA-256 or SHA-1 of the one certificate to believe, instead of any CA."),
        *(_option(name, help=text) for name, text in PLACES.items()),
        _option(
            "network",
            multiple=True,
            metavar="SRC=DST",
            help="The network for a card, by its name on the source: eth0=DMZ; DST alone for all. May be "
            "repeated.",
        ),
        _option(
            "provisioning",
            type=click.Choice([kind.value for kind in Provisioning]),
            help="How the datastore holds the disks; default: thin.",
        ),
        _option("power_on", is_flag=True, help="Start the machine once it is imported."),
    ]
    return add_options(command, options)


def _option(name: str, **settings: Any) -> Any:
    return click.option(f"--{name.replace('_', '-')}", f"{PREFIX}{name}", **settings)


def take_destination(options: dict[str, Any]) -> Destination | None:
    """The destination out of a command's options, which are taken out. Raises UsageError."""
    names = [name for name in options if name.startswith(PREFIX)]
    given = {name.removeprefix(PREFIX): options.pop(name) for name in names}
    given = {name: value for name, value in given.items() if value}
    if not given:
        return None
    if "server" not in given:
        option = f"--{next(iter(given)).replace('_', '-')}"
        raise UsageError(f"{option} belongs to a live import, and needs --server", hint="Try: --server HOST")
    if "user" not in given:
        raise UsageError(f"Who logs in on {given['server']}?", hint="Try: --user administrator@vsphere.local")
    return Destination(_server(given), _placement(given))


def _server(given: dict[str, Any]) -> Server:
    host, port = parse_address(given["server"])
    return Server(
        host=host,
        port=port,
        user=given["user"],
        password=_reference(given.get("password", "prompt")),
        ca_file=given.get("ca_file"),
        thumbprint=parse_thumbprint(given["thumbprint"]) if "thumbprint" in given else "",
    )


def _reference(text: str) -> PasswordSource:
    """A file is kept with its whole path: a run may be resumed from another folder."""
    source = parse_password(text)
    if source.kind is not PasswordKind.FILE:
        return source
    return replace(source, name=str(Path(source.name).expanduser().absolute()))


def _placement(given: dict[str, Any]) -> Placement:
    return Placement(
        **{name: given[name] for name in PLACES if name in given},
        networks=tuple(parse_network(text) for text in given.get("network", ())),
        provisioning=Provisioning(given.get("provisioning", Provisioning.THIN)),
        power_on="power_on" in given,
    )
