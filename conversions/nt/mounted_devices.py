"""Drive letters: `MountedDevices` of the SYSTEM hive says which partition each belongs to.

A disk that was copied keeps them. On one that was renamed Windows would hand out the letters anew, and C:
might become D:.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from conversions.nt.disk_ids import Place, remounted
from conversions.nt.edits import RegistryEdits

KEY = "MountedDevices"
VALUES = 65536
REASON = "the partition has another name in its table now"


def repair(system: RegistryEdits, table: Mapping[Place, Place]) -> None:
    """Let letters and volumes follow their partitions. Raises GuestError where the hive is damaged."""
    for value in system.values(KEY)[:VALUES]:
        system.set(KEY, replace(value, data=remounted(value.data, table)), REASON)
