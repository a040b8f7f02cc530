"""Which Windows a folder of a pack is meant for, by its name: virtio-win's layout, as virt-v2v reads it.

Its builds for several versions of Windows carry INF files of one name, whose decorations may not tell them
apart. The folder decides between those; it never decides what an INF does not allow.
"""

from __future__ import annotations

from dataclasses import dataclass

from drivers.inf.model import Windows
from p2v.model import ProductType


@dataclass(frozen=True, slots=True)
class Release:
    """The first version of Windows that a folder is for. `server` None: for both."""

    version: tuple[int, int, int]
    server: bool | None


RELEASES = {
    "xp": Release((5, 1, 0), None),
    "2k3": Release((5, 2, 0), True),
    "2k8": Release((6, 0, 0), None),  # Vista too
    "vista": Release((6, 0, 0), False),
    "w7": Release((6, 1, 0), False),
    "2k8r2": Release((6, 1, 0), True),
    "w8": Release((6, 2, 0), False),
    "2k12": Release((6, 2, 0), True),
    "w8.1": Release((6, 3, 0), False),
    "2k12r2": Release((6, 3, 0), True),
    "w10": Release((10, 0, 0), False),
    "w11": Release((10, 0, 22000), False),
    "2k16": Release((10, 0, 0), True),
    "2k19": Release((10, 0, 17763), True),
    "2k22": Release((10, 0, 20348), True),
    "2k25": Release((10, 0, 26100), True),
}

ALIASES = {
    **{"winxp": "xp", "win7": "w7", "win8": "w8", "win8.1": "w8.1", "win10": "w10", "win11": "w11"},
    **{"2003": "2k3", "2008": "2k8", "2008r2": "2k8r2", "2012": "2k12", "2012r2": "2k12r2"},
    **{"2016": "2k16", "2019": "2k19", "2022": "2k22", "2025": "2k25"},
}
"""Names that other packs have for them; VMware's calls its folders `Vista`, `Win8`, `Win10`."""

Closeness = tuple[int, bool, tuple[int, int, int], bool]
"""Sorts the better folder first."""


def closeness(path: str, windows: Windows) -> Closeness:
    """How well the folders of an INF's path suit a Windows: its own, no hint at all, an older, a newer
    one's.
    """
    names = (ALIASES.get(name, name) for name in path.lower().split("/")[:-1])
    release = next((RELEASES[name] for name in names if name in RELEASES), None)
    if release is None:
        return (1, False, (0, 0, 0), False)
    own, other = own_version(windows), release.server not in (None, _is_server(windows))
    if release.version == own and not other:
        return (0, False, (0, 0, 0), False)
    newer = release.version > (windows.major, windows.minor, windows.build)
    major, minor, build = release.version
    return (2, newer, (major, minor, build) if newer else (-major, -minor, -build), other)


def own_version(windows: Windows) -> tuple[int, int, int] | None:
    """The newest folder's version that a Windows of its kind has reached; None before XP."""
    version, kinds = (windows.major, windows.minor, windows.build), (None, _is_server(windows))
    reached = (each.version for each in RELEASES.values() if each.server in kinds)
    return max((each for each in reached if each <= version), default=None)


def _is_server(windows: Windows) -> bool:
    return windows.product is not ProductType.WORKSTATION
