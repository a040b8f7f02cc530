"""What licenses there are, and how many conversions each of them gives."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Tier(StrEnum):
    EVALUATION = "evaluation"


@dataclass(frozen=True, slots=True)
class License:
    """The right to `total` conversions. `name` stands in every entry of the ledger that counts against it."""

    name: str
    tier: Tier
    title: str
    total: int


EVALUATION = License(name="evaluation", tier=Tier.EVALUATION, title="Evaluation", total=5)
"""What everybody has without any license file."""
