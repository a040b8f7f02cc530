"""What licenses there are, and what each gives: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from types import MappingProxyType

UNIT_LIMIT = 1_000_000
"""Conversions in one license file; a larger number is a slip of the pen."""


class Tier(StrEnum):
    EVALUATION = "evaluation"
    DESKTOP_25 = "desktop-25"
    DESKTOP_100 = "desktop-100"
    SITE = "site"


class Feature(StrEnum):
    """What a license may include beyond conversions one by one."""

    BATCH = "batch"
    V2P = "v2p"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class Features:
    """`batch` is how many machines one manifest may name (None: any number), the rest is there or not."""

    batch: int | None = 1
    v2p: bool = False
    cluster: bool = False

    def allows(self, feature: Feature, amount: int) -> bool:
        """Whether the feature is included, to that amount (machines of a manifest)."""
        match feature:
            case Feature.BATCH:
                return self.batch is None or amount <= self.batch
            case Feature.V2P:
                return self.v2p
            case Feature.CLUSTER:
                return self.cluster


@dataclass(frozen=True, slots=True)
class TierFacts:
    """What a tier gives unless a license file says otherwise. `units` None: any number, within its term.

    `term` is days from the first day of validity, None: for ever.
    """

    title: str
    units: int | None
    features: Features
    term: int | None = None


TIERS: Mapping[Tier, TierFacts] = MappingProxyType(
    {
        Tier.EVALUATION: TierFacts("Evaluation", 5, Features(batch=5, v2p=True, cluster=True)),
        Tier.DESKTOP_25: TierFacts("Desktop 25", 25, Features(batch=25)),
        Tier.DESKTOP_100: TierFacts("Desktop 100", 100, Features(batch=100, v2p=True)),
        Tier.SITE: TierFacts("Site", None, Features(batch=None, v2p=True, cluster=True), term=365),
    }
)
"""The evaluation shows everything, for few machines."""


@dataclass(frozen=True, slots=True)
class License:
    """The right to `total` conversions (None: any number) from `not_before` to `not_after`, both days whole
    and in UTC (None: for ever). `name` stands in every entry of the ledger that counts against it; `key` and
    `sequence` are the vendor's, empty for what is built in.
    """

    name: str
    tier: Tier
    title: str
    total: int | None
    features: Features = Features()
    customer: str = ""
    not_before: date = date.min
    not_after: date | None = None
    key: str = ""
    sequence: int = 0

    @property
    def last_day(self) -> date:
        return self.not_after or date.max


def _built_in(tier: Tier) -> License:
    facts = TIERS[tier]
    return License(tier.value, tier, facts.title, facts.units, facts.features)


EVALUATION = _built_in(Tier.EVALUATION)
"""What everybody has without any license file."""
