"""Where an SSH source is and how the user wants it reached: the address, our options, the user's ssh_config.

`route()` turns all of it into hops, the jump hosts first. Nothing here touches the network.
"""

from __future__ import annotations

import getpass
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote

import paramiko

from p2v.errors import TransportError, UsageError

DEFAULT_PORT = 22
CONNECT_SECONDS = 15.0
KEEPALIVE_SECONDS = 15.0
MAX_JUMPS = 8
MAX_INCLUDES = 16  # nested Include lines, the limit of OpenSSH's readconf.c

FORM = "Try: ssh://[USER@]HOST[:PORT]"
HOST_PATTERN = re.compile(r"[A-Za-z0-9_.:][A-Za-z0-9_.:%-]*")
# A name that starts with "-" would be an option to a ProxyCommand.
USER_PATTERN = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@\\+$-]*")

USER_FOLDER = Path("~/.ssh")
SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
USER_KNOWN_HOSTS = "~/.ssh/known_hosts ~/.ssh/known_hosts2"
SYSTEM_KNOWN_HOSTS = "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2"
# Criteria of Match that paramiko does not know, and then takes for fulfilled.
UNJUDGED = frozenset(("localnetwork", "tagged", "command", "version", "sessiontype"))
NOBODY = "Host !*"
DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")


class HostKeyPolicy(StrEnum):
    """What to do with a host that known_hosts does not list. A changed key is refused under both."""

    REFUSE_UNKNOWN = "refuse-unknown"
    ACCEPT_NEW = "accept-new"


@dataclass(frozen=True, slots=True)
class SshAddress:
    """A source as typed. None = what the user's ssh_config says, else 22 and the local user."""

    host: str
    port: int | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class SshOptions:
    """How to reach every source of a run. Holds no password by intent: `ask_password` gets one when needed.

    `ask_password` receives the prompt and returns what was typed; None = nobody can be asked. It is called on
    the thread that opens the session. Times are seconds; `connect_timeout` None = ssh_config's or 15.
    """

    identity: Path | None = None
    known_hosts: Path | None = None
    host_key_policy: HostKeyPolicy = HostKeyPolicy.REFUSE_UNKNOWN
    connect_timeout: float | None = None
    config_file: Path | None = None
    ask_password: Callable[[str], str] | None = field(default=None, repr=False)
    keepalive: float = KEEPALIVE_SECONDS


