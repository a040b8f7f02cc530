"""One object by its name: the only one there is, the one that was named, or a refusal that lists them."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from p2v.errors import PlanRefused
from p2v.vsphere.inventory import Row, path_of, shown_names
from p2v.vsphere.session import Session


@dataclass(frozen=True, slots=True)
class Kind:
    """What is chosen, for messages: `datastore`, `that cluster 'C0' reaches`, `--datastore`.

    `prefix` is what stands before the name in the option.
    """

    what: str
    where: str
    option: str
    prefix: str = ""

    def hint(self, name: str) -> str:
        return f"Try: {self.option} {shlex.quote(self.prefix + name)}"


def choose(session: Session, kind: Kind, wanted: str, rows: Sequence[Row]) -> Row:
    """The object that `wanted` names, by name or by the end of its path; empty = the only one.

    Raises PlanRefused.
    """
    if not wanted:
        return _only(kind, rows)
    named = [row for row in rows if row.name == wanted] or _by_path(session, wanted, rows)
    if not named:
        raise _missing(kind, wanted, rows)
    if len(named) > 1:
        paths = sorted(path_of(session, row) for row in named)
        raise PlanRefused(
            f"{wanted!r} is the name of more than one {kind.what} {kind.where}: {', '.join(paths)}",
            hint=kind.hint(paths[0]),
        )
    return named[0]


def _missing(kind: Kind, wanted: str, rows: Sequence[Row]) -> PlanRefused:
    """The refusal of a name that nothing has, with the nearest and all others."""
    lower = {row.name.lower(): row.name for row in rows}
    near = difflib.get_close_matches(wanted.rpartition("/")[2].lower(), list(lower), n=1, cutoff=0.5)
    return PlanRefused(
        f"There is no {kind.what} {wanted!r} {kind.where}; there are: {shown_names(rows)}",
        hint=kind.hint(lower[near[0]]) if near else "",
    )


def _only(kind: Kind, rows: Sequence[Row]) -> Row:
    if len(rows) == 1:
        return rows[0]
    if not rows:
        raise PlanRefused(f"There is no {kind.what} {kind.where}, or this user may not see any")
    raise PlanRefused(
        f"There is more than one {kind.what} {kind.where}; say which: {shown_names(rows)}",
        hint=kind.hint(min(row.name for row in rows)),
    )


def _by_path(session: Session, wanted: str, rows: Sequence[Row]) -> list[Row]:
    """Rows whose full path ends as `wanted` says; only those with the right last name are asked for it."""
    if "/" not in wanted:
        return []
    last, end = wanted.rstrip("/").rpartition("/")[2], "/" + wanted.strip("/")
    return [row for row in rows if row.name == last and path_of(session, row).endswith(end)]
