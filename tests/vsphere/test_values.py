"""What is read before a server is asked: addresses, password references, thumbprints, descriptors."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2v import command
from p2v.errors import P2VError, TargetError, UsageError
from p2v.model import GiB
from p2v.vsphere.credentials import (
    PROMPT,
    PasswordKind,
    PasswordSource,
    Secret,
    parse_password,
    read_password,
)
from p2v.vsphere.descriptor import read_appliance
from p2v.vsphere.inventory import Row, quoted
from p2v.vsphere.settings import DiskNeed, NetworkMap, Server, parse_address, parse_network
from p2v.vsphere.spec import may_keep
from p2v.vsphere.trust import parse_thumbprint, thumbprint_of, with_colons
from p2v.vsphere.upload import parse_url
from tests.conftest import need_tools
from tests.vsphere.appliances import SIZES, make_appliance
from tests.vsphere.simulator import USER


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("vc.example", "vc.example", 443),
        ("vc.example:8443", "vc.example", 8443),
        ("https://vc.example/", "vc.example", 443),
        ("[fd00::1]:444", "fd00::1", 444),
        ("192.0.2.7", "192.0.2.7", 443),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == (host, port)


@pytest.mark.parametrize(
    "text", ["", "http://vc", "vc:0", "vc:65536", "user@vc", "vc/path", "a b", "fd00::1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="address"):
        parse_address(text)


def test_networks() -> None:
    assert parse_network("VM Network=DMZ") == NetworkMap("VM Network", "DMZ")
    assert parse_network("DMZ") == NetworkMap("", "DMZ")
    assert parse_network("a=b=c") == NetworkMap("a", "b=c")
    for text in ("", "=", "=b", "a="):
        with pytest.raises(UsageError, match="network"):
            parse_network(text)


def test_passwords_by_reference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VC_PASSWORD", " pass word ")
    file = tmp_path / "password"
    file.write_text("from file\r\nand no more\n")
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return "typed"

    assert read_password(parse_password("env:VC_PASSWORD"), USER, None).value == " pass word "
    assert read_password(parse_password(f"file:{file}"), USER, None).value == "from file"
    assert parse_password("prompt") == PROMPT
    assert read_password(PROMPT, USER, ask).value == "typed"
    assert asked == [f"Password of {USER}: "]


@pytest.mark.parametrize("text", ["hunter2", "env:", "file:", "prompt:hunter2", "ENV:hunter2", ""])
def test_a_password_itself_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_password(text)
    assert "hunter2" not in str(caught.value)


def test_passwords_that_are_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("VC_PASSWORD", raising=False)
    (tmp_path / "large").write_bytes(b"x" * 5000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").touch()
    sources = [PasswordSource(PasswordKind.FILE, str(tmp_path / name)) for name in ("large", "binary", "no")]
    sources += [PasswordSource(PasswordKind.FILE, str(tmp_path / "empty")), PROMPT]
    sources += [PasswordSource(PasswordKind.ENVIRONMENT, "VC_PASSWORD")]
    for source in sources:
        with pytest.raises(UsageError):
            read_password(source, USER, None)


def test_a_secret_does_not_show_itself() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r}"


@pytest.mark.tools
def test_thumbprints_are_those_of_openssl(tmp_path: Path) -> None:
    need_tools("openssl")
    key, pem, der = (tmp_path / name for name in ("key", "pem", "der"))
    make: list[str | Path] = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]
    command.check([*make, "-subj", "/CN=x", "-keyout", key, "-out", pem], reason="make one", timeout=20)
    show: list[str | Path] = ["openssl", "x509", "-in", pem]
    command.check([*show, "-outform", "der", "-out", der], reason="rewrite it", timeout=20)
    for name, digits in (("sha256", 64), ("sha1", 40)):
        shown = command.check([*show, "-noout", "-fingerprint", f"-{name}"], reason="show it", timeout=20)
        theirs = shown.partition("=")[2].strip()
        assert with_colons(thumbprint_of(der.read_bytes(), digits)) == theirs
        assert with_colons(parse_thumbprint(theirs)) == theirs
        assert with_colons(parse_thumbprint(f"{name.upper()}:{theirs}")) == theirs


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 16, "ab" * 33])
def test_what_is_no_thumbprint(text: str) -> None:
    with pytest.raises(UsageError, match="thumbprint"):
        parse_thumbprint(text)


@pytest.mark.parametrize(
    ("mac", "kept"),
    [
        ("52:54:00:ab:cd:ef", True),
        ("00:50:56:3f:ff:ff", True),
        ("00:50:56:40:00:00", False),
        ("00:50:56:b1:00:01", False),
        ("00:0c:29:00:00:01", False),
        ("00:0C:29:00:00:01", False),
        ("01:00:5e:00:00:01", False),
        ("", False),
        ("52-54-00-ab-cd-ef", False),
    ],
)
def test_addresses_that_vsphere_leaves_to_others(mac: str, kept: bool) -> None:
    assert may_keep(mac) is kept


def test_a_descriptor_tells_what_is_needed(tmp_path: Path) -> None:
    appliance = make_appliance(tmp_path)
    contents = read_appliance(appliance)
    assert [(part.id, part.href, part.size) for part in contents.parts] == [
        ("file0", "web01-disk0.vmdk", SIZES[0]),
        ("file1", "web01-disk1.vmdk", SIZES[1]),
    ]
    needs = contents.needs
    assert needs.disks == (DiskNeed(8 * GiB, SIZES[0]), DiskNeed(20 * GiB, 5 * GiB))
    assert (needs.networks, needs.hardware) == (("front", "back"), "vmx-13")


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("<ovf:Envelope", "<ovf:Envelop", "cannot be read"),
        ("<?xml", "<!DOCTYPE x [<!ENTITY a 'b'>]><?xml", "not one that can be imported"),
        (f'ovf:size="{SIZES[0]}"', 'ovf:size="7"', "descriptor says 7"),
        ('ovf:id="file1"', 'ovf:id="file2"', "no disk"),
        ('ovf:fileRef="file1"', 'ovf:fileRef="file9"', "no disk"),
        ("byte * 2^30", "furlong", "unit"),
        ("byte * 2^30", "byte * 999999^99 ", "capacity of"),
        ('ovf:capacity="8"', 'ovf:capacity="-8"', "capacity"),
        ('ovf:capacity="8"', 'ovf:capacity="9999999999999999999999"', "capacity"),
    ],
)
def test_descriptors_that_are_wrong(tmp_path: Path, old: str, new: str, match: str) -> None:
    appliance = make_appliance(tmp_path)
    text = appliance.descriptor.replace(old, new)
    assert text != appliance.descriptor
    with pytest.raises(TargetError, match=match):
        read_appliance(replace(appliance, descriptor=text))


def test_a_disk_that_was_not_given(tmp_path: Path) -> None:
    appliance = make_appliance(tmp_path)
    with pytest.raises(TargetError, match="No disk was given for the file 'file1'"):
        read_appliance(replace(appliance, files=appliance.files[:1]))
    appliance.files[1].path.unlink()
    with pytest.raises(TargetError, match="Cannot read"):
        read_appliance(appliance)


@given(st.text(max_size=200))
def test_no_text_breaks_the_parsers(text: str) -> None:
    for parse in (parse_address, parse_network, parse_thumbprint, parse_password):
        try:
            parse(text)
        except P2VError:
            continue


@pytest.mark.parametrize("name", ["a/b", "50%", "a\\b", "%2f", "plain name"])
def test_names_go_to_vsphere_and_come_back(name: str) -> None:
    assert "/" not in quoted(name)
    assert Row(None, {"name": quoted(name)}).name == name


def test_addresses_of_a_lease() -> None:
    server = Server("vc.example", USER, port=8443)
    star = parse_url("https://*/nfc/52c7/disk-0.vmdk?a=b", server, "", create=False)
    assert (star.host, star.port, star.path) == ("vc.example", 8443, "/nfc/52c7/disk-0.vmdk?a=b")
    host = parse_url("https://esx1.example/nfc/52c7/disk-0.vmdk", server, "AB", create=True)
    assert (host.host, host.port, host.thumbprint, host.create) == ("esx1.example", 443, "AB", True)
    for url in (
        "http://esx1/x",
        "https:///x",
        "https://[x/y",
        "https://u:p@esx/x",
        "https://esx:99999/x",
        "ftp://x",
    ):
        with pytest.raises(TargetError, match="not HTTPS"):
            parse_url(url, server, "", create=False)


def test_random_disks_differ(tmp_path: Path) -> None:
    """Guards the comparison of uploads: two disks with the same bytes could be swapped unseen."""
    digests = {hashlib.sha256(file.path.read_bytes()).hexdigest() for file in make_appliance(tmp_path).files}
    assert len(digests) == 2
