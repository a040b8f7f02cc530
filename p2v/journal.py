"""What is kept of a run between two processes, as JSON: the border between frozen values and text.

Everything that comes in is hostile until it has been checked: a file may be cut short, newer than this
program, or edited by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError

from p2v.errors import UsageError
from p2v.model import CaptureStats, Conversion, Disk, Image, Plan, Proof, Receipt, Step, Unreadable

FORMAT = 1
"""Version of run.json. A reader refuses what is newer than itself."""

MEASURED = frozenset(
    {
        "source", "used", "data_size", "units", "warnings", "findings", "names", "addresses", "mounted",
        "unknown_users", "consistency", "consistency_wish", "freeze_limit", "groups", "volumes", "unguarded",
        "place",
    }
)  # fmt: skip
"""Fields of a plan that change while the machine stays the same: where it was reached, what it measures
anew, how its copy is made.
"""

ABSENT = "absent"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Journal:
    """The content of run.json. `order` are the steps that the run was made for, `steps` those that are done.

    `created` is UTC in ISO 8601, `version` that of the p2v which made the run, `job` what a resume needs to
    know.
    """

    format: int
    id: str
    name: str
    created: str
    version: str
    job: Mapping[str, JsonValue]
    plan: Plan
    order: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    def done(self, name: str) -> Step | None:
        return next((step for step in self.steps if step.name == name), None)

    @property
    def next_step(self) -> str:
        """The first planned step that is not done; empty where all are."""
        return next((name for name in self.order if self.done(name) is None), "")


JOURNAL = TypeAdapter(Journal)
RECEIPT = TypeAdapter(Receipt)
IMAGES = TypeAdapter(tuple[Image, ...])
STATS = TypeAdapter(CaptureStats)
UNREADABLE = TypeAdapter(tuple[Unreadable, ...])
CONVERSIONS = TypeAdapter(tuple[Conversion, ...])
PROOF = TypeAdapter(Proof)


def step_name(what: str, *plans: Plan) -> str:
    """`convert:libvirt+vmware-esx8`: the name of a step for the platforms of these plans."""
    return f"{what}:{'+'.join(plan.platform.label for plan in plans)}"


def to_json(adapter: TypeAdapter[T], value: T) -> bytes:
    """Indented JSON. Raises UsageError for text that no JSON can hold (names that are not Unicode)."""
    try:
        return adapter.dump_json(value, indent=2) + b"\n"
    except PydanticSerializationError as error:
        raise UsageError(f"Cannot keep the run as JSON: {error}") from error


class Versioned(Protocol):
    """A file that says which version of its form it has."""

    @property
    def format(self) -> int: ...


V = TypeVar("V", bound=Versioned)


def read_journal_text(content: bytes, *, where: str) -> Journal:
    """Parse run.json. Raises UsageError for anything that is not a whole journal of a known format."""
    return read_versioned(JOURNAL, FORMAT, content, where=where)


def read_versioned(adapter: TypeAdapter[V], known: int, content: bytes, *, where: str) -> V:
    """Parse a file of the format `known`. Raises UsageError for anything that is not a whole one."""
    kept = _format_of(content)
    if kept is not None and kept > known:
        raise UsageError(
            f"{where} was written by a newer p2v (format {kept}; this one knows {known})",
            hint="Upgrade p2v, or start a new run with another --name",
        )
    value = read_kept(adapter, content, where=where)
    if value.format != known:
        raise _damaged(where, f"format: there is none with the number {value.format}")
    return value


def read_note(adapter: TypeAdapter[T], path: Path) -> T:
    """What a finished step wrote down for later ones. Raises UsageError where it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"Cannot read {path}: {error.strerror}", hint="Start a new run with another --name"
        ) from error
    return read_kept(adapter, content, where=str(path))


def read_receipt_text(content: bytes, *, where: str) -> Receipt:
    """Parse receipt.json. Raises UsageError for anything that is not a whole receipt."""
    return read_kept(RECEIPT, content, where=where)


def _format_of(content: bytes) -> int | None:
    """The format number alone, so that a newer file is called newer and not damaged."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    number = value.get("format") if isinstance(value, dict) else None
    return number if isinstance(number, int) else None


def read_kept(adapter: TypeAdapter[T], content: bytes, *, where: str) -> T:
    """Parse a file of a run. Raises UsageError where it is damaged."""
    try:
        return adapter.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise _damaged(where, f"{place[:80]}: {first['msg']}") from error


def _damaged(where: str, what: str) -> UsageError:
    return UsageError(
        f"{where} is damaged: {what}",
        hint="Restore the file from a backup, or start a new run with another --name",
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a plan, by its path, with what it was and what it would be now."""

    path: str
    old: str
    new: str


def differences(old: Plan, new: Plan) -> tuple[Difference, ...]:
    """Where two plans would not make the same virtual machine.

    What a living source measures anew (`MEASURED`) does not count, nor where a disk was seen this time.
    """
    before, after = dict(_leaves("", old)), dict(_leaves("", new))
    return tuple(
        Difference(path, before.get(path, ABSENT), after.get(path, ABSENT))
        for path in dict.fromkeys((*before, *after))
        if before.get(path) != after.get(path)
    )


def _leaves(path: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Disk):
        value = replace(value, path=value.identity)
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _leaves(f"{path}[{index}]", item)
    elif is_dataclass(value):
        for field in fields(value):
            if field.name not in MEASURED:
                yield from _leaves(f"{path}.{field.name}".lstrip("."), getattr(value, field.name))
    else:
        yield path, str(value) if value != "" else "''"
