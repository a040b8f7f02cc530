"""Every failure that a person can act on: one class per person who must act.

The exit code stands on the class. `hint` is the command or the change to try next, printed on its own line.
Anything that is not a `P2VError` is a bug of ours and ends with exit code 1.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The process exit codes, a contract with scripts: a number is never reused for another meaning."""

    DONE = 0
    BUG = 1
    USAGE = 2
    PLAN_REFUSED = 3
    TRANSPORT = 4
    VERIFY = 5
    GUEST = 6
    TARGET = 7
    LICENSE = 8
    BATCH_INCOMPLETE = 9
    PROOF_FAILED = 10
    INTERRUPTED = 130
    TERMINATED = 143


class P2VError(Exception):
    """A failure with a message for a person and, where one exists, the next thing to type."""

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(P2VError):
    """The user must correct the command line or the manifest."""

    exit_code = ExitCode.USAGE


class PlanRefused(P2VError):
    """The job cannot work as asked. Nothing was touched."""

    exit_code = ExitCode.PLAN_REFUSED


class TransportError(P2VError):
    """The administrator of the source: network, login, host key, disk read."""

    exit_code = ExitCode.TRANSPORT


class ConnectionLost(TransportError):
    """The line to the source broke in the middle of something that may be tried again."""


class ReadError(TransportError):
    """A disk of the source cannot be read, at `offset` (bytes) or somewhere behind it."""

    def __init__(self, message: str, *, offset: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.offset = offset


class VerifyError(P2VError):
    """Data differs from what the source sent; the output is quarantined."""

    exit_code = ExitCode.VERIFY


class GuestError(P2VError):
    """The guest is unknown, damaged or locked."""

    exit_code = ExitCode.GUEST


class TargetError(P2VError):
    """The hypervisor's administrator: local tools, target host, disk space."""

    exit_code = ExitCode.TARGET


class LicenseError(P2VError):
    """No unit left, a bad or expired license, or a ledger that somebody changed."""

    exit_code = ExitCode.LICENSE


class BatchIncomplete(P2VError):
    """Some jobs of a batch failed; the summary says which."""

    exit_code = ExitCode.BATCH_INCOMPLETE


class ProofFailed(P2VError):
    """The virtual machine did not boot."""

    exit_code = ExitCode.PROOF_FAILED


class Terminated(BaseException):
    """SIGTERM arrived: unwind every context manager, then exit 143. No `Exception`, by intent."""
