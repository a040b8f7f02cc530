"""The same jobs on a Dask cluster. The ledger stays here: this side looks, plans, reserves and commits; a
worker does the rest in the run directory, which all of them see under the same path.

Dask itself runs a job again elsewhere when its worker dies; the run directory says where it stood.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2v import __version__, pipeline
from p2v.atomic import LockHeld
from p2v.batch import credentials
from p2v.batch.board import Board, Cancelled, JobUI
from p2v.batch.manifest import Entry, Manifest
from p2v.batch.service import Wishes, select
from p2v.errors import ExitCode, P2VError, PlanRefused, TargetError, UsageError
from p2v.house import House, default_home
from p2v.job import Job, job_from_json
from p2v.journal import RECEIPT, read_receipt_text, to_json
from p2v.model import Receipt
from p2v.run import read_journal
from p2v.transports.rate import RateLimit, Window, parse_rate, parse_windows
from p2v.ui import UI, ProgressStyle, Volume

if TYPE_CHECKING:
    from distributed import Client, Future

RESOURCE = "conversion"
CONNECT_SECONDS = 15.0
WAKE_SECONDS = 0.5
LOCK_SECONDS = 60.0
"""How long a worker waits for one that is thought dead to let go of the run directory."""
STOP_SECONDS = 45.0
ERRORS = {int(kind.exit_code): kind for kind in P2VError.__subclasses__()}
"""The class of an error by its exit code: all that travels."""
STOP_NOTE = ".stop"
"""A file in a run directory: whoever works on it elsewhere is to end at the next block."""


@dataclass(frozen=True, slots=True)
class Share:
    """A job's part of a bandwidth budget that is divided among machines; `rate` is bytes a second."""

    rate: float | None
    windows: tuple[Window, ...] = ()

    def limit(self) -> RateLimit:
        return RateLimit(self.rate, self.windows)


@dataclass(frozen=True, slots=True)
class Order:
    """What a worker is told. `units` are reserved for it; `job` is JSON, without secrets."""

    directory: str
    units: int
    version: str
    job: str
    shares: tuple[Share, ...] = ()


@contextlib.contextmanager
def open_cluster(address: str, manifest: Manifest, wishes: Wishes) -> Iterator[tuple[Cluster, Wishes]]:
    """The cluster, and the wishes with as many jobs at a time as it has room for, unless that was said.

    Raises UsageError where a job cannot be done elsewhere, or no worker takes it; TargetError where nobody
    answers.
    """
    _require_no_person(select(manifest, wishes.only))
    with _connected(address) as client:
        slots = _slots(client)
        if not slots:
            raise UsageError(
                f"No worker at {address} has the resource {RESOURCE}",
                hint=f"Start one: dask worker {address} --nthreads 1 --resources {RESOURCE}=1",
            )
        parallel = wishes.parallel or manifest.parallel or slots
        yield (
            Cluster(client, address, manifest, _budget(manifest, wishes, min(parallel, slots))),
            replace(wishes, parallel=parallel),
        )


def _require_no_person(entries: Sequence[Entry]) -> None:
    asking = [entry.name for entry in entries if credentials.needs_person(entry)]
    if asking:
        raise UsageError(
            f"Nobody can type a password on another machine: {', '.join(asking[:10])}",
            hint="Use env:NAME or file:PATH, which each worker reads for itself",
        )


@contextlib.contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise UsageError("Dask is not installed here", hint="Try: pip install 'p2v[cluster]'") from error
    # What it has to say of lost connections comes as an error where it matters.
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, TimeoutError) as error:
        raise TargetError(
            f"No Dask scheduler answers at {address}", hint="Start one: dask scheduler --port 8786"
        ) from error
    try:
        yield client
    finally:
        client.close(timeout=CONNECT_SECONDS)  # type: ignore[no-untyped-call]


