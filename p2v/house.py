"""What a command works with: the terminal, the folder that p2v keeps, and the source while it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import platformdirs

from p2v.accelerator import AcceleratorAnswer, find_accelerator
from p2v.job import Job
from p2v.transports import HostKeyPolicy, SshOptions, Transport, open_transport
from p2v.transports.rate import RateLimit, parse_rate, parse_windows
from p2v.ui import UI


@dataclass(frozen=True, slots=True)
class House:
    """`home` holds ledger, license and cached answers; `ask_password` is None where nobody can be asked."""

    ui: UI
    home: Path
    ask_password: Callable[[str], str] | None = None

    def accelerator(self) -> AcceleratorAnswer:
        """KVM where it works; known after the first time."""
        return find_accelerator(self.home / "cache")


def default_home() -> Path:
    """`P2V_HOME`, else the user's data folder."""
    named = os.environ.get("P2V_HOME")
    return Path(named) if named else Path(platformdirs.user_data_dir("p2v"))


class Source:
    """The source of a job, reached when it is first needed and left when it is no longer."""

    def __init__(self, job: Job, house: House) -> None:
        self._job = job
        self._house = house
        self._stack = ExitStack()
        self._limit = rate_limit(job)
        self._transport: Transport | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def transport(self) -> Transport:
        """Raises UsageError, TransportError."""
        if self._transport is None:
            options = ssh_options(self._job, self._house)
            took = self._limit.take if self._limit else None
            self._transport = self._stack.enter_context(open_transport(self._job.source, options, took=took))
        return self._transport

    def close(self) -> None:
        self._transport = None
        self._stack.close()


def rate_limit(job: Job) -> RateLimit | None:
    """What the job may take of the wire, over all its disks. Raises UsageError."""
    if not job.limit and not job.limit_windows:
        return None
    return RateLimit(parse_rate(job.limit) if job.limit else None, parse_windows(job.limit_windows))


def ssh_options(job: Job, house: House) -> SshOptions:
    policy = HostKeyPolicy.ACCEPT_NEW if job.accept_new_host_key else HostKeyPolicy.REFUSE_UNKNOWN
    return SshOptions(
        identity=job.identity,
        known_hosts=job.known_hosts,
        host_key_policy=policy,
        ask_password=house.ask_password,
    )
