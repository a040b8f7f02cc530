"""TargetOS decorations of Models sections: which one a given Windows takes.

"Combining Platform Extensions with Operating System Versions" and "INF Manufacturer Section"
(windows-driver-docs); the examples of both are in the tests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drivers.inf.model import Architecture, Windows
from drivers.inf.strings import number
from drivers.inf.text import InfError
from p2v.model import ProductType

FIELDS = 6
"""nt[Architecture].Major.Minor.ProductType.SuiteMask.Build"""

PRODUCT_TYPES = {
    ProductType.WORKSTATION: 1,
    ProductType.DOMAIN_CONTROLLER: 2,
    ProductType.SERVER: 3,
}
"""VER_NT_*, winnt.h."""


@dataclass(frozen=True, slots=True)
class Decoration:
    """`text` as the INF writes it, which is also what the section's name ends with; None: not asked for."""

    text: str
    architecture: Architecture | None = None
    major: int = 0
    minor: int = 0
    product: int | None = None
    suites: int | None = None
    build: int = 0

    def applies(self, windows: Windows) -> bool:
        """Whether that Windows may take the section at all."""
        return self._runs_on(windows) and self._is_reached_by(windows) and self._is_meant_for(windows)

    @property
    def closeness(self) -> tuple[int, int, int, bool, int, bool]:
        """Higher is closer, among those that apply: a version weighs more than a product type or suite."""
        suites = 0 if self.suites is None else self.suites.bit_count()
        return (
            self.major,
            self.minor,
            self.build,
            self.product is not None,
            suites,
            self.architecture is not None,
        )

    def _runs_on(self, windows: Windows) -> bool:
        if self.architecture is not None:
            return self.architecture is windows.architecture
        # Since Windows Server 2003 SP1 what is not for x86 must say so.
        return windows.architecture is Architecture.X86

    def _is_reached_by(self, windows: Windows) -> bool:
        least, there = (self.major, self.minor), (windows.major, windows.minor)
        return least < there or (least == there and self.build <= windows.build)

    def _is_meant_for(self, windows: Windows) -> bool:
        product = self.product is None or self.product == PRODUCT_TYPES[windows.product]
        return product and (self.suites is None or self.suites & windows.suites == self.suites)


def parse_decoration(text: str) -> Decoration | None:
    """`NTamd64.10.0...14393` as a value; None for what Windows does not know and passes over."""
    head, *rest = text.strip().split(".")
    if not head.lower().startswith("nt") or len(rest) >= FIELDS:
        return None
    try:
        architecture = Architecture(head[2:].lower()) if head[2:] else None
        numbers = [number(field) if field else None for field in rest]
    except (ValueError, InfError):
        return None
    major, minor, product, suites, build = (*numbers, None, None, None, None, None)[: FIELDS - 1]
    return Decoration(text.strip(), architecture, major or 0, minor or 0, product, suites, build or 0)


def choose(decorations: Iterable[str], windows: Windows) -> Decoration | None:
    """The one that Windows takes, of those that an entry of [Manufacturer] lists; None: none of them."""
    parsed = (parse_decoration(text) for text in decorations)
    applying = (one for one in parsed if one is not None and one.applies(windows))
    return max(applying, key=lambda one: one.closeness, default=None)
