"""Which certificate is believed: one that the system's or the user's CAs vouch for, or exactly one.

There is no way to skip it. A pinned certificate is compared on every connection, before a byte is sent;
pyvmomi itself looks at a thumbprint only where the CAs have refused.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import ssl
from pathlib import Path

from p2v.errors import TargetError, UsageError

_LOOK_SECONDS = 10.0
_DIGESTS = {40: "sha1", 64: "sha256"}
"""Hexadecimal digits of a thumbprint: vSphere itself still shows SHA-1 in places."""


class CertificateRefused(TargetError):
    """The other side did not prove to be who it should be."""


def parse_thumbprint(text: str) -> str:
    """Lower-case hexadecimal of a SHA-256 or SHA-1 thumbprint, with or without colons. Raises UsageError."""
    digits = re.sub(r"[:\s]", "", re.sub(r"^sha-?(1|256)[:=]", "", text.strip(), flags=re.IGNORECASE)).lower()
    if len(digits) not in _DIGESTS or not re.fullmatch(r"[0-9a-f]+", digits):
        raise UsageError(
            f"{text!r} is not a thumbprint: that is 64 hexadecimal digits (SHA-256) or 40 (SHA-1)",
            hint="Try: openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE",
        )
    return digits


def thumbprint_of(certificate: bytes, digits: int = 64) -> str:
    """The thumbprint of a DER certificate in `digits` hexadecimal digits."""
    return hashlib.new(_DIGESTS[digits], certificate).hexdigest()


def with_colons(digits: str) -> str:
    """`AB:CD:…`, as consoles and browsers show it."""
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


class PinnedContext(ssl.SSLContext):
    """Trusts one certificate and no other, whoever signed it."""

    thumbprint: str

    def wrap_socket(  # noqa: PLR0917 (the base class has them)
        self,
        sock: socket.socket,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLSocket:
        """As the base class, and the certificate is compared before the socket is handed out."""
        wrapped = super().wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname, session
        )
        seen = wrapped.getpeercert(binary_form=True) or b""
        if not hmac.compare_digest(thumbprint_of(seen, len(self.thumbprint)), self.thumbprint):
            wrapped.close()
            raise wrong_thumbprint(str(server_hostname), self.thumbprint, seen)
        return wrapped


def wrong_thumbprint(host: str, wanted: str, seen: bytes) -> CertificateRefused:
    """The error for a certificate that is not the pinned one."""
    return CertificateRefused(
        f"The certificate of {host} is not the one with the thumbprint {with_colons(wanted)}",
        hint="Its thumbprint is "
        + with_colons(thumbprint_of(seen, len(wanted)))
        + ". If its administrator confirms that, try: --thumbprint with this one",
    )


def pinned(thumbprint: str) -> ssl.SSLContext:
    """A context for the certificate with this thumbprint. Raises UsageError."""
    context = PinnedContext(ssl.PROTOCOL_TLS_CLIENT)
    context.thumbprint = parse_thumbprint(thumbprint)
    # What replaces both is stricter: the certificate is a single one.
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def make_context(ca_file: Path | None, thumbprint: str) -> ssl.SSLContext:
    """How a server is verified: its thumbprint, else the CAs in `ca_file`, else the system's. UsageError."""
    if thumbprint:
        return pinned(thumbprint)
    try:
        return ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"Cannot use the CA certificates in {ca_file}: {error}") from error


def untrusted(host: str, port: int, error: ssl.SSLCertVerificationError) -> CertificateRefused:
    """The error for a certificate that no CA vouches for; the hint has the thumbprint that was seen."""
    seen = _look(host, port)
    shown = f"Its SHA-256 thumbprint is {with_colons(thumbprint_of(seen))}. " if seen else ""
    return CertificateRefused(
        f"The certificate of {host} is not trusted: {error.verify_message or error}",
        hint=f"{shown}If its administrator confirms that, try: --thumbprint with it, or --ca-file FILE "
        "with the CA of the server",
    )


def _look(host: str, port: int) -> bytes:
    """The certificate that a server shows, only to be shown; nothing else is sent to it or believed of it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection((host, port), timeout=_LOOK_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            return wrapped.getpeercert(binary_form=True) or b""
    except OSError:
        return b""
