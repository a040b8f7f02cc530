"""What a command works with: the terminal, the folder that p2v keeps, and the source while it is needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import platformdirs

from p2v.accelerator import AcceleratorAnswer, find_accelerator
from p2v.disk.device import BlockDevice
from p2v.disk.salvage import SalvageDevice
from p2v.driver_shelf import DriverShelf
from p2v.guest_unlock import read_keys
from p2v.job import Job
from p2v.model import Disk, Machine
from p2v.rediscovery import Answers, Rediscovery
from p2v.retry import DEFAULT_LIMIT, Retries, parse_duration
from p2v.transports import HostKeyPolicy, SshOptions, Transport, open_transport
from p2v.transports.rate import RateLimit, parse_rate, parse_windows
from p2v.ui import UI
from p2v.vsphere.credentials import Ask, PasswordKind, parse_password, read_password
from p2v.vsphere.keyring import Keyring

KEY_PROMPT = "Passphrase for key"
"""How a question begins that is about the key file and not about the login (p2v.transports.ssh_auth)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class House:
    """`home` holds ledger, license and cached answers; `ask_password` is None where nobody can be asked.

    `limits` are shared with other jobs that run at the same time; then it is not `alone`, and what is to be
    said of the license is said once for all of them. `prepaid` is what the run of another
    process costs, which has reserved it there: the ledger of this machine is not asked then. `keyring` holds
    the passwords that were read.
    """

    ui: UI
    home: Path
    ask_password: Callable[[str], str] | None = None
    limits: tuple[RateLimit, ...] = ()
    prepaid: int | None = None
    alone: bool = True
    keyring: Keyring = field(default_factory=Keyring)

    def accelerator(self) -> AcceleratorAnswer:
        """KVM where it works; known after the first time."""
        return find_accelerator(self.home / "cache")


def default_home() -> Path:
    """`P2V_HOME`, else the user's data folder."""
    named = os.environ.get("P2V_HOME")
    return Path(named) if named else Path(platformdirs.user_data_dir("p2v"))


class Source:
    """The source of a job, reached when it is first needed and left when it is no longer.

    `drivers` are those that were brought along; they outlive `close`. A lost connection is made anew by
    `retrying`, and disks are found again then, wherever they are by now.
    """

    def __init__(self, job: Job, house: House) -> None:
        self.job = job
        self._house = house
        self._stack = ExitStack()
        own = rate_limit(job)
        self._limits = (*((own,) if own else ()), *house.limits)
        self._retry_limit = parse_duration(job.retry_for) if job.retry_for else DEFAULT_LIMIT
        self._answers = Answers(login_answers(job, house))
        self.keys = read_keys(job.luks_key_files, house.ask_password)
        self.drivers = DriverShelf(job.drivers)
        self._transport: Transport | None = None
        self._found: Rediscovery | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self.drivers:
            self._stack.__exit__(kind, error, traceback)

    def transport(self) -> Transport:
        """Raises UsageError, TransportError."""
        if self._transport is None:
            options = ssh_options(self.job, self._answers.start())
            took = self._take if self._limits else None
            self._transport = self._stack.enter_context(open_transport(self.job.source, options, took=took))
        return self._transport

    def _take(self, size: int) -> None:
        for limit in self._limits:
            limit.take(size)

    def close(self) -> None:
        self._transport = None
        self._stack.close()

    @contextmanager
    def open_disk(self, disk: Disk) -> Iterator[SalvageDevice]:
        """A planned disk, where it is now; read errors are dealt with as the job says."""
        with self.transport().open_disk(self.find(disk)) as device:
            yield self.salvage(device, disk)

    def salvage(self, device: BlockDevice, disk: Disk) -> SalvageDevice:
        """A device of the source, with read errors dealt with as the job says."""
        name = f"{disk.path} (serial {disk.serial})" if disk.serial else disk.path
        return SalvageDevice(device, name=name, fill=self.job.allow_bad_sectors)

    def find(self, disk: Disk) -> Disk:
        """A disk as the last reconnection found it: its name may have changed. Raises TransportError."""
        return self._found.disk(disk) if self._found else disk

    def retrying(self, machine: Machine, work: Callable[[], T], *, progress: Callable[[], int]) -> T:
        """The result of `work`, which is done again over a new connection when the one that it uses breaks.

        `machine` is the planned one: another one that answers is an error. `progress` tells how many bytes
        have come so far; time without any is what ends the tries. Raises whatever `work` raises,
        ConnectionLost only at the end of the tries.
        """
        retries = Retries(self._house.ui.warn, limit=self._retry_limit)
        return retries.run(work, recover=lambda: self._reconnect(machine), progress=progress)

    @property
    def rebooted(self) -> bool:
        """Whether the source was started anew between two connections of `retrying`."""
        return self._found is not None and self._found.rebooted

    def _reconnect(self, machine: Machine) -> None:
        before = self._transport.boot_id if self._transport else ""
        rebooted = self.rebooted
        self.close()
        transport = self.transport()
        survey = transport.survey()
        rebooted = rebooted or (bool(before) and before != survey.boot_id)
        self._found = Rediscovery(survey.machine, machine, transport, rebooted)


def rate_limit(job: Job) -> RateLimit | None:
    """What the job may take of the wire, over all its disks. Raises UsageError."""
    if not job.limit and not job.limit_windows:
        return None
    return RateLimit(parse_rate(job.limit) if job.limit else None, parse_windows(job.limit_windows))


def login_answers(job: Job, house: House) -> Ask | None:
    """Who answers the questions of a login: what the job refers to, else a person. Raises UsageError."""
    passphrase = parse_password(job.passphrase) if job.passphrase else None
    password = parse_password(job.password) if job.password else None
    ask = house.ask_password
    if passphrase is None and password is None:
        return ask

    def answer(prompt: str) -> str:
        reference = passphrase if prompt.startswith(KEY_PROMPT) else password
        if reference is None or reference.kind is PasswordKind.PROMPT:
            return ask(prompt) if ask else ""
        secret = read_password(reference, job.source, None).value
        house.keyring.redactor.add(secret)
        return secret

    return answer


def ssh_options(job: Job, ask_password: Callable[[str], str] | None) -> SshOptions:
    policy = HostKeyPolicy.ACCEPT_NEW if job.accept_new_host_key else HostKeyPolicy.REFUSE_UNKNOWN
    return SshOptions(
        identity=job.identity,
        known_hosts=job.known_hosts,
        host_key_policy=policy,
        ask_password=ask_password,
    )
