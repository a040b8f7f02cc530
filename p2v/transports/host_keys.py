"""Is the server the one the user knows? known_hosts files (sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT").

Read here and not by paramiko, whose reader drops `@revoked` lines and wildcards and fails on a damaged one.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import TransportError
from p2v.transports.ssh_config import DEFAULT_PORT, Hop, HostKeyPolicy

REVOKED = "@revoked"
HASHED = "|1|"  # HMAC-SHA1 of the name; salt and hash follow, both base64


@dataclass(frozen=True, slots=True)
class HostKey:
    """A public key as it travels: `kind` is the algorithm name inside of the blob."""

    kind: str
    blob: bytes

    @property
    def fingerprint(self) -> str:
        """What `ssh-keygen -l` prints."""
        digest = base64.b64encode(hashlib.sha256(self.blob).digest()).decode()
        return "SHA256:" + digest.rstrip("=")

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


@dataclass(frozen=True, slots=True)
class KnownKey:
    """One line of a known_hosts file."""

    names: str
    key: HostKey
    marker: str
    path: Path

    def matches(self, name: str) -> bool:
        if self.names.startswith(HASHED):
            return matches_hash(self.names, name)
        return matches_patterns(self.names, name)


def matches_hash(hashed: str, name: str) -> bool:
    salt, _, digest = hashed.removeprefix(HASHED).partition("|")
    try:
        expected = base64.b64decode(digest, validate=True)
        computed = hmac.digest(base64.b64decode(salt, validate=True), name.encode(), "sha1")
    except (binascii.Error, ValueError):
        return False
    return hmac.compare_digest(computed, expected)


def matches_patterns(patterns: str, name: str) -> bool:
    """Comma-separated names with `*` and `?`; one that starts with `!` and matches excludes the line."""
    found = False
    for pattern in patterns.lower().split(","):
        if matches_wildcards(pattern.removeprefix("!"), name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def matches_wildcards(pattern: str, name: str) -> bool:
    # No fnmatch: the brackets of [host]:port would be a character class to it.
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, name) is not None


def read_known_hosts(paths: Iterable[Path]) -> tuple[KnownKey, ...]:
    """Every usable line of the files that exist; `@cert-authority` lines are not ours to judge.

    Raises TransportError for a file that exists and cannot be read.
    """
    return tuple(known for path in paths for known in read_file(path))


def read_file(path: Path) -> Iterator[KnownKey]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise TransportError(
            f"Cannot read {path}: {error.strerror}", hint=f"Check: ls -l {shlex.quote(str(path))}"
        ) from error
    for line in lines:
        known = parse_line(line, path)
        if known is not None:
            yield known


def parse_line(line: str, path: Path) -> KnownKey | None:
    """`[marker] names type base64 [comment]`; None for a comment, a damaged line or an unused marker."""
    words = line.split()
    marker = words.pop(0) if words and words[0].startswith("@") else ""
    if len(words) < 3 or words[0].startswith("#") or marker not in ("", REVOKED):
        return None
    try:
        blob = base64.b64decode(words[2], validate=True)
    except (binascii.Error, ValueError):
        return None
    return KnownKey(words[0], HostKey(words[1], blob), marker, path)


def host_name(hop: Hop) -> str:
    """The name of a server in known_hosts: HostKeyAlias, `host`, or `[host]:port` off port 22."""
    if hop.key_alias:
        return hop.key_alias.lower()
    host = hop.host.lower()
    return host if hop.port == DEFAULT_PORT else f"[{host}]:{hop.port}"


def names_of(hop: Hop) -> tuple[str, ...]:
    """Like ssh, a key known for the host without a port also counts for its other ports."""
    own = host_name(hop)
    return (own,) if hop.key_alias or hop.port == DEFAULT_PORT else (own, hop.host.lower())


def known_kinds(known: Iterable[KnownKey], hop: Hop) -> tuple[str, ...]:
    """The key types that this server is known by: to be asked for first, or it may look unknown."""
    lines = tuple(known)
    found = [
        line.key.kind for name in names_of(hop) for line in lines if not line.marker and line.matches(name)
    ]
    return tuple(dict.fromkeys(found))


def check_host_key(known: Iterable[KnownKey], hop: Hop, key: HostKey, policy: HostKeyPolicy) -> None:
    """Return only for a server that may be trusted; a new one is written down when the policy accepts it.

    Raises TransportError for a revoked, changed, or unknown key.
    """
    lines = tuple(known)
    names = names_of(hop)
    refuse_revoked(lines, hop, key)
    if any(line.key == key and not line.marker for name in names for line in lines if line.matches(name)):
        return
    others = [line for line in lines if not line.marker and line.matches(names[0])]
    if others:
        raise changed(hop, key, others)
    if policy is not HostKeyPolicy.ACCEPT_NEW:
        raise unknown(hop, key)
    remember(hop, key)


def refuse_revoked(lines: tuple[KnownKey, ...], hop: Hop, key: HostKey) -> None:
    for line in lines:
        if line.marker == REVOKED and line.key == key and any(map(line.matches, names_of(hop))):
            raise TransportError(
                f"The host key of {hop.place} is marked as revoked in {line.path}: {key}",
                hint="Do not connect; ask the administrator of the source for its new host key",
            )


def changed(hop: Hop, key: HostKey, others: list[KnownKey]) -> TransportError:
    """Also for a server that is known by another key type: a stranger would offer exactly that."""
    same = [line for line in others if line.key.kind == key.kind] or others
    expected = ", ".join(dict.fromkeys(str(line.key) for line in same))
    name, path = shlex.quote(host_name(hop)), shlex.quote(str(same[0].path))
    return TransportError(
        f"The host key of {hop.place} has changed, or somebody answers in its place: "
        f"known is {expected}, offered was {key}",
        hint=f"Only if the source was reinstalled: ssh-keygen -R {name} -f {path}",
    )


def unknown(hop: Hop, key: HostKey) -> TransportError:
    return TransportError(
        f"The host key of {hop.place} is not known: {key}",
        hint="Compare it with `ssh-keygen -l -f /etc/ssh/ssh_host_*_key.pub` on that machine, "
        "then add --accept-new-host-key",
    )


def remember(hop: Hop, key: HostKey) -> None:
    """Append the key to the user's file: one write, so that parallel runs cannot mix their lines."""
    path = hop.known_hosts[0] if hop.known_hosts else Path("~/.ssh/known_hosts").expanduser()
    line = f"{host_name(hop)} {key.kind} {base64.b64encode(key.blob).decode()}\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        append(path, line.encode())
    except OSError as error:
        raise TransportError(
            f"Cannot add the host key of {hop.place} to {path}: {error.strerror}",
            hint="Try: --known-hosts FILE",
        ) from error


def append(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line if ends_with_newline(descriptor) else b"\n" + line)
    finally:
        os.close(descriptor)


def ends_with_newline(descriptor: int) -> bool:
    """Of an empty file and of something that cannot be read back, such as /dev/null, too."""
    with contextlib.suppress(OSError):
        size = os.fstat(descriptor).st_size
        return size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
    return True
