"""The options of a live import: read, refused, and said again as a command to type."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest

from p2v.errors import UsageError
from p2v.importing import require_destination
from p2v.journal import differences
from p2v.plan import describe
from p2v.targets import find_target
from p2v.vsphere.credentials import PasswordKind, PasswordSource
from p2v.vsphere.keyring import Keyring
from p2v.vsphere.settings import Destination, NetworkMap, Placement, Provisioning, Server
from p2v.vsphere_cli import take_destination, vsphere_options
from tests.plans import make_plan

FULL = Destination(
    Server(
        host="fd00::1",
        port=8443,
        user="administrator@vsphere.local",
        password=PasswordSource(PasswordKind.FILE, "/etc/p2v/vc password"),
        ca_file=Path("/etc/ssl/vc's ca.pem"),
        thumbprint="ab" * 32,
    ),
    Placement(
        datacenter="DC 0",
        cluster="C0",
        host="esx1",
        resource_pool="pool",
        datastore="SSD & more",
        folder="a/b",
        networks=(NetworkMap("eth0", "DMZ $1"), NetworkMap("", "VM Network")),
        provisioning=Provisioning.EAGER,
        power_on=True,
    ),
)
PLAIN = Destination(Server("vc.example", "root"), Placement())


def taken(words: str) -> Destination | None:
    """What the command line makes of these words."""
    found: list[Destination | None] = []

    @click.command()
    @vsphere_options
    def command(**options: Any) -> None:
        found.append(take_destination(options))
        assert options == {}

    command.main(shlex.split(words), standalone_mode=False)
    return found[0]


@pytest.mark.parametrize("destination", [FULL, PLAIN])
def test_the_words_of_a_destination_lead_back_to_it(destination: Destination) -> None:
    assert taken(destination.words()) == destination


def test_nothing_said_is_nothing() -> None:
    assert taken("") is None


def test_a_password_file_is_found_from_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = taken("--server vc --user u --password file:secret")
    assert found is not None
    assert found.server.password.name == str(tmp_path / "secret")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--datastore SSD", "--datastore belongs to a live import"),
        ("--power-on", "--power-on belongs to a live import"),
        ("--server vc", "Who logs in"),
        ("--server vc/../x --user u", "not the address"),
        ("--server vc --user u --password hunter2", "not taken from the command line"),
        ("--server vc --user u --thumbprint 12", "not a thumbprint"),
        ("--server vc --user u --network =DMZ", "does not map a network"),
    ],
)
def test_what_makes_no_sense(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        taken(words)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("targets", "destination", "message"),
    [
        (["vsphere"], None, "needs to know its server"),
        (["libvirt"], PLAIN, "belongs to a live import"),
        (["vsphere", "vsphere:esx8"], PLAIN, "one machine"),
    ],
)
def test_a_server_and_the_target_belong_together(
    targets: list[str], destination: Destination | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        require_destination([find_target(name) for name in targets], destination)


def test_what_belongs_together() -> None:
    require_destination([find_target("libvirt")], None)
    require_destination([find_target("libvirt"), find_target("vsphere")], PLAIN)


def test_a_password_is_asked_once_and_taken_out_of_every_log() -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "s3cret/of vcenter"

    keyring = Keyring()
    for _ in range(2):
        assert keyring.password(PLAIN.server, ask).value == "s3cret/of vcenter"
    assert asked == ["Password of root on vc.example: "]
    said = keyring.redactor.clean("login s3cret/of vcenter as s3cret%2Fof%20vcenter")
    assert said == "login [removed] as [removed]"


def test_a_plan_says_where_it_imports_and_may_find_another_host_later() -> None:
    plan = replace(make_plan(), place="/DC0/vm/web01 on vc.example, host esx1, datastore SSD")
    assert "  imports /DC0/vm/web01 on vc.example" in describe(plan, size="1 GiB")
    assert differences(plan, replace(plan, place="/DC0/vm/web01 on vc.example, host esx2")) == ()
