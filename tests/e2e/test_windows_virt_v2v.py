"""virt-v2v converts the same Windows with the same drivers; where its registry differs from ours, and why.

virt-v2v 2.2.0 is what Debian 12 has. Its tools for Windows are not in Debian: a file of any content stands
for the program that runs its scripts at the first boot, since nothing here ever starts it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from fixtures.command import run
from fixtures.windows import guests, packs
from tests.conftest import need_tools
from tests.conversions.nt.windows_guests import convert, guest_tree, pack_index, platform_of
from tests.e2e.test_windows import HIVES, opened, source, taken
from tests.registries import Place, changed, listing

pytestmark = [pytest.mark.guestfs, pytest.mark.timeout(1800)]

NAME = "2019"
SECONDS = 1500.0
Listing = Mapping[Place, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why places differ whose `key\\name` the pattern matches."""

    pattern: str
    why: str

    def explains(self, place: Place) -> bool:
        return re.match(self.pattern, "\\".join((place[0], place[1] or ""))) is not None


THEIRS = (
    Reason(
        r"driverdatabase\\.*guestor",
        "it makes up a package `guestor.inf` for the disk alone; we write that of the driver's own INF",
    ),
)
"""With no QEMU guest agent among the drivers, 2.2.0 has nothing to do at the first boot."""
OURS = (
    Reason(
        r"driverdatabase\\(driverpackages\\viostor\.inf_amd64|driverinffiles\\oem9\.inf)",
        "the package as Windows itself would record it, under the next free name",
    ),
    Reason(
        r"driverdatabase\\deviceids\\(pci\\ven_1af4&dev_10(01|42)|\{4d36e97b)",
        "every id of the INF, and the class of the package",
    ),
    Reason(r"driverdatabase\\oeminfmap", "the number of that name is marked as used"),
    Reason(
        r"controlset001\\services\\viostor\\(parameters|displayname|owners)",
        "what the INF sets for the service: the type of bus, the interface",
    ),
    Reason(r"controlset001\\services\\eventlog\\system\\viostor", "its source of events, by the INF"),
    Reason(
        r"controlset001\\services\\partmgr\\parameters\\sanpolicy",
        "a server keeps disks on a new bus offline; virt-v2v has a script for the first boot instead",
    ),
    Reason(r"controlset001\\services\\p2v-first-boot", "our service for the first boot"),
)
SAME_PLACE = (
    Reason(r"controlset001\\services\\viostor\\imagepath", "the same path in another case"),
    Reason(r"microsoft\\windows\\currentversion\\devicepath", "the same kind of entry, folders of our own"),
)
AGREED = {
    ("controlset001\\services\\viostor", "start"): ("DWORD", "0x00000000"),
    ("controlset001\\services\\viostor", "type"): ("DWORD", "0x00000001"),
    ("controlset001\\services\\viostor", "errorcontrol"): ("DWORD", "0x00000001"),
    ("controlset001\\services\\viostor", "group"): ("SZ", "SCSI miniport"),
    ("controlset001\\control\\crashcontrol", "autoreboot"): ("DWORD", "0x00000000"),
}
"""What both wrote alike: all that decides whether the driver is started."""


@dataclass(frozen=True, slots=True)
class Registry:
    before: Listing
    theirs: Listing
    ours: Listing


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Both hives of the guest together: no key is in both."""
    need_tools("virt-v2v")
    folder = tmp_path_factory.mktemp("v2v")
    drivers = packs.virtio(folder / "virtio")
    theirs = opened(by_virt_v2v(source(NAME), drivers, folder))
    guest = guest_tree(NAME, folder)
    convert(guest, NAME, platform_of("libvirt"), pack_index("virtio", folder))
    config = Path("Windows/System32/config")
    found: list[dict[Place, tuple[str, str]]] = [{}, {}, {}]
    for hive in HIVES:
        places = (guests.tree(NAME) / config / hive, taken(theirs, hive, folder), guest.root / config / hive)
        for whole, place in zip(found, places, strict=True):
            whole.update(listing(place))
    return Registry(*found)


def by_virt_v2v(image: Path, drivers: Path, folder: Path) -> Path:
    """What virt-v2v makes of a disk."""
    tools, out = folder / "tools", folder / "out"
    tools.mkdir()
    out.mkdir()
    (tools / "rhsrvany.exe").write_bytes(b"MZ, and nothing that anybody starts")
    settings = (
        f"VIRTIO_WIN={drivers}",
        f"VIRT_TOOLS_DATA_DIR={tools}",
        "LIBGUESTFS_BACKEND=direct",
        "LIBGUESTFS_BACKEND_SETTINGS=force_tcg",  # a /dev/kvm that is there may hang
    )
    copy = folder / "disk.raw"
    run(["cp", "--sparse=always", image, copy], timeout=120)
    words: list[str | Path] = [
        "virt-v2v",
        "-i",
        "disk",
        copy,
        "-o",
        "local",
        "-of",
        "raw",
        "-os",
        out,
        "-on",
        "v2v",
    ]
    run(["env", *settings, *words], timeout=SECONDS)
    return out / "v2v-sda"


def unexplained(places: set[Place], reasons: tuple[Reason, ...]) -> list[Place]:
    return sorted(
        (place for place in places if not any(reason.explains(place) for reason in reasons)), key=str
    )


def test_every_difference_from_virt_v2v_is_known(registry: Registry) -> None:
    theirs = changed(dict(registry.before), dict(registry.theirs))
    ours = changed(dict(registry.before), dict(registry.ours))
    assert unexplained(theirs - ours, THEIRS) == []
    assert unexplained(ours - theirs, OURS) == []
    differ = {place for place in theirs & ours if registry.theirs.get(place) != registry.ours.get(place)}
    assert unexplained(differ, SAME_PLACE) == []
    for reasons, places in ((THEIRS, theirs - ours), (OURS, ours - theirs), (SAME_PLACE, differ)):
        for reason in reasons:
            assert any(reason.explains(place) for place in places), f"no longer so: {reason.why}"


def test_both_start_the_driver_alike(registry: Registry) -> None:
    for place, value in AGREED.items():
        assert registry.theirs.get(place) == registry.ours.get(place) == value, place
