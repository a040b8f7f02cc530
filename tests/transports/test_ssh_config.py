"""Addresses and routes, checked against what `ssh -G` makes of the same configuration."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

import pytest

from p2v import command
from p2v.errors import TargetError, TransportError, UsageError
from p2v.transports import lean_paramiko
from p2v.transports.ssh_config import SshAddress, SshOptions, parse_address, route
from tests.sshd import need


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("ssh://web1", SshAddress("web1")),
        ("ssh://root@web1.example.com:2222", SshAddress("web1.example.com", 2222, "root")),
        ("ssh://root@web1/", SshAddress("web1", None, "root")),
        ("ssh://[::1]", SshAddress("::1")),
        ("ssh://root@[fe80::1%eth0]:22", SshAddress("fe80::1%eth0", 22, "root")),
        ("SSH://10.0.0.1:65535", SshAddress("10.0.0.1", 65535)),
        ("ssh://corp%5Cadmin@web1", SshAddress("web1", None, "corp\\admin")),
        ("ssh://me@corp.example@web1", SshAddress("web1", None, "me@corp.example")),
    ],
)
def test_addresses(source: str, expected: SshAddress) -> None:
    assert parse_address(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "",
        "web1",
        "http://web1",
        "ssh://",
        "ssh://@web1",
        "ssh://root@",
        "ssh://web1:0",
        "ssh://web1:65536",
        "ssh://web1:ssh",
        "ssh://web1:",
        "ssh://::1",
        "ssh://[::1",
        "ssh://web1/dev/sda",
        "ssh://we b1",
        "ssh://web1\nProxyCommand=x",
        "ssh://-oProxyCommand=x",
        "ssh://-l@web1",
        "ssh://a b@web1",
        "ssh://web1:\uff11\uff12",
    ],
)
def test_not_addresses(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(source)
    assert caught.value.hint


@pytest.mark.parametrize(
    "source",
    ["ssh://root:hunter2@web1", "ssh://root:hunter2/x@web1:22", "ssh://:hunter2@web1", "ssh://web1:hunter2"],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(source: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(source)
    assert "hunter2" not in str(caught.value)


def config(path: Path, text: str) -> SshOptions:
    path.write_text(text)
    return SshOptions(config_file=path)


def test_defaults_without_a_configuration(home: Path) -> None:
    (hop,) = route(SshAddress("web1"), SshOptions())
    assert (hop.host, hop.port, hop.user, hop.proxy_command) == ("web1", 22, getpass.getuser(), "")
    assert hop.known_hosts[0] == home / ".ssh/known_hosts"
    assert home / ".ssh/id_ed25519" in hop.identities


CONFIG = """
Host alias
  HostName real.example.com
  Port 2222
  User admin
  IdentityFile ~/.ssh/id_web
  IdentityFile /keys/%h_%r
  IdentitiesOnly yes
  UserKnownHostsFile ~/.ssh/kh_web
  HostKeyAlias vault
  ConnectTimeout 7
Host *.inner
  ProxyJump gate1,ops@gate2:2200
Host gate1
  HostName 192.0.2.1
Host walled
  ProxyCommand nc -X 5 %h %p %r
Host *
  User fallback
