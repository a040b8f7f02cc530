"""A machine after a lost connection: is it the same, which disk is which, who types the password again."""

from __future__ import annotations

from collections.abc import Callable

from p2v.disk.used import inspect_disk
from p2v.errors import TransportError
from p2v.model import Disk, Machine
from p2v.transports import Transport


class Rediscovery:
    """What answers now, compared with the machine that was planned.

    Raises TransportError where it is another one. `rebooted` says that it was started anew meanwhile.
    """

    def __init__(self, now: Machine, planned: Machine, transport: Transport, rebooted: bool) -> None:
        _require_same(now, planned)
        self.rebooted = rebooted
        self._disks = now.disks
        self._transport = transport

    def disk(self, planned: Disk) -> Disk:
        """The planned disk under the name that it has now. Raises TransportError where it is not there."""
        for disk in self._disks:
            if disk.size == planned.size and self._is(disk, planned):
                return disk
        raise TransportError(
            f"The source has no disk any more that is {planned.path} ({planned.identity})",
            hint="Look at what it has: p2v scan SOURCE",
        )

    def _is(self, disk: Disk, planned: Disk) -> bool:
        if planned.wwn or planned.serial:
            return (disk.wwn, disk.serial) == (planned.wwn, planned.serial)
        if not planned.table_id:
            return disk.path == planned.path
        with self._transport.open_disk(disk) as device:
            return inspect_disk(device, disk).table_id == planned.table_id


def _require_same(now: Machine, planned: Machine) -> None:
    """By the hardware's UUID, else by the system's machine-id, else by the host name."""
    ours, theirs = planned.os.machine_id if planned.os else "", now.os.machine_id if now.os else ""
    if planned.uuid and now.uuid:
        same = planned.uuid == now.uuid
    elif ours and theirs:
        same = ours == theirs
    else:
        same = planned.hostname == now.hostname
    if not same:
        raise TransportError(
            f"Another machine answers now: {now.hostname}, not {planned.hostname}",
            hint="Is the address of the source still right? Then: p2v resume RUN",
        )


class Answers:
    """Passwords and passphrases that were typed once, for the connections that are made anew at night."""

    def __init__(self, ask: Callable[[str], str] | None) -> None:
        self._ask = ask
        self._known: dict[str, str] = {}

    def start(self) -> Callable[[str], str] | None:
        """Who answers during one login: what is known once, a second time the person."""
        if self._ask is None:
            return None
        ask, fresh = self._ask, dict(self._known)

        def answer(prompt: str) -> str:
            said = fresh.pop(prompt, None)
            if said is None:
                said = ask(prompt)
            self._known[prompt] = said
            return said

        return answer
