"""The history of the units: one line for each that was set aside, and what became of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from p2v.licensing.chain import Event, LedgerEntry
from p2v.licensing.owner import is_alive


@dataclass(frozen=True, slots=True)
class HistoryLine:
    """One unit, or one event that is about none. `event` is the latest of it, `units` what it costs.

    `began` and `ended` are UTC in ISO 8601, `ended` empty while a conversion runs; `who` began it.
    """

    event: str
    units: int
    license: str
    title: str
    machine: str
    run: str
    who: str
    began: str
    ended: str
    reason: str
    version: str


def history_lines(entries: Iterable[LedgerEntry]) -> tuple[HistoryLine, ...]:
    """The lines in the order in which they began."""
    lines: list[HistoryLine] = []
    open_lines: dict[str, int] = {}
    for entry in entries:
        if entry.event in (Event.COMMITTED, Event.RELEASED) and entry.run in open_lines:
            index = open_lines.pop(entry.run)
            lines[index] = _ended(lines[index], entry)
            continue
        if entry.event in (Event.RESERVED, Event.FREE):
            open_lines[entry.run] = len(lines)
        lines.append(_begun(entry))
    return tuple(lines)


def _begun(entry: LedgerEntry) -> HistoryLine:
    running = entry.event in (Event.RESERVED, Event.FREE)
    line = HistoryLine(
        event=entry.event.value,
        units=entry.units if entry.event is not Event.INSTALLED else 0,
        license=entry.license,
        title=entry.title,
        machine=entry.machine,
        run=entry.run,
        who=entry.who,
        began=entry.when,
        ended="" if running else entry.when,
        reason=entry.reason,
        version=entry.version,
    )
    if running and not (entry.owner and is_alive(entry.owner)):
        reason = (
            f"its process ended without an answer; the next conversion takes the unit back ({line.reason})"
        )
        return replace(line, event=Event.RELEASED.value, units=0, reason=reason)
    return line


def _ended(line: HistoryLine, entry: LedgerEntry) -> HistoryLine:
    paid = entry.event is Event.COMMITTED and entry.units > 0
    free = entry.event is Event.COMMITTED and not paid
    return replace(
        line,
        event=Event.FREE.value if free else entry.event.value,
        units=entry.units if paid else 0,
        ended=entry.when,
        reason=entry.reason,
    )
