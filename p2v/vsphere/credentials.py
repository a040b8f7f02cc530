"""A password by reference: from an environment variable, a file or a prompt, and never from the command
line.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from p2v.errors import UsageError

FILE_LIMIT = 4096
_HINT = "Try: --password env:NAME, --password file:PATH, or --password prompt"

Ask = Callable[[str], str]
"""Shows a prompt and returns what was typed, unseen."""


class PasswordKind(StrEnum):
    PROMPT = "prompt"
    ENVIRONMENT = "env"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class PasswordSource:
    """Where a password is found: `name` is that of a variable or a file."""

    kind: PasswordKind = PasswordKind.PROMPT
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else str(self.kind)


PROMPT = PasswordSource()


@dataclass(frozen=True, slots=True)
class Secret:
    """A password that does not show itself. Whoever keeps a log registers `value` as a secret there."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return "[removed]"


def parse_password(reference: str) -> PasswordSource:
    """`env:NAME`, `file:PATH` or `prompt`. Raises UsageError, which never repeats what was given."""
    kind, _, name = reference.partition(":")
    match kind:
        case "prompt" if not name:
            return PROMPT
        case "env" | "file" if name:
            return PasswordSource(PasswordKind(kind), name)
        case _:
            raise UsageError("A password is not taken from the command line, where others see it", hint=_HINT)


def read_password(source: PasswordSource, login: str, ask: Ask | None) -> Secret:
    """The password of `login`; `ask` is None where nobody can be asked. Raises UsageError."""
    match source.kind:
        case PasswordKind.ENVIRONMENT:
            value = os.environ.get(source.name, "")
        case PasswordKind.FILE:
            value = _first_line(Path(source.name))
        case PasswordKind.PROMPT:
            value = _asked(login, ask)
    if not value:
        where = str(source) if source.name else "the prompt"
        raise UsageError(f"There is no password for {login} in {where}", hint=_HINT)
    return Secret(value)


def _asked(login: str, ask: Ask | None) -> str:
    if ask is None:
        raise UsageError(f"Nobody can be asked for the password of {login}", hint=_HINT)
    return ask(f"Password of {login}: ")


def _first_line(path: Path) -> str:
    try:
        with path.expanduser().open("rb") as file:
            content = file.read(FILE_LIMIT + 1)
        if len(content) > FILE_LIMIT:
            raise UsageError(f"{path} is too large for a file with a password", hint=_HINT)
        return content.decode().split("\n")[0].rstrip("\r")
    except OSError as error:
        raise UsageError(f"Cannot read the password in {path}: {error.strerror}", hint=_HINT) from error
    except UnicodeDecodeError:
        raise UsageError(f"{path} holds something that is no text", hint=_HINT) from None