@dataclass(frozen=True, slots=True)
class Hop:
    """One SSH server on the way, everything decided. New host keys go into the first of `known_hosts`."""

    host: str
    port: int
    user: str
    key_alias: str = ""
    known_hosts: tuple[Path, ...] = ()
    identity: Path | None = None
    identities: tuple[Path, ...] = ()
    only_identities: bool = False
    connect_timeout: float = CONNECT_SECONDS
    proxy_command: str = ""

    @property
    def place(self) -> str:
        """`host:port` for messages."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def login(self) -> str:
        """`user@host` for messages and prompts."""
        return f"{self.user}@{self.host}"


def parse_address(source: str) -> SshAddress:
    """`ssh://[user@]host[:port]`; IPv6 addresses stand in brackets.

    Raises UsageError, which never repeats the source: a password may stand in it.
    """
    scheme, separator, rest = source.partition("://")
    if scheme.lower() != "ssh" or not separator:
        raise UsageError("Not an SSH address", hint=FORM)
    user, at, place = rest.rpartition("@")
    if ":" in user:
        raise UsageError(
            "A password does not belong into an address: it would end up in histories and process lists",
            hint="Try: ssh://USER@HOST (p2v asks for the password; --identity FILE uses a key)",
        )
    host, port = split_place(place.removesuffix("/"))
    return SshAddress(host, port, checked_user(unquote(user)) if at else None)


def split_place(place: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", place)
    plain = re.fullmatch(r"([^:\[\]]*)(?::(.*))?", place)
    found = bracketed or plain
    if found is None:
        raise UsageError("Not an SSH address: an IPv6 address stands in brackets", hint="Try: ssh://[::1]:22")
    host, port = found.groups()
    if not HOST_PATTERN.fullmatch(host):
        raise UsageError("Not an SSH address: no valid host name in it", hint=FORM)
    return host, None if port is None else checked_port(port)


def checked_user(user: str) -> str:
    if not USER_PATTERN.fullmatch(user):
        raise UsageError("Not an SSH address: no valid user name in it", hint=FORM)
    return user


def checked_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536):
        raise UsageError("Not an SSH address: a port is a number from 1 to 65535", hint=FORM)
    return int(text)


def route(address: SshAddress, options: SshOptions) -> tuple[Hop, ...]:
    """The servers to pass, the source last. Raises TransportError when ssh_config cannot be used."""
    return hops_to(address, options, jumps_left=MAX_JUMPS)


def hops_to(address: SshAddress, options: SshOptions, *, jumps_left: int) -> tuple[Hop, ...]:
    found = look_up(address, options)
    hop = make_hop(address, options, found)
    jumps = parse_jumps(found.get("proxyjump", ""))
    if not jumps:
        return (hop,)
    if jumps_left < len(jumps):
        raise TransportError(
            f"More than {MAX_JUMPS} jump hosts on the way to {address.host}",
            hint=f"Check ProxyJump: ssh -G {address.host}",
        )
    # --identity is for the source. Like `ssh -J`, only the first jump host may itself need one.
    other = replace(options, identity=None)
    first = hops_to(jumps[0], other, jumps_left=jumps_left - len(jumps))
    middle = [make_hop(jump, other, look_up(jump, other), direct=True) for jump in jumps[1:]]
    return (*first, *middle, replace(hop, proxy_command=""))


def parse_jumps(value: str) -> tuple[SshAddress, ...]:
    """ProxyJump: `[user@]host[:port]` or an ssh URL, separated by commas; `none` is none."""
    if value.strip().lower() in ("", "none"):
        return ()
    jumps = [jump.strip() for jump in value.split(",")]
    try:
        return tuple(parse_address(jump if "://" in jump else f"ssh://{jump}") for jump in jumps)
    except UsageError as error:
        raise TransportError(
            f"ProxyJump in the SSH configuration is not usable: {error.message}",
            hint="Write: ProxyJump [USER@]HOST[:PORT]",
        ) from error


def make_hop(
    address: SshAddress, options: SshOptions, found: paramiko.SSHConfigDict, *, direct: bool = False
) -> Hop:
    identities = identity_files(found)
    return Hop(
        host=found["hostname"],
        port=config_port(found),
        user=found.get("user") or local_user(),
        key_alias=found.get("hostkeyalias", ""),
        known_hosts=known_hosts_files(found, options),
        identity=options.identity,
        # Like ssh: the default keys count only where nobody named one.
        identities=identities if identities or options.identity else default_identities(),
        only_identities=found.get("identitiesonly", "no").lower() == "yes",
        connect_timeout=options.connect_timeout or connect_seconds(found),
        proxy_command="" if direct else found.get("proxycommand") or "",
    )


def local_user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise TransportError("The local user has no name", hint="Try: ssh://USER@HOST") from error


def config_port(found: paramiko.SSHConfigDict) -> int:
    try:
        return checked_port(found.get("port", str(DEFAULT_PORT)))
    except UsageError as error:
        raise TransportError(
            f"Port of {found['hostname']} in the SSH configuration is not a port",
            hint=f"Check it with: ssh -G {found['hostname']}",
        ) from error


def connect_seconds(found: paramiko.SSHConfigDict) -> float:
    value = found.get("connecttimeout", "")
    return float(value) if value.isdigit() and int(value) > 0 else CONNECT_SECONDS


def identity_files(found: paramiko.SSHConfigDict) -> tuple[Path, ...]:
    names: list[str] = found.get("identityfile", [])  # type: ignore[assignment]
    return tuple(Path(name).expanduser() for name in names if name.lower() != "none")


def default_identities() -> tuple[Path, ...]:
    folder = USER_FOLDER.expanduser()
    return tuple(folder / name for name in DEFAULT_IDENTITIES)


def known_hosts_files(found: paramiko.SSHConfigDict, options: SshOptions) -> tuple[Path, ...]:
    if options.known_hosts is not None:
        return (options.known_hosts,)
    users = found.get("userknownhostsfile", USER_KNOWN_HOSTS)
    systems = found.get("globalknownhostsfile", SYSTEM_KNOWN_HOSTS)
    names = [name.replace("%d", "~") for name in (*users.split(), *systems.split())]
    return tuple(Path(name).expanduser() for name in names if name.lower() != "none")


def look_up(address: SshAddress, options: SshOptions) -> paramiko.SSHConfigDict:
    """What ssh_config says of a host; what was typed in the address comes first, also in %r and %p."""
    try:
        text = "\n".join((*typed_lines(address), *config_lines(options)))
        return paramiko.SSHConfig.from_text(text).lookup(address.host)
    # paramiko needs an optional package for `Match exec`, and lets some bad values through as these.
    except (paramiko.SSHException, ImportError, ValueError, KeyError, UnicodeError) as error:
        name = options.config_file or "~/.ssh/config"
        raise TransportError(
            f"Cannot use the SSH configuration {name}: {error}", hint=f"Check it with: ssh -G {address.host}"
        ) from error


def typed_lines(address: SshAddress) -> Iterator[str]:
    yield "Host *"
    if address.user is not None:
        yield f"User {address.user}"
    if address.port is not None:
        yield f"Port {address.port}"


def config_lines(options: SshOptions) -> Iterator[str]:
    """The user's file then the system's, or exactly the one given (as with `ssh -F`)."""
    if options.config_file is not None:
        yield from file_lines(options.config_file, USER_FOLDER)
        return
    for path, folder in ((USER_FOLDER / "config", USER_FOLDER), (SYSTEM_CONFIG, SYSTEM_CONFIG.parent)):
        if path.expanduser().exists():
            yield from file_lines(path, folder)


def file_lines(path: Path, folder: Path, depth: int = 0) -> Iterator[str]:
    """A configuration file with its Include lines replaced by what they name; paramiko knows none.

    `folder` is where relative names of Include start. After a file the enclosing block goes on.
    """
    if depth > MAX_INCLUDES:
        raise TransportError(f"Too many nested Include lines in {path}", hint="Check ~/.ssh/config")
    block = "Host *"
    yield block
    for line in read_config(path):
        words = line.replace("=", " ", 1).split(None, 1)
        keyword = words[0].lower() if words else ""
        if keyword == "include" and len(words) > 1:
            for included in included_files(words[1], folder):
                yield from file_lines(included, folder, depth + 1)
            yield block
            continue
        if keyword in ("host", "match"):
            block = NOBODY if needs_a_judge(keyword, line) else line
            yield block
        else:
            yield line


def needs_a_judge(keyword: str, line: str) -> bool:
    words = (word.lstrip("!").lower() for word in line.split())
    return keyword == "match" and not UNJUDGED.isdisjoint(words)


def read_config(path: Path) -> list[str]:
    try:
        return path.expanduser().read_text(errors="replace").splitlines()
    except OSError as error:
        raise TransportError(
            f"Cannot read the SSH configuration {path}: {error.strerror}", hint=f"Check: ls -l {path}"
        ) from error


def included_files(patterns: str, folder: Path) -> Iterator[Path]:
    for pattern in shlex.split(patterns):
        full = folder.expanduser() / Path(pattern).expanduser()
        yield from sorted(Path(full.anchor).glob(str(full.relative_to(full.anchor))))
