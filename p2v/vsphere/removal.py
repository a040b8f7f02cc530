"""Nothing stays behind: an import that did not end well is aborted and its machine removed."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from typing import Any

from p2v.errors import PlanRefused, TargetError
from p2v.ui import UI
from p2v.vsphere.api import NotThere, asking, printable
from p2v.vsphere.inventory import fetch_one, find_machine
from p2v.vsphere.lease import Lease
from p2v.vsphere.session import Session
from p2v.vsphere.tasks import wait_for

PAUSE_SECONDS = 0.5


@dataclass(slots=True)
class Begun:
    """How far an import came. `unsure`: the server was asked to begin, and what it did is not known."""

    lease: Lease | None = None
    unsure: bool = False


def clean(session: Session, begun: Begun, instance_uuid: str, ui: UI, what: str) -> None:
    """End the lease and remove its machine; what cannot be removed is told as a warning. Raises nothing.

    Without a lease the machine is known by the UUID that it was to have, which no other one has.
    """
    limit, problem = time.monotonic() + session.limits.cleanup, "it does not go away"
    patience = time.monotonic() + (session.limits.lost if begun.unsure else 0.0)
    gone = False
    try:
        while not gone and time.monotonic() < limit:
            try:
                session.log_in_again()
                last = time.monotonic() >= patience
                gone = _remove_once(session, begun.lease, instance_uuid, last=last)
            except TargetError as error:
                problem = error.message
            if not gone:
                time.sleep(PAUSE_SECONDS)
    finally:
        # A second Ctrl-C comes past here too.
        if not gone:
            ui.warn(
                f"{what} may have been left behind, half made ({problem}). A lease that nobody renews ends "
                "by itself and takes the machine along; look for it, and delete it if it is there"
            )


def _remove_once(session: Session, lease: Lease | None, instance_uuid: str, *, last: bool) -> bool:
    """Whether nothing is left; `last` = a machine that has not appeared by now will not.

    Raises TargetError when that is not known or did not work.
    """
    if lease is not None:
        lease.abort()
    entity = lease.entity if lease is not None else None
    if entity is None:
        entity = find_machine(session, instance_uuid)
    if entity is None:
        return last
    # Removed by the server while we ask for it is as good.
    with contextlib.suppress(NotThere):
        _destroy(session, entity)
    return True


def remove_leftover(session: Session, instance_uuid: str, ui: UI) -> None:
    """Remove what a killed import has left, known by its instance UUID.

    The server may hold it until it has given up the lease of that import. Raises TargetError where it stays,
    and where it runs: somebody uses it by now.
    """
    limit = time.monotonic() + session.limits.leftover
    while (entity := find_machine(session, instance_uuid)) is not None:
        try:
            _refuse_running(session, entity)
            ui.say("Removing what an import that was killed has left")
            _destroy(session, entity)
        except NotThere:
            return
        except TargetError:
            if time.monotonic() > limit:
                raise
            time.sleep(PAUSE_SECONDS)


def _refuse_running(session: Session, entity: Any) -> None:
    row = fetch_one(session, entity, ["name", "runtime.powerState"])
    if str(row.get("runtime.powerState")) == "poweredOn":
        raise PlanRefused(
            f"{printable(row.name)} of an earlier import that was interrupted is there, and runs",
            hint="If it is not needed, power it off and try again",
        )


def _destroy(session: Session, entity: Any) -> None:
    """Raises NotThere when it has gone already, TargetError."""
    state = fetch_one(session, entity, ["runtime.powerState"]).get("runtime.powerState")
    with asking("remove the machine"):
        if str(state) == "poweredOn":
            wait_for(session, entity.PowerOffVM_Task(), "power the machine off")
        wait_for(session, entity.Destroy_Task(), "remove the machine")
