"""paramiko without `invoke`, which it loads for `Match exec` of ssh_config and nothing else.

`invoke` brings asyncio, a YAML parser and unittest: 45 ms of each start of p2v, and a command without a time
limit. `p2v.transports` loads this module before any that needs paramiko.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from p2v import command

MATCH_SECONDS = 30.0
"""How long the command of a `Match exec` may take: it asks where the desktop is, not more."""


@dataclass(frozen=True, slots=True)
class Judgement:
    ok: bool


class Shell:
    """Stands in for `invoke`: what paramiko calls of it."""

    def run(self, words: str, *, hide: str, warn: bool) -> Judgement:
        """Whether a command of the user's own ssh_config succeeds, in their environment.

        Raises TargetError where it takes too long.
        """
        argv = ["/bin/sh", "-c", words]
        return Judgement(command.run(argv, timeout=MATCH_SECONDS, env=dict(os.environ)).code == 0)


def load() -> None:
    """Load paramiko, unless somebody has."""
    if "paramiko" in sys.modules:
        return
    sys.modules.setdefault("invoke", Shell())  # type: ignore[arg-type]
    try:
        import paramiko  # noqa: F401
    finally:
        if isinstance(sys.modules["invoke"], Shell):
            del sys.modules["invoke"]


load()
