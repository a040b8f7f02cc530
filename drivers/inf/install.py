"""DDInstall sections: what installing a device means, files, services and registry together."""

from __future__ import annotations

from drivers.inf.files import payload
from drivers.inf.model import Architecture, InstallSection
from drivers.inf.registry import added_values
from drivers.inf.services import services
from drivers.inf.strings import Inf, number
from drivers.inf.text import InfError
from drivers.inf.tree import Tree

FEATURE_SCORES = range(0x100)


def actual_name(inf: Inf, section: str, architecture: Architecture) -> str:
    """The section with its platform suffix: `.ntamd64` before `.nt` before none.

    Raises InfError where there is none of them.
    """
    for suffix in (f".nt{architecture}", ".nt", ""):
        if section + suffix in inf.sections:
            return section + suffix
    raise InfError(f"its install section [{section[:40]}] is missing")


def install_section(
    inf: Inf, path: str, section: str, architecture: Architecture, tree: Tree
) -> InstallSection:
    """A section that a Models line names. Raises InfError for what cannot be installed."""
    actual = actual_name(inf, section, architecture)
    return InstallSection(
        name=section,
        actual=actual,
        services=services(inf, f"{actual}.services"),
        files=payload(inf, path, actual, architecture, tree),
        software=added_values(inf, actual),
        hardware=added_values(inf, f"{actual}.hw"),
        include=_both(inf, actual, "include"),
        needs=_both(inf, actual, "needs"),
        feature_score=_feature_score(inf, actual),
        excluded=inf.values(actual, "excludeid"),
    )


def _both(inf: Inf, actual: str, key: str) -> tuple[str, ...]:
    """Of the section itself and of its services, each once."""
    return tuple(dict.fromkeys((*inf.values(actual, key), *inf.values(f"{actual}.services", key))))


def _feature_score(inf: Inf, actual: str) -> int:
    """A single byte, in hexadecimal with or without a mark ("INF FeatureScore Directive")."""
    text = inf.value(actual, "featurescore").lower()
    score = number("0x" + text.removeprefix("0x").removeprefix("x")) if text else 0xFF
    if score not in FEATURE_SCORES:
        raise InfError(f"its FeatureScore is no byte: {text[:40]!r}")
    return score
