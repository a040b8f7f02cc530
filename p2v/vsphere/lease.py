"""The lease under which a machine is imported: waiting for it, keeping it alive, ending it either way."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from p2v.errors import P2VError, TargetError
from p2v.vsphere.api import Unreachable, asking, fault_text, vmodl
from p2v.vsphere.inventory import fetch_one
from p2v.vsphere.session import Session
from p2v.vsphere.upload import Address, parse_url

POLL_SECONDS = 0.25
JOIN_SECONDS = 5.0
SHORTEST_TIMEOUT = 10.0
"""Seconds without a sign of life after which we give up, where the server tells less or nothing."""


class Lease:
    """An `HttpNfcLease` of an import. `entity` is the machine that the server has begun."""

    def __init__(self, session: Session, ref: Any) -> None:
        self._session = session
        self._ref = ref
        self.entity: Any = None
        self.timeout = 0.0

    def wait(self) -> None:
        """Until the server has made the machine and its empty disks. Raises TargetError."""
        limit = time.monotonic() + self._session.limits.ready
        while True:
            row = fetch_one(self._session, self._ref, ["state", "error", "info"])
            if (info := row.get("info")) is not None:
                self.entity = info.entity
            match str(row.get("state")):
                case "ready" if info is not None:
                    self.timeout = float(info.leaseTimeout)
                    self._urls: Sequence[Any] = info.deviceUrl
                    return
                case "error" | "done":
                    raise TargetError(f"vSphere did not make the machine: {_why(row.get('error'))}")
            if time.monotonic() > limit:
                raise TargetError(
                    f"vSphere has not made the machine within {self._session.limits.ready:.0f} s"
                )
            time.sleep(POLL_SECONDS)

    def addresses(self, items: Sequence[Any]) -> dict[str, Address]:
        """Where each file of the import specification goes, by its name in the descriptor."""
        paths = {str(item.deviceId): item for item in items}
        found: dict[str, Address] = {}
        for url in self._urls:
            item = paths.get(str(url.importKey))
            if item is not None:
                found[str(item.path)] = parse_url(
                    str(url.url), self._session.server, str(url.sslThumbprint or ""), create=bool(item.create)
                )
        return found

    def progress(self, percent: int) -> None:
        """A sign of life. Raises TargetError when the lease is no more, Unreachable."""
        try:
            with asking("go on with the import"):
                self._ref.Progress(percent)
        except Unreachable:
            raise
        except TargetError as error:
            raise TargetError(self.reason() or error.message, hint=error.hint) from error

    def reason(self) -> str:
        """Why the server has ended the import, empty where it has not or does not say. Never fails."""
        with contextlib.suppress(TargetError):
            row = fetch_one(self._session, self._ref, ["state", "error"])
            if str(row.get("state")) == "error":
                return f"vSphere ended the import: {_why(row.get('error'))}"
        return ""

    def complete(self) -> None:
        """The machine is whole. Raises TargetError."""
        with asking("complete the import"):
            self._ref.Complete()

    def abort(self) -> None:
        """End the import; the server then removes the machine. Never fails."""
        with contextlib.suppress(TargetError, vmodl.MethodFault):
            self._ref.Abort(vmodl.fault.RequestCanceled())


def _why(error: Any) -> str:
    return fault_text(error) if error is not None else "it does not say why"


class KeepAlive:
    """Tells the server from a thread how far the upload is, so that it does not give the lease up.

    `percent` is called there. A lease that the server has ended is raised by `check`, in the thread that
    uploads. A line that is broken for a moment is not a reason to end.
    """

    def __init__(self, lease: Lease, percent: Callable[[], int], pause: float) -> None:
        self._lease = lease
        self._percent = percent
        self._pause = pause
        self._patience = max(lease.timeout, SHORTEST_TIMEOUT)
        self._failure: P2VError | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vsphere-keep-alive", daemon=True)

    def __enter__(self) -> KeepAlive:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=JOIN_SECONDS)  # it may wait for an answer that does not come

    def check(self) -> None:
        """Raises what has ended the lease."""
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        heard = time.monotonic()
        while not self._stop.wait(self._pause) and self._failure is None:
            try:
                self._lease.progress(self._percent())
                heard = time.monotonic()
            except Unreachable as error:
                if time.monotonic() - heard > self._patience:
                    self._failure = error
            except P2VError as error:
                self._failure = error
