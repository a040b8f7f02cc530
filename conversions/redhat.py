"""Red Hat Enterprise Linux, what is built from it, Fedora and Amazon Linux; from release 5 on."""

from __future__ import annotations

from conversions import services
from conversions.changes import Changes
from conversions.last_steps import LAST_STEPS
from conversions.linux import convert_linux
from conversions.network import keep_network
from conversions.protocol import GuestFiles
from conversions.request import Request
from p2v.model import Conversion

IDS = (
    *("rhel", "redhat", "fedora", "centos", "rocky", "almalinux", "ol", "oracle", "amzn", "scientific"),
    *("cloudlinux", "eurolinux", "miraclelinux", "openeuler", "anolis", "virtuozzo", "nobara"),
)
"""`ID` and `ID_LIKE` of os-release that this family serves."""

KUDZU = "kudzu"


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """As `linux.convert_linux`, without the hardware wizard of release 5."""
    steps = (stop_kudzu,)
    return convert_linux(
        guest, request, family="redhat", network=keep_network, steps=steps, finish=LAST_STEPS
    )


def stop_kudzu(changes: Changes, request: Request) -> None:
    """kudzu sees that the old cards are gone at the first boot, and takes their addresses away."""
    services.disable(changes, KUDZU, "it would remove the addresses of the cards that are gone")