def _slots(client: Client) -> int:
    """How many jobs the workers take at a time."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(int(min(one["resources"].get(RESOURCE, 0), one["nthreads"])) for one in workers)


def _budget(manifest: Manifest, wishes: Wishes, jobs: int) -> Share | None:
    """What one of so many jobs may take of the shared budget: machines cannot share a bucket."""
    limit = wishes.limit or manifest.limit
    windows = parse_windows(manifest.limit_windows)
    if not limit and not windows:
        return None
    divided = tuple(replace(window, rate=window.rate / jobs) for window in windows)
    return Share(parse_rate(limit) / jobs if limit else None, divided)


class Cluster:
    """Makes virtual machines on the workers. `make` is for any number of threads at once."""

    def __init__(self, client: Client, address: str, manifest: Manifest, budget: Share | None) -> None:
        self._client = client
        self._address = address
        self._manifest = manifest
        self._budget = budget

    def make(self, entry: Entry, house: House) -> Receipt:
        """As `pipeline.convert`, with the work done by a worker."""
        (entry.directory / STOP_NOTE).unlink(missing_ok=True)
        return pipeline.convert_elsewhere(entry.job, house, partial(self._elsewhere, entry, house))

    def _elsewhere(self, entry: Entry, house: House, directory: Path, units: int) -> Receipt:
        order = Order(
            str(directory.absolute()),
            units,
            __version__,
            json.dumps(dict(entry.job.to_json())),
            self._shares(entry),
        )
        future = self._client.submit(
            work_on, order, key=f"p2v-{entry.name}-{uuid.uuid4().hex}", resources={RESOURCE: 1}, pure=False
        )
        try:
            answer = self._answer(future, directory, house)
        except BaseException:
            _stop(future, directory)
            raise
        return _receipt_in(answer, house)

    def _shares(self, entry: Entry) -> tuple[Share, ...]:
        host = self._manifest.host_limits(entry.host)
        own = Share(parse_rate(host.limit) / (host.parallel or 1)) if host.limit and entry.host else None
        return tuple(share for share in (self._budget, own) if share is not None)

    def _answer(self, future: Future[bytes], directory: Path, house: House) -> bytes:
        """What the worker says in the end; meanwhile, the step at which it is."""
        with house.ui.phase("On the cluster") as phase:
            while True:
                try:
                    return _bytes(future.result(timeout=WAKE_SECONDS))
                except TimeoutError:
                    phase.rename(f"On the cluster: {_step(directory)}")
                    _check(house.ui)
                except Exception as error:
                    raise TargetError(
                        f"The cluster at {self._address} did not finish it: {type(error).__name__}: "
                        f"{str(error)[:300]}",
                        hint="Look at the workers' logs; the same command again goes on where it stood",
                    ) from error


def _check(ui: UI) -> None:
    if isinstance(ui, JobUI):
        ui.check()


def _step(directory: Path) -> str:
    try:
        return read_journal(directory).next_step or "finishing"
    except UsageError:
        return "waiting"


def _bytes(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("the worker answered something else")
    return value


def _stop(future: Future[bytes], directory: Path) -> None:
    """Tell the worker, and give it the time to let go of the run directory."""
    with contextlib.suppress(Exception):
        (directory / STOP_NOTE).touch()
        future.result(timeout=STOP_SECONDS)
        (directory / STOP_NOTE).unlink(missing_ok=True)
    with contextlib.suppress(Exception):
        future.cancel()  # type: ignore[no-untyped-call]


def _receipt_in(answer: bytes, house: House) -> Receipt:
    """The receipt, or the error of the worker as if it were ours; neither is believed unseen."""
    try:
        document = json.loads(answer)
        for text in document["said"]:
            house.ui.warn(str(text))
        if document["receipt"] is not None:
            return read_receipt_text(str(document["receipt"]).encode(), where="the worker's answer")
        error = document["error"]
        kind = ERRORS.get(int(error["exit_code"]), P2VError)
        raise kind(str(error["message"]), hint=str(error["hint"]))
    except (ValueError, KeyError, TypeError) as error:
        raise TargetError("A worker gave an answer that is none", hint="Is p2v the same there?") from error


def work_on(order: Order) -> bytes:
    """What a worker does: everything of a run but looking, planning and paying. Its answer is JSON."""
    directory = Path(order.directory)
    note = directory / STOP_NOTE
    silent = Board(UI(style=ProgressStyle.NONE, volume=Volume.QUIET), 1, 1)
    ui = JobUI(silent, directory.name, _Watch(note).is_there)
    house = House(
        ui,
        default_home(),
        limits=tuple(share.limit() for share in order.shares),
        prepaid=order.units,
        alone=False,
    )
    receipt: Receipt | None = None
    error: dict[str, Any] = {}
    try:
        _require_same(order, directory)
        receipt = _work(directory, house, job_from_json(json.loads(order.job), where=directory))
    except Cancelled:
        error = {"message": "interrupted", "hint": "", "exit_code": int(ExitCode.INTERRUPTED)}
    except P2VError as failure:
        error = {"message": failure.message, "hint": failure.hint, "exit_code": int(failure.exit_code)}
    except Exception as failure:
        text = f"This is a bug in p2v: {type(failure).__name__}: {failure}"
        error = {"message": text, "hint": "", "exit_code": int(ExitCode.BUG)}
    made = to_json(RECEIPT, receipt).decode() if receipt else None
    return json.dumps({"receipt": made, "error": error, "said": ui.said}).encode()


def _require_same(order: Order, directory: Path) -> None:
    host = socket.gethostname()
    if order.version != __version__:
        raise UsageError(f"The worker on {host} has p2v {__version__}, and this is {order.version}")
    if not (directory / "run.json").exists():
        raise UsageError(
            f"The worker on {host} does not see {directory}",
            hint="The output folder must be shared, under the same path",
        )


def _work(directory: Path, house: House, job: Job) -> Receipt:
    """Waits for one that was thought dead, or is about to be."""
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return pipeline.work(directory, house, job)
        except PlanRefused as error:
            if not isinstance(error.__cause__, LockHeld) or time.monotonic() > deadline:
                raise
            time.sleep(1)


class _Watch:
    """Whether a job should end: a file says so, or nobody waits for it any more. Looks once a second."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looked = 0.0
        self._there = False
        self._wanted = _wanted()

    def is_there(self) -> bool:
        now = time.monotonic()
        if now - self._looked > 1:
            self._looked, self._there = now, self._path.exists() or not self._wanted()
        return self._there


def _wanted() -> Callable[[], bool]:
    """Tells whether the scheduler still wants the job of this thread. When the coordinator is gone it does
    not, and whoever goes on with the run must not find it taken.
    """
    try:
        from distributed import get_worker

        worker = get_worker()
        key = worker.get_current_task()
    except (ImportError, ValueError, AttributeError):
        return lambda: True  # in no worker of Dask

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state not in ("cancelled", "released", "forgotten")

    return wanted