"""


def test_what_the_configuration_says_counts(tmp_path: Path, home: Path) -> None:
    (hop,) = route(SshAddress("alias"), config(tmp_path / "config", CONFIG))
    assert (hop.host, hop.port, hop.user) == ("real.example.com", 2222, "admin")
    assert hop.identities == (home / ".ssh/id_web", Path("/keys/real.example.com_admin"))
    assert hop.only_identities
    assert hop.known_hosts[0] == home / ".ssh/kh_web"
    assert (hop.key_alias, hop.connect_timeout) == ("vault", 7.0)


def test_what_was_typed_comes_first_also_in_tokens(tmp_path: Path) -> None:
    options = config(tmp_path / "config", CONFIG)
    (hop,) = route(SshAddress("walled", 2022, "root"), options)
    assert (hop.port, hop.user) == (2022, "root")
    assert hop.proxy_command == "nc -X 5 walled 2022 root"


def test_options_come_before_the_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(CONFIG)
    options = SshOptions(
        identity=Path("/my/key"), known_hosts=Path("/my/known"), connect_timeout=3.0, config_file=path
    )
    (hop,) = route(SshAddress("alias"), options)
    assert (hop.identity, hop.known_hosts, hop.connect_timeout) == (
        Path("/my/key"),
        (Path("/my/known"),),
        3.0,
    )


def test_jump_hosts_come_first_and_get_their_own_settings(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(CONFIG)
    options = SshOptions(identity=Path("/my/key"), config_file=path)
    hops = route(SshAddress("db.inner"), options)
    assert [(hop.host, hop.port, hop.user) for hop in hops] == [
        ("192.0.2.1", 22, "fallback"),
        ("gate2", 2200, "ops"),
        ("db.inner", 22, "fallback"),
    ]
    assert [hop.identity for hop in hops] == [None, None, Path("/my/key")]


def test_jumps_in_a_circle_end(tmp_path: Path) -> None:
    options = config(tmp_path / "config", "Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(TransportError, match="jump hosts"):
        route(SshAddress("a"), options)


def test_proxy_jump_none_switches_jumping_off(tmp_path: Path) -> None:
    options = config(tmp_path / "config", "Host near\n ProxyJump none\nHost *\n ProxyJump gate\n")
    assert len(route(SshAddress("near"), options)) == 1


def test_included_files_count_and_the_block_goes_on_after_them(tmp_path: Path, home: Path) -> None:
    (home / ".ssh/conf.d").mkdir(parents=True)
    (home / ".ssh/conf.d/one").write_text("Host web1\n  Port 2201\nHost other\n  User nobody\n")
    (home / ".ssh/config").write_text(
        "Include conf.d/*\nUser everybody\nHost web1\n  HostName web.example.com\n"
    )
    (hop,) = route(SshAddress("web1"), SshOptions())
    assert (hop.host, hop.port, hop.user) == ("web.example.com", 2201, "everybody")


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config"
    with pytest.raises(TransportError, match="Include"):
        route(SshAddress("web1"), config(path, f"Include {path}\n"))


@pytest.mark.parametrize(
    "text",
    ["Host web1\n Port many\n", "ProxyJump a:b:c\n", "justoneword\n"],
)
def test_an_unusable_configuration_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(TransportError) as caught:
        route(SshAddress("web1"), config(tmp_path / "config", text))
    assert caught.value.hint


def test_a_criterion_that_cannot_be_judged_is_not_fulfilled(tmp_path: Path) -> None:
    text = "Match localnetwork 192.0.2.0/24\n Port 1\nMatch all\n User everybody\n"
    (hop,) = route(SshAddress("web1"), config(tmp_path / "config", text))
    assert (hop.port, hop.user) == (22, "everybody")


def test_a_command_of_the_users_own_is_asked_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Match exec`, with the user's environment; and what paramiko would load for it is not there."""
    monkeypatch.setenv("OFFICE", "yes")
    text = 'Match exec "test $OFFICE = no"\n Port 1\nMatch exec "test $OFFICE = yes && echo %h"\n Port 2\n'
    (hop,) = route(SshAddress("web1"), config(tmp_path / "config", text))
    assert hop.port == 2
    monkeypatch.setattr(lean_paramiko, "MATCH_SECONDS", 0.1)
    with pytest.raises(TargetError, match="did not finish"):
        route(SshAddress("web1"), config(tmp_path / "slow", 'Match exec "sleep 20"\n Port 1\n'))
    code = "import sys, p2v.transports; sys.exit(not {'invoke', 'asyncio'}.isdisjoint(sys.modules))"
    assert command.run([sys.executable, "-c", code], timeout=30).code == 0


def test_a_missing_configuration_that_was_asked_for_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="No such file"):
        route(SshAddress("web1"), SshOptions(config_file=tmp_path / "nowhere"))


@pytest.mark.tools
@pytest.mark.parametrize("host", ["alias", "gate1", "elsewhere", "walled"])
def test_ssh_itself_reads_the_same(tmp_path: Path, home: Path, host: str) -> None:
    (hop,) = route(SshAddress(host), config(tmp_path / "config", CONFIG))
    argv = [need("ssh"), "-G", "-F", str(tmp_path / "config"), host]
    said = command.check(argv, timeout=10, reason="read its configuration").splitlines()
    assert f"hostname {hop.host}" in said
    assert f"port {hop.port}" in said
    assert f"user {hop.user}" in said
    assert f"identitiesonly {'yes' if hop.only_identities else 'no'}" in said
