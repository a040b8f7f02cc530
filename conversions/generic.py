"""Any Linux that has no family of its own: what is safe everywhere, with a warning instead of a refusal.

Names of disks and cards, a known boot loader, a known program for the initramfs: all as for the others,
because what is found decides, not what the system calls itself. What is not found is left as it is.
"""

from __future__ import annotations

from conversions.changes import Changes
from conversions.last_steps import LAST_STEPS
from conversions.linux import Tolerance, convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

OTHER_KERNELS = frozenset(
    (
        *("freebsd", "openbsd", "netbsd", "dragonfly", "midnightbsd", "ghostbsd", "opnsense", "pfsense"),
        *("truenas-core", "illumos", "omnios", "smartos", "openindiana", "solaris", "haiku", "minix"),
    )
)
"""`ID` of os-release on systems that are no Linux: what is done for Linux would only harm them."""


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`, leniently."""
    return convert_linux(
        guest,
        request,
        family="generic",
        network=keep_network,
        steps=(_warn,),
        finish=LAST_STEPS,
        tolerance=Tolerance.LENIENT,
    )


def _warn(changes: Changes, request: Request) -> None:
    system = request.machine.os
    changes.warn(
        f"{system.name if system else 'This Linux'} is not a system that p2v knows: it was converted by what"
        " was found on it; try it with p2v prove"
    )
