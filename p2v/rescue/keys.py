"""Who may log in to a rescue system: public keys, in files as ssh-keygen writes them and sshd reads them."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import UsageError

KINDS = re.compile(
    r"(?:ssh-(?:ed25519|rsa)|ecdsa-sha2-nistp(?:256|384|521)|sk-(?:ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
)
DEFAULT_NAMES = ("id_ed25519", "id_ecdsa", "id_ed25519_sk", "id_ecdsa_sk", "id_rsa")
FILE_LIMIT = 256 * 1024
PRIVATE = "PRIVATE KEY-----"
HINT = "Make one with: ssh-keygen -t ed25519"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key. `line` is what sshd reads; `fingerprint` what `ssh-keygen -l` prints."""

    line: str
    fingerprint: str
    comment: str


def read_keys(paths: Sequence[Path], *, home: Path) -> tuple[PublicKey, ...]:
    """The keys of the files, or where none is named, those of the user. Raises UsageError."""
    files = paths or [path for name in DEFAULT_NAMES if (path := home / ".ssh" / f"{name}.pub").is_file()]
    if not files:
        raise UsageError(
            f"No public key was found in {home / '.ssh'}: nobody could log in to the rescue system",
            hint=f"Name one with --authorized-key FILE. {HINT}",
        )
    keys = [key for path in files for key in _read(path)]
    return tuple(dict.fromkeys(keys))


def _read(path: Path) -> list[PublicKey]:
    try:
        with path.open("rb") as opened:
            text = opened.read(FILE_LIMIT).decode("utf-8", "replace")
    except OSError as error:
        raise UsageError(f"Cannot read the public key {path}: {error.strerror}", hint=HINT) from error
    if PRIVATE in text:
        raise UsageError(
            f"{path} is a private key, which must not leave this machine",
            hint=f"Name its other half: {path}.pub",
        )
    keys = list(_keys(text, path))
    if not keys:
        raise UsageError(f"{path} holds no public key", hint=HINT)
    return keys


def _keys(text: str, path: Path) -> Iterator[PublicKey]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split(None, 2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 2 or not KINDS.fullmatch(words[0]) or not line.isprintable():
            raise UsageError(f"{path}, line {number}: no public key that begins with its kind", hint=HINT)
        yield _key(words, f"{path}, line {number}")


def _key(words: Sequence[str], place: str) -> PublicKey:
    """The blob must say the kind again (RFC 4253, 6.6): a line that was cut off or mixed up does not."""
    kind = words[0].encode()
    try:
        blob = base64.b64decode(words[1], validate=True)
    except binascii.Error:
        blob = b""
    if not blob.startswith(len(kind).to_bytes(4, "big") + kind) or len(blob) < len(kind) + 36:
        raise UsageError(f"{place}: the key is damaged", hint=HINT)
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return PublicKey(" ".join(words), f"SHA256:{digest}", words[2] if len(words) > 2 else "")
