"""Waiting for a task of vSphere, no longer than allowed."""

from __future__ import annotations

import time
from typing import Any

from p2v.errors import TargetError
from p2v.vsphere.api import asking, refusal
from p2v.vsphere.inventory import fetch_one
from p2v.vsphere.session import Session

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0


def wait_for(session: Session, task: Any, what: str) -> None:
    """Until a task succeeds. Raises TargetError when it fails or takes longer than `limits.task`."""
    limit, pause = time.monotonic() + session.limits.task, FIRST_PAUSE
    while True:
        with asking(what):
            info = fetch_one(session, task, ["info.state", "info.error"])
        match str(info.get("info.state")):
            case "success":
                return
            case "error":
                raise failure(what, info.get("info.error"))
        if time.monotonic() > limit:
            raise TargetError(f"vSphere did not {what} within {session.limits.task:.0f} s")
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)


def failure(what: str, error: Any) -> TargetError:
    """A task's error, which may be unset, as an error of ours."""
    return refusal(what, error) if error is not None else TargetError(f"vSphere did not {what}")
