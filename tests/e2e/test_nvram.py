"""A machine starts by the entry that a restore wrote into its firmware, and not because of the fallback
loader.

Six minutes in emulation: for `make matrix`.
"""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from fixtures.matrix import HOSTS, BuiltHost, build_host
from fixtures.matrix.nvram import EntryDisk, load_option, variables
from fixtures.metal import DEFAULT_HARDWARE, Metal, start_metal
from fixtures.rescue import Plugged, blank_disk, boot_rescue
from p2v import command
from p2v.accelerator import Accelerator
from p2v.model import MiB
from tests.conftest import need_tools
from tests.e2e.cli import p2v

pytestmark = [pytest.mark.boot, pytest.mark.guestfs, pytest.mark.matrix, pytest.mark.timeout(2400)]

TITLE = "Debian GNU/Linux 12 (bookworm)"
LOADER = "\\EFI\\debian\\shimx64.efi"
NEIGHBOUR = EntryDisk(1, 1 * MiB, 128 * MiB, "0b6f24aa-5c1e-4f70-9d7b-6a3b5f1c2d4e")
"""Another machine's system partition, which was first in the order."""
# OVMF of Debian starts from neither megasas nor mptsas.
HARDWARE = replace(DEFAULT_HARDWARE, disk_serial="NVME-0001", controller="nvme")
BOOT_CURRENT = "/sys/firmware/efi/efivars/BootCurrent-8be4df61-93ca-11d2-aa0d-00e098032b8c"
"""Four bytes of attributes, then the number (UEFI specification 2.10, 3.3)."""


@dataclass(frozen=True, slots=True)
class Menu:
    """What efibootmgr says: the order, and where each entry leads, by number."""

    order: tuple[str, ...]
    titles: dict[str, str]
    places: dict[str, str]


def menu_of(metal: Metal) -> Menu:
    said = metal.ssh(["efibootmgr", "--verbose"])
    print(said)
    order = re.search(r"^BootOrder: (\S+)$", said, re.MULTILINE)
    found = re.findall(r"^Boot([0-9A-F]{4})\* ([^\t]*)\t(.*)$", said, re.MULTILINE)
    return Menu(
        tuple(order[1].split(",")) if order else (),
        {number: title for number, title, _ in found},
        {number: place for number, _, place in found},
    )


def test_a_restored_machine_starts_by_its_entry(accelerator: Accelerator, tmp_path: Path) -> None:
    need_tools("sfdisk", "mren", "ssh-keyscan")
    host = build_host(HOSTS["debian12-uefi-lvm"])
    own = blank_disk(tmp_path / "own.disk", host.images[0].stat().st_size)
    store = tmp_path / "variables.fd"
    store.write_bytes(variables(load_option(TITLE, NEIGHBOUR, LOADER)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        menu, receipt = restored(host, own, store, tmp_path)
        first = menu.order[0]
        assert [one["title"] for one in receipt["entries"]] == [TITLE]
        assert not [one for one in receipt["warnings"] if "boot entry" in one or "boot menu" in one]
        assert (menu.titles[first], menu.titles["0000"]) == (TITLE, TITLE)
        assert NEIGHBOUR.uuid in menu.places["0000"]
        assert first != "0000"
        assert [number for number, title in menu.titles.items() if title == TITLE] == ["0000", first]
        assert f"HD(1,GPT,{partition_id(own)}," in menu.places[first]
        assert LOADER in menu.places[first]
        take_fallback_away(own)
        with start_metal(
            own, in_place=True, key=host.key, host_key=host.host_key, hardware=HARDWARE, variables=store
        ) as metal:
            metal.wait_for_ssh()
            assert metal.ssh(["od", "-An", "-tu2", "-j4", BOOT_CURRENT]).split() == [str(int(first, 16))]
            assert metal.ssh(["hostname"]).strip() == host.hostname
            assert metal.ssh(["systemctl", "--failed", "--no-legend"]).strip() == ""


def restored(host: BuiltHost, own: Path, store: Path, folder: Path) -> tuple[Menu, dict[str, Any]]:
    """The firmware's menu as the rescue system sees it afterwards, and the receipt."""
    serial = HARDWARE.disk_serial
    with boot_rescue(
        [Plugged(own, serial)], firmware="uefi", controller="nvme", variables=store, hardware=HARDWARE
    ) as metal:
        assert metal.key
        assert menu_of(metal).order[0] == "0000"
        words: list[str | Path] = ["--to", f"ssh://root@127.0.0.1:{metal.port}", "--identity", metal.key]
        words += ["--known-hosts", metal.known_hosts, "--output", folder / "runs"]
        words += ["--disk", f"0={serial}", "--erase", serial, "--json"]
        done = p2v("restore", host.images[0], *words, home=folder / "home")
        assert done.code == 0, done.stderr
        menu = menu_of(metal)
        metal.ssh(["sync"])
    return menu, done.json()


def esp_of(disk: Path) -> dict[str, Any]:
    said = command.check(["sfdisk", "--json", disk], timeout=60, reason="look at the table")
    first: dict[str, Any] = json.loads(said)["partitiontable"]["partitions"][0]
    return first


def partition_id(disk: Path) -> str:
    return str(uuid.UUID(esp_of(disk)["uuid"]))


def take_fallback_away(disk: Path) -> None:
    """What firmware starts that knows no entry: it was there, which the renaming shows."""
    place = f"{disk}@@{esp_of(disk)['start'] * 512}"
    command.check(
        ["mren", "-i", place, "::/EFI/BOOT/BOOTX64.EFI", "::/EFI/BOOT/TAKEN.AWY"],
        timeout=60,
        reason="rename the fallback loader",
    )
