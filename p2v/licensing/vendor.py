"""The vendor's public keys: a license counts where one of them signed it.

They are part of the program on purpose. No variable, option or file of the user adds one; functions take
`trusted` as an argument, so that a test can sign with a key of its own. A key stays in the list while
licenses that it signed are in use.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from p2v.errors import UsageError

PUBLIC_SIZE = 32
ID_SIZE = 8


@dataclass(frozen=True, slots=True)
class VendorKey:
    """An Ed25519 public key (RFC 8032), 32 bytes."""

    public: bytes

    @property
    def id(self) -> str:
        """What names the key in a license: 16 hexadecimal digits, the start of its SHA-256."""
        return hashlib.sha256(self.public).digest()[:ID_SIZE].hex()

    @property
    def text(self) -> str:
        return base64.b64encode(self.public).decode()

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, for exactly this message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def vendor_key(text: str) -> VendorKey:
    """A key out of its base64 form, as `p2v license keygen` prints it. Raises UsageError."""
    try:
        public = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError("That is no public key: 44 characters of base64 are one") from error
    if len(public) != PUBLIC_SIZE:
        raise UsageError(f"That is no public key: it has {len(public)} bytes instead of {PUBLIC_SIZE}")
    return VendorKey(public)


TrustedKeys = tuple[VendorKey, ...]

VENDOR_KEYS: TrustedKeys = (vendor_key("fqTeUl5aoJA6vBTwIBT837qy1dESaJzkuf1BJc3z5qQ="),)
"""To add one: `p2v license keygen` on the vendor's own computer, and the line that it prints in here."""
