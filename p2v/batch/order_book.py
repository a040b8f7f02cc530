"""Which machine may start now: order, groups, windows of time, limits of hosts, and failures that stop it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from p2v.batch.manifest import Entry, Manifest


class OrderBook:
    """Machines that wait, in the order of the manifest. Not for several threads.

    `selected` are those of this batch. Of the others, `finished` tells whether an earlier one made them.
    """

    def __init__(
        self,
        manifest: Manifest,
        selected: Iterable[Entry],
        *,
        finished: Callable[[Entry], bool],
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        self._waiting = {entry.name: entry for entry in selected}
        self._members = {group.name: group.members for group in manifest.groups()}
        self._groups_of = {entry.name: entry.groups for entry in manifest.entries}
        self._left = {name: len(members) for name, members in self._members.items()}
        self._bad_groups: set[str] = set()
        self._ended: dict[str, bool] = {}
        self._hosts: Counter[str] = Counter()
        self._limits = {entry.host: manifest.host_limits(entry.host).parallel for entry in manifest.entries}
        self._now = now
        needed = {name for entry in self._waiting.values() for name in entry.needs}
        for entry in manifest.entries:
            if entry.name not in self._waiting:
                is_needed = entry.name in needed or not needed.isdisjoint(entry.groups)
                self._note(entry.name, not is_needed or finished(entry))

    def __len__(self) -> int:
        return len(self._waiting)

    def start(self) -> Entry | None:
        """The first machine that may start now, taken out; None where none may."""
        now = self._now()
        for entry in self._waiting.values():
            if self._may_start(entry, now):
                del self._waiting[entry.name]
                self._hosts[entry.host] += 1
                return entry
        return None

    def _may_start(self, entry: Entry, now: datetime) -> bool:
        limit = self._limits[entry.host] if entry.host else None
        if limit is not None and self._hosts[entry.host] >= limit:
            return False
        if entry.windows and not any(window.holds(now) for window in entry.windows):
            return False
        return all(self._has_ended(name) for name in (*entry.after, *entry.needs))

    def _has_ended(self, name: str) -> bool:
        return name in self._ended or self._left.get(name) == 0

    def end(self, entry: Entry, *, good: bool) -> None:
        """A machine that was started has ended."""
        self._hosts[entry.host] -= 1
        self._note(entry.name, good)

    def _note(self, name: str, good: bool) -> None:
        self._ended[name] = good
        for group in self._groups_of[name]:
            self._left[group] -= 1
            if not good:
                self._bad_groups.add(group)

    def hopeless(self) -> Iterator[tuple[Entry, str]]:
        """Machines, taken out, that need one which has failed, and its name; and those that need them."""
        found = True
        while found:
            found = False
            for entry in list(self._waiting.values()):
                bad = next((name for name in entry.needs if self._has_failed(name)), "")
                if bad:
                    del self._waiting[entry.name]
                    self._note(entry.name, False)
                    found = True
                    yield entry, bad

    def _has_failed(self, name: str) -> bool:
        return self._ended.get(name) is False or name in self._bad_groups

    def give_up(self) -> tuple[Entry, ...]:
        """All that wait, taken out."""
        left = tuple(self._waiting.values())
        self._waiting.clear()
        return left
