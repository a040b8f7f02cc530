"""known_hosts: which servers pass, which never do. Oracle: ssh-keygen hashes and finds the same lines."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2v import command
from p2v.errors import TransportError
from p2v.transports.host_keys import (
    HostKey,
    KnownKey,
    check_host_key,
    known_kinds,
    parse_line,
    read_known_hosts,
)
from p2v.transports.ssh_config import Hop, HostKeyPolicy
from tests.sshd import fingerprint, make_key, need, public_key

# github.com's published keys: https://docs.github.com/authentication/keeping-your-account-and-data-secure/githubs-ssh-key-fingerprints
GITHUB = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
GITHUB_FINGERPRINT = "SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJm"
RSA = "AAAAB3NzaC1yc2EAAAADAQABAAAAAQDO"

REFUSE = HostKeyPolicy.REFUSE_UNKNOWN
ACCEPT = HostKeyPolicy.ACCEPT_NEW


def key(kind: str, blob: str) -> HostKey:
    known = parse_line(f"x {kind} {blob}", Path("x"))
    assert known is not None
    return known.key


ED = key("ssh-ed25519", GITHUB)


def hop(path: Path, *, host: str = "web1", port: int = 22, alias: str = "") -> Hop:
    return Hop(host, port, "root", key_alias=alias, known_hosts=(path,))


def known(path: Path, *lines: str) -> tuple[KnownKey, ...]:
    path.write_text("".join(f"{line}\n" for line in lines))
    return read_known_hosts([path])


def trusts(path: Path, lines: tuple[str, ...], target: Hop, offered: HostKey = ED) -> bool:
    try:
        check_host_key(known(path, *lines), target, offered, REFUSE)
    except TransportError:
        return False
    return True


def test_the_fingerprint_is_the_published_one() -> None:
    assert ED.fingerprint == GITHUB_FINGERPRINT


@pytest.mark.parametrize(
    ("names", "host", "port", "alias"),
    [
        ("web1", "web1", 22, ""),
        ("WEB1", "web1", 22, ""),
        ("web1", "WEB1", 22, ""),
        ("db,web1", "web1", 22, ""),
        ("web*", "web1", 22, ""),
        ("web?", "web1", 22, ""),
        ("[web1]:2222", "web1", 2222, ""),
        ("[web*]:2222", "web1", 2222, ""),
        ("web1", "web1", 2222, ""),  # ssh: a key known for the host counts for its other ports
        ("vault", "web1", 2222, "vault"),
        ("::1", "::1", 22, ""),
        ("[::1]:2222", "::1", 2222, ""),
    ],
)
def test_lines_that_know_the_host(tmp_path: Path, names: str, host: str, port: int, alias: str) -> None:
    path = tmp_path / "known"
    assert trusts(
        path, (f"{names} ssh-ed25519 {GITHUB} comment",), hop(path, host=host, port=port, alias=alias)
    )


@pytest.mark.parametrize(
    ("names", "host", "port", "alias"),
    [
        ("web10", "web1", 22, ""),
        ("web", "web1", 22, ""),
        ("webX1", "web.1", 22, ""),
        ("web.1", "webX1", 22, ""),
        ("web*,!web1", "web1", 22, ""),
        ("!web1,web*", "web1", 22, ""),
        ("[web1]:2222", "web1", 22, ""),
        ("[web1]:2222", "web1", 2223, ""),
        ("web1", "web1", 22, "vault"),
        ("w", "[web1]:22", 22, ""),
    ],
)
def test_lines_that_do_not_know_the_host(
    tmp_path: Path, names: str, host: str, port: int, alias: str
) -> None:
    path = tmp_path / "known"
    assert not trusts(path, (f"{names} ssh-ed25519 {GITHUB}",), hop(path, host=host, port=port, alias=alias))


@pytest.mark.parametrize(
    "line",
    [
        f"@cert-authority * ssh-ed25519 {GITHUB}",
        f"@future web1 ssh-ed25519 {GITHUB}",
        f"# web1 ssh-ed25519 {GITHUB}",
        "web1 ssh-ed25519 not*base64",
        "web1 ssh-ed25519",
        "|1|bad|bad ssh-ed25519 " + GITHUB,
        "\x00\x01\xff",
        "",
    ],
)
def test_lines_that_count_for_nobody(tmp_path: Path, line: str) -> None:
    path = tmp_path / "known"
    assert not trusts(path, (line,), hop(path))
    assert trusts(path, (line, f"web1 ssh-ed25519 {GITHUB}"), hop(path)), "a bad line hides the good one"


def test_an_unknown_host_is_refused_with_its_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "known"
    with pytest.raises(TransportError) as caught:
        check_host_key((), hop(path), ED, REFUSE)
    assert f"ssh-ed25519 {GITHUB_FINGERPRINT}" in caught.value.message
    assert "--accept-new-host-key" in caught.value.hint
    assert not path.exists()


def test_an_accepted_host_is_known_from_then_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "known"
    target = hop(path, port=2222)
    check_host_key((), target, ED, ACCEPT)
    check_host_key(read_known_hosts([path]), target, ED, REFUSE)
    assert path.read_text() == f"[web1]:2222 ssh-ed25519 {GITHUB}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_accepting_does_not_damage_a_last_line_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "known"
    path.write_text(f"old ssh-ed25519 {GITHUB}")
    check_host_key(read_known_hosts([path]), hop(path), ED, ACCEPT)
    assert [line.names for line in read_known_hosts([path])] == ["old", "web1"]


@pytest.mark.parametrize("policy", [REFUSE, ACCEPT])
def test_a_changed_key_is_always_refused(tmp_path: Path, policy: HostKeyPolicy) -> None:
    path = tmp_path / "known"
    lines = known(path, f"[web1]:2222 ssh-ed25519 {OTHER}")
    with pytest.raises(TransportError) as caught:
        check_host_key(lines, hop(path, port=2222), ED, policy)
    assert GITHUB_FINGERPRINT in caught.value.message
    assert key("ssh-ed25519", OTHER).fingerprint in caught.value.message
    assert f"ssh-keygen -R '[web1]:2222' -f {path}" in caught.value.hint
    assert path.read_text() == f"[web1]:2222 ssh-ed25519 {OTHER}\n"


def test_a_key_of_another_type_is_a_change_too(tmp_path: Path) -> None:
    """Whoever answers in the place of a known server would offer a type that nobody has written down."""
    path = tmp_path / "known"
    with pytest.raises(TransportError, match="has changed"):
        check_host_key(known(path, f"web1 ssh-rsa {RSA}"), hop(path), ED, ACCEPT)


@pytest.mark.parametrize("policy", [REFUSE, ACCEPT])
@pytest.mark.parametrize("names", ["web1", "*", "web*"])
def test_a_revoked_key_is_always_refused(tmp_path: Path, policy: HostKeyPolicy, names: str) -> None:
    path = tmp_path / "known"
    lines = known(path, f"web1 ssh-ed25519 {GITHUB}", f"@revoked {names} ssh-ed25519 {GITHUB}")
    with pytest.raises(TransportError, match="revoked"):
        check_host_key(lines, hop(path), ED, policy)


def test_known_types_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "known"
    lines = known(
        path, f"web1 ssh-rsa {RSA}", f"@revoked web1 ssh-ed25519 {GITHUB}", f"db ecdsa-sha2-nistp256 {RSA}"
    )
    assert known_kinds(lines, hop(path)) == ("ssh-rsa",)


def test_a_missing_file_knows_nobody_and_an_unreadable_one_is_an_error(tmp_path: Path) -> None:
    assert read_known_hosts([tmp_path / "nowhere"]) == ()
    with pytest.raises(TransportError, match="Cannot read"):
        read_known_hosts([tmp_path])


@pytest.mark.tools
@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize(("host", "port"), [("web1", 22), ("127.0.0.1", 2222)])
def test_ssh_keygen_hashes_and_we_find(tmp_path: Path, kind: str, host: str, port: int) -> None:
    private = make_key(tmp_path / "id", kind=kind)
    path = tmp_path / "known"
    check_host_key((), hop(path, host=host, port=port), key(*public_key(private).split()), ACCEPT)
    command.check([need("ssh-keygen"), "-H", "-f", path], timeout=10, reason="hash the names")
    assert path.read_text().startswith("|1|")
    lines = read_known_hosts([path])
    check_host_key(lines, hop(path, host=host, port=port), lines[0].key, REFUSE)
    assert lines[0].key.fingerprint == fingerprint(private)
    with pytest.raises(TransportError, match="not known"):
        check_host_key(lines, hop(path, host="elsewhere", port=port), lines[0].key, REFUSE)


@pytest.mark.tools
def test_ssh_keygen_finds_and_removes_what_we_wrote(tmp_path: Path) -> None:
    path = tmp_path / "known"
    check_host_key((), hop(path, port=2222), ED, ACCEPT)
    tool = need("ssh-keygen")
    assert "web1" in command.check(
        [tool, "-F", "[web1]:2222", "-f", path], timeout=10, reason="find the host"
    )
    command.check([tool, "-R", "[web1]:2222", "-f", path], timeout=10, reason="forget the host")
    assert read_known_hosts([path]) == ()
