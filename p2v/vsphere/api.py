"""The only door to pyvmomi: its types, a stub with limits, and its faults as our errors.

pyvmomi makes its classes at run time and its annotations cover only part of them, so that `vim` and `vmodl`
are untyped here; what leaves this package is typed.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any
from xml.parsers.expat import ExpatError

import pyVmomi
from pyVmomi.SoapAdapter import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from p2v.errors import P2VError, TargetError
from p2v.model import MiB
from p2v.vsphere.trust import untrusted

ANSWER_LIMIT = 256 * MiB
"""Bytes of one answer: the inventory of a large datacenter is some tens of MiB of XML."""
TEXT_LIMIT = 400
PATH = "/sdk"

_types: Any = pyVmomi
vim: Any = _types.vim
vmodl: Any = _types.vmodl


class Unreachable(TargetError):
    """The server does not answer, or not in time; what it did with the last request is not known."""


class NotThere(TargetError):
    """The object has left the inventory."""


def printable(text: str) -> str:
    """What a server says, for a message: printable, on one line and not endless."""
    words = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return words if len(words) <= TEXT_LIMIT else words[:TEXT_LIMIT] + "…"


class _BoundedResponse(HTTPResponse):
    """A server that never stops answering does not fill the memory."""

    _taken = 0

    def read(self, amt: int | None = None) -> bytes:
        data = super().read(ANSWER_LIMIT + 1 if amt is None else amt)
        self._taken += len(data)
        if self._taken > ANSWER_LIMIT:
            raise HTTPException("the answer is too long")
        return data


class Connection(HTTPSConnection):
    """HTTPS with a limit on answers."""

    response_class = _BoundedResponse


class Stub(SoapStubAdapter):
    """pyvmomi's transport. Faults of the API pass as they are; everything else becomes an error of ours.

    `seconds` is for connecting and for each part of an answer. Safe for several threads.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, version: str, seconds: float) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            host=host,
            port=port,
            path=PATH,
            version=version,
            sslContext=context,
            httpConnectionTimeout=seconds,
            acceptCompressedResponses=False,  # what inflates without a bound
        )
        # Declared with the class of another kind of connection; any with the same constructor will do.
        self.scheme: Any = Connection
        self.where = host, port

    def InvokeMethod(self, mo: object, info: object, args: object, outerStub: object = None) -> object:
        """One request and its answer. Raises faults of the API, CertificateRefused, Unreachable,
        TargetError.
        """
        host, port = self.where
        try:
            return super().InvokeMethod(mo, info, args, outerStub)  # type: ignore[no-untyped-call]
        except (P2VError, vmodl.MethodFault):
            raise
        except (OSError, HTTPException) as error:
            raise connection_error(host, port, error) from error
        except (ExpatError, LookupError, ValueError, TypeError, AttributeError) as error:
            # Whatever pyvmomi stumbles over in an answer that is none.
            raise TargetError(
                f"{host} answered with something that is not vSphere's: {printable(str(error))}"
            ) from error


def connection_error(host: str, port: int, error: Exception) -> TargetError:
    """What a failed connection means for a person."""
    match error:
        case ssl.SSLCertVerificationError():
            return untrusted(host, port, error)
        case TimeoutError():
            return Unreachable(f"{host} port {port} did not answer in time", hint=_reach(host, port))
        case _:
            return Unreachable(
                f"The connection to {host} port {port} failed: {printable(str(error) or repr(error))}",
                hint=_reach(host, port),
            )


def _reach(host: str, port: int) -> str:
    return f"Try: openssl s_client -connect {host}:{port}"


def known_versions() -> list[tuple[str, str]]:
    """pyvmomi's versions of the API, newest first: its own name, and the number that servers tell."""
    names: list[str] = GetServiceVersions("vim25")  # type: ignore[no-untyped-call]
    return [(name, versionIdMap[name]) for name in names if versionIdMap.get(name)]


def fault_text(fault: Any) -> str:
    """What a fault says: its message in the server's words, else its type."""
    kind = type(fault).__name__.rpartition(".")[2]
    message = printable(str(getattr(fault, "msg", "") or ""))
    return f"{message} ({kind})" if message else kind


@contextlib.contextmanager
def asking(what: str) -> Iterator[None]:
    """Faults of the API inside the block become TargetError: `what` completes "vSphere did not …"."""
    try:
        yield
    except vmodl.MethodFault as fault:
        raise refusal(what, fault) from fault


def refusal(what: str, fault: Any) -> TargetError:
    """A fault as an error with the next thing to try."""
    match type(fault).__name__.rpartition(".")[2]:
        case "NoPermission":
            privilege = printable(str(getattr(fault, "privilegeId", "") or ""))
            return TargetError(
                f"vSphere did not {what}: the user lacks the privilege {privilege or 'for it'}",
                hint="Its administrator grants that in a role on the objects that are named",
            )
        case "RestrictedVersion":
            return TargetError(
                f"vSphere did not {what}: the license of this host does not allow it",
                hint="The free license of ESXi is read-only for programs; import the OVA by hand instead",
            )
        case "ManagedObjectNotFound":
            return NotThere(f"vSphere did not {what}: it is no longer there")
        case "NotAuthenticated":
            return TargetError(f"vSphere did not {what}: it ended the session")
        case _:
            return TargetError(f"vSphere did not {what}: {fault_text(fault)}")
