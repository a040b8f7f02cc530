"""The rescue system: a Debian in memory that makes the disks of any machine reachable for p2v over SSH."""

from p2v.rescue.build import Order, Rescue, RescueFile, build_rescue
from p2v.rescue.keys import PublicKey, read_keys

__all__ = ["Order", "PublicKey", "Rescue", "RescueFile", "build_rescue", "read_keys"]
