"""From a route to a logged-in SSH connection: dial, shake hands, check the host key, and only then log in.

Each hop is a full SSH connection inside of the one before, with its own host key check.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import paramiko

from p2v.errors import ConnectionLost, TransportError
from p2v.transports.host_keys import HostKey, check_host_key, known_kinds, read_known_hosts
from p2v.transports.ssh_auth import authenticate, printable
from p2v.transports.ssh_config import Hop, SshAddress, SshOptions, route
from p2v.transports.ssh_paramiko import WireTransport, quiet_paramiko, shut
from p2v.transports.ssh_wire import ProxyLine, Wire, close_quietly, tune_socket


@dataclass(frozen=True, slots=True)
class Connection:
    """A logged-in connection to a source, alive inside of `connect()` only."""

    transport: WireTransport
    hop: Hop


@contextlib.contextmanager
def connect(address: SshAddress, options: SshOptions) -> Iterator[Connection]:
    """A logged-in connection to a source, through its jump hosts.

    Raises ConnectionLost where there is no way to it just now, TransportError for what another try would not
    change: not an SSH server, an untrusted host key, a refused login.
    """
    quiet_paramiko()
    with contextlib.ExitStack() as stack:
        hops = route(address, options)
        transport: WireTransport | None = None
        for hop in hops:
            transport = stack.enter_context(connect_hop(hop, options, transport))
        assert transport is not None
        yield Connection(transport, hops[-1])


@contextlib.contextmanager
def connect_hop(hop: Hop, options: SshOptions, via: paramiko.Transport | None) -> Iterator[WireTransport]:
    with contextlib.ExitStack() as stack:
        line = dial(hop, via)
        # Closing twice is harmless, and the line exists before the connection that would close it.
        stack.callback(close_quietly, line.close)
        transport = WireTransport(Wire(line))
        stack.callback(shut, transport)
        known = read_known_hosts(hop.known_hosts)
        transport.prefer_key_kinds(known_kinds(known, hop))
        check_host_key(known, hop, shake_hands(transport, hop, line), options.host_key_policy)
        authenticate(transport, hop, options.ask_password)
        transport.set_keepalive(max(1, round(options.keepalive)))
        yield transport


def dial(hop: Hop, via: paramiko.Transport | None) -> socket.socket | paramiko.Channel | ProxyLine:
    if via is not None:
        return dial_through(hop, via)
    return ProxyLine(hop.proxy_command) if hop.proxy_command else dial_directly(hop)


def dial_through(hop: Hop, via: paramiko.Transport) -> paramiko.Channel:
    try:
        return via.open_channel(
            "direct-tcpip", (hop.host, hop.port), ("127.0.0.1", 0), timeout=hop.connect_timeout
        )
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise ConnectionLost(
            f"The jump host cannot reach {hop.place}: {printable(str(error))}",
            hint="Check the address as seen from the jump host, and its AllowTcpForwarding",
        ) from error


def dial_directly(hop: Hop) -> socket.socket:
    """A TCP connection. Raises TransportError with the reason a person can act on."""
    try:
        line = socket.create_connection((hop.host, hop.port), timeout=hop.connect_timeout)
    except socket.gaierror as error:
        raise ConnectionLost(
            f"No address is known for {hop.host}: {error.strerror}", hint=f"Check: getent hosts {hop.host}"
        ) from error
    except ConnectionRefusedError as error:
        raise ConnectionLost(
            f"{hop.place} refused the connection: no SSH server listens there",
            hint="Check that sshd runs on the source, and the port: ssh://HOST:PORT",
        ) from error
    except TimeoutError as error:
        raise no_answer(hop) from error
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise ConnectionLost(f"Cannot reach {hop.place}: {reason}", hint=f"Check: ping {hop.host}") from error
    tune_socket(line)
    return line


def no_answer(hop: Hop) -> ConnectionLost:
    return ConnectionLost(
        f"{hop.place} did not answer within {hop.connect_timeout:.0f} s",
        hint=f"Check address and firewall: nc -vz {hop.host} {hop.port}",
    )


def shake_hands(transport: WireTransport, hop: Hop, line: object) -> HostKey:
    """Agree on keys with the server; returns its host key, which nobody has judged yet."""
    # One limit for the banner, one for the rest, and one more for both, should bytes come one by one.
    transport.banner_timeout = hop.connect_timeout
    transport.handshake_timeout = hop.connect_timeout
    began = time.monotonic()
    try:
        transport.start_client(timeout=2 * hop.connect_timeout)
        key = transport.get_remote_server_key()
    except paramiko.SSHException as error:
        raise handshake_error(transport, hop, line, error, time.monotonic() - began) from error
    except (EOFError, OSError) as error:
        raise handshake_error(transport, hop, line, error, time.monotonic() - began) from error
    return HostKey(key.get_name(), key.asbytes())


def handshake_error(
    transport: WireTransport, hop: Hop, line: object, error: Exception, seconds: float
) -> TransportError:
    if isinstance(line, ProxyLine) and not transport.remote_version:
        said = printable(line.words()) or "it ended without a word"
        return ConnectionLost(
            f"The ProxyCommand for {hop.place} gave no connection: {said}",
            hint=f"Check it with: ssh -v {hop.login}",
        )
    if seconds >= hop.connect_timeout:
        return no_answer(hop)
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        return nothing_in_common(hop, error)
    if not transport.remote_version.startswith("SSH-"):
        return TransportError(
            f"What answers at {hop.place} is not an SSH server", hint="Check the port: ssh://HOST:PORT"
        )
    return ConnectionLost(
        f"{hop.place} broke off the SSH handshake: {printable(str(error)) or 'connection closed'}",
        hint=f"Check with: ssh -v -p {hop.port} {hop.login}",
    )


def nothing_in_common(hop: Hop, error: Exception) -> TransportError:
    said = str(error)
    old = "Try: pip install 'paramiko<5', which still speaks the SHA-1 algorithms of systems from before 2014"
    strict = "Add aes128-gcm@openssh.com to Ciphers in /etc/ssh/sshd_config on the source"
    return TransportError(
        f"{hop.place} and p2v have no SSH algorithm in common: {printable(said)}",
        hint=strict if "cipher" in said else old,
    )
