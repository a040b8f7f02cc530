"""A session with a vCenter or an ESXi host: from the address to being logged in, and out again."""

from __future__ import annotations

import contextlib
import re
import ssl
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from p2v.errors import TargetError
from p2v.vsphere.api import (
    PATH,
    Connection,
    Stub,
    Unreachable,
    asking,
    connection_error,
    known_versions,
    printable,
    refusal,
    vim,
    vmodl,
)
from p2v.vsphere.credentials import Secret
from p2v.vsphere.settings import Limits, Server
from p2v.vsphere.trust import make_context

VERSIONS_LIMIT = 64 * 1024
_VERSION = re.compile(r"[0-9A-Za-z.]{1,40}")


class Session:
    """A logged-in user. `content` is the `ServiceContent` of the server; closing logs out."""

    def __init__(self, server: Server, secret: Secret, limits: Limits) -> None:
        self.server = server
        self.limits = limits
        self.context = make_context(server.ca_file, server.thumbprint)
        self._secret = secret
        version = negotiate(server, self.context, limits.connect)
        self._stub = Stub(server.host, server.port, self.context, version, limits.call)
        with asking("show itself"):
            self.content: Any = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()

    @property
    def product(self) -> str:
        """`VMware vCenter Server 8.0.2 build-…`."""
        return printable(str(self.content.about.fullName))

    def log_in(self) -> None:
        """Raises TargetError for a wrong user or password, and when the server does not answer."""
        login = f"{self.server.user} on {self.server.host}"
        try:
            self.content.sessionManager.Login(self.server.user, self._secret.value, "en")
        except vim.fault.InvalidLogin:
            raise TargetError(
                f"Wrong user or password: {login}",
                hint="vCenter wants the user with its domain: --user administrator@vsphere.local",
            ) from None
        except vmodl.MethodFault as fault:
            raise refusal(f"log in {login}", fault) from None

    def log_in_again(self) -> None:
        """After the server came back: a session that still lives is kept. Raises TargetError."""
        with contextlib.suppress(vmodl.MethodFault):
            if self.content.sessionManager.currentSession is not None:
                return
        self.log_in()

    def log_out(self) -> None:
        """Never fails: a session that stays behind ends by itself."""
        with contextlib.suppress(vmodl.MethodFault, TargetError):
            self.content.sessionManager.Logout()
        self._stub.DropConnections()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def open_session(server: Server, secret: Secret, limits: Limits) -> Iterator[Session]:
    """A session that is logged out at the end of the block.

    Raises UsageError (CA file, thumbprint), CertificateRefused, Unreachable, TargetError (login).
    """
    session = Session(server, secret, limits)
    session.log_in()
    try:
        yield session
    finally:
        session.log_out()


def negotiate(server: Server, context: ssl.SSLContext, seconds: float) -> str:
    """The newest version of the API that both sides know, by pyvmomi's name.

    Raises CertificateRefused, Unreachable, TargetError.
    """
    document = _get_versions(server, context, seconds)
    offered = {number for number in _versions(document, server) if _VERSION.fullmatch(number)}
    for name, number in known_versions():
        if number in offered:
            return name
    raise TargetError(
        f"{server.host} speaks no version of vSphere's API that is known here: {sorted(offered)}"
    )


def _get_versions(server: Server, context: ssl.SSLContext, seconds: float) -> bytes:
    """`vimServiceVersions.xml`, which servers show before a login."""
    connection = Connection(server.host, server.port, timeout=seconds, context=context)
    try:
        connection.request("GET", f"{PATH}/vimServiceVersions.xml")
        response = connection.getresponse()
        if response.status != 200:
            raise Unreachable(
                f"{server.host} port {server.port} is no vSphere server, or is still starting: it answered "
                f"{response.status} {printable(response.reason)}"
            )
        return response.read(VERSIONS_LIMIT)
    except (OSError, HTTPException) as error:
        raise connection_error(server.host, server.port, error) from error
    finally:
        connection.close()


def _versions(document: bytes, server: Server) -> list[str]:
    try:
        root = ET.fromstring(document)
    except (ET.ParseError, ValueError):
        raise TargetError(f"{server.host} port {server.port} is no vSphere server") from None
    return [(element.text or "").strip() for element in root.iter("version")]
