"""The log of a run: one JSON object a line, with secrets taken out before anything reaches the disk."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

MESSAGE_LIMIT = 16_000
"""Characters of one message: what a hostile source says must not fill the disk through the log."""

REMOVED = "[removed]"
# PEM (RFC 7468) and OpenSSH private keys, also where the end of the block was cut off.
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.S
)
# PuTTY's own format, PPK versions 2 and 3.
PUTTY_KEY = re.compile(r"PuTTY-User-Key-File-\d.*?(?:Private-MAC: *[0-9a-fA-F]*|\Z)", re.S)


def shown(text: str) -> str:
    """What a source says of itself, for one line of a message: printable, and at most 80 characters."""
    return "".join(char if char.isprintable() else "?" for char in text)[:80]


class Redactor:
    """Takes registered secrets, and whatever looks like a private key, out of a text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def add(self, secret: str) -> None:
        """Register a secret, and the forms in which URLs, `repr` and JSON would show it."""
        forms = {secret, quote(secret, safe=""), repr(secret)[1:-1], json.dumps(secret)[1:-1]}
        self._secrets |= {form for form in forms if form}

    def clean(self, text: str) -> str:
        # The longest first: a secret that is part of another one must not leave the rest of that one behind.
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, REMOVED)
        return PUTTY_KEY.sub(REMOVED, PRIVATE_KEY.sub(REMOVED, text))


class _Lines(logging.Formatter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        message = record.getMessage()
        if record.exc_info:
            message += "\n" + self.formatException(record.exc_info)
        # Cleaned before it is cut, or half a secret would stay at the edge.
        message = self._redactor.clean(message)[:MESSAGE_LIMIT]
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        return json.dumps({"time": when, "level": record.levelname.lower(), "message": message})


class _LogFile(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk must not end a run, nor print a traceback, through its log."""


@contextlib.contextmanager
def open_log(path: Path, redactor: Redactor) -> Iterator[logging.Logger]:
    """A logger that appends to `path`, known to nobody else in the process. Raises OSError."""
    handler = _LogFile(path, mode="a", encoding="utf-8")
    handler.setFormatter(_Lines(redactor))
    logger = logging.Logger("p2v.run", logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield logger
    finally:
        with contextlib.suppress(OSError):
            handler.close()
