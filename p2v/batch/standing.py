"""What an earlier batch has made of a machine: by its journal and receipt, without asking the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from p2v import pipeline
from p2v.batch.manifest import Entry
from p2v.errors import UsageError
from p2v.model import Receipt

RECEIPT = "receipt.json"
JOURNAL = "run.json"

ON_THE_WAY = frozenset(
    {
        "output", "limit", "limit_windows", "identity", "known_hosts", "accept_new_host_key", "retry_for",
        "consistency", "freeze_limit", "password", "passphrase", "luks_key_files", "allow_bad_sectors",
    }
)  # fmt: skip
"""What a job says of the way to its source, and not of what is made: it may be another once that is done."""


class Standing(StrEnum):
    """SAME: a run of this very job is there, unfinished. OTHER: none, or one of another job."""

    FINISHED = "finished"
    SAME = "same"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Found:
    standing: Standing
    receipt: Receipt | None = None


def look(entry: Entry) -> Found:
    """Where a machine stands. What is damaged or strange is for the pipeline to complain about."""
    if not (entry.directory / JOURNAL).exists():
        return Found(Standing.OTHER)
    try:
        journal, receipt = pipeline.show(entry.directory)
    except UsageError:
        return Found(Standing.OTHER)
    job = entry.job.to_json()
    if receipt is not None:
        same = _made(journal.job) == _made(job)
        return Found(Standing.FINISHED if same else Standing.OTHER, receipt)
    return Found(Standing.SAME if dict(journal.job) == dict(job) else Standing.OTHER)


def is_finished(entry: Entry) -> bool:
    return look(entry).standing is Standing.FINISHED


def _made(job: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {key: value for key, value in job.items() if key not in ON_THE_WAY}
