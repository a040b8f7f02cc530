"""One disk to the address that a lease gives for it: HTTPS, in blocks, with every part limited in time."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from typing import IO
from urllib.parse import urlsplit

from p2v.errors import TargetError, VerifyError
from p2v.model import KiB
from p2v.vsphere.api import Unreachable, connection_error, printable
from p2v.vsphere.descriptor import Part
from p2v.vsphere.settings import HTTPS_PORT, Limits, Server, Uploaded
from p2v.vsphere.trust import pinned

BLOCK = 512 * KiB
STREAM_VMDK = "application/x-vnd.vmware-streamVmdk"

Took = Callable[[int], None]
"""Called before each block with its bytes: counts, delays, or raises to end the upload."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file goes. `thumbprint` is that of the host's certificate as the lease tells it, or empty.

    `create` is set for files that are no disks, which want another method.
    """

    host: str
    port: int
    path: str
    thumbprint: str = ""
    create: bool = False


def parse_url(url: str, server: Server, thumbprint: str, *, create: bool) -> Address:
    """The address in a lease; the host `*` stands for the server itself, at the port that reached it.

    Raises TargetError for anything that is not HTTPS.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or HTTPS_PORT
    except ValueError:
        host, port = "", 0
    if not host or parts.scheme != "https" or parts.username is not None:
        raise TargetError(f"vSphere gave an address for the upload that is not HTTPS: {printable(url)}")
    if host == "*":
        host, port = server.host, server.port
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    return Address(host, port, path, thumbprint, create)


def send(part: Part, to: Address, trust: ssl.SSLContext, limits: Limits, took: Took) -> Uploaded:
    """Upload one file. The host is believed by its thumbprint, without one as the server is (`trust`).

    Raises CertificateRefused, Unreachable, TargetError (refused, or the file changed), VerifyError, and what
    `took` raises.
    """
    context = pinned(to.thumbprint) if to.thumbprint else trust
    connection = HTTPSConnection(to.host, to.port, timeout=limits.connect, context=context)
    try:
        with part.path.open("rb") as file:
            _start(connection, part, to, limits)
            digest = _send_body(connection, file, part, took)
            _settle(connection, part, limits.answer)
    except (ConnectionError, ssl.SSLEOFError) as error:
        # A host that refuses a disk often says why before it closes the line.
        _settle_early(connection, part)
        raise _failed(to, error) from error
    except (OSError, HTTPException) as error:
        raise _failed(to, error) from error
    finally:
        connection.close()
    if part.sha256 and digest != part.sha256.lower():
        raise VerifyError(f"{part.path} is not the file that was written: its SHA-256 is {digest}")
    return Uploaded(part.id, part.size, digest)


def _start(connection: HTTPSConnection, part: Part, to: Address, limits: Limits) -> None:
    connection.connect()
    connection.sock.settimeout(limits.block)
    connection.putrequest("PUT" if to.create else "POST", to.path, skip_accept_encoding=True)
    connection.putheader("Content-Type", "application/octet-stream" if to.create else STREAM_VMDK)
    connection.putheader("Content-Length", str(part.size))
    if to.create:
        connection.putheader("Overwrite", "t")
    connection.endheaders()


def _send_body(connection: HTTPSConnection, file: IO[bytes], part: Part, took: Took) -> str:
    """Exactly as many bytes as were promised; their SHA-256."""
    digest, left = hashlib.sha256(), part.size
    while left:
        block = file.read(min(BLOCK, left))
        if not block:
            raise TargetError(f"{part.path} became shorter while it was uploaded")
        took(len(block))
        connection.send(block)
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _settle(connection: HTTPSConnection, part: Part, seconds: float) -> None:
    """What the host says to the whole file. Raises TargetError."""
    if connection.sock is not None:
        connection.sock.settimeout(seconds)
    response = connection.getresponse()
    if response.status not in (200, 201, 204):
        said = printable(response.read(2 * KiB).decode("utf-8", "replace"))
        why = f"{response.status} {printable(response.reason)} {said}".strip()
        raise TargetError(f"{connection.host} did not take {part.href}: {why}")


def _failed(to: Address, error: Exception) -> TargetError:
    """The disks go to an ESXi host itself, which a firewall may hide where it shows vCenter."""
    failure = connection_error(to.host, to.port, error)
    if isinstance(failure, Unreachable):
        failure.hint = f"The disks go to {to.host} itself; this machine must reach it. {failure.hint}"
    return failure


def _settle_early(connection: HTTPSConnection, part: Part) -> None:
    with contextlib.suppress(OSError, HTTPException):
        _settle(connection, part, 5.0)
