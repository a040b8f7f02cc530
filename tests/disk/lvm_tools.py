"""LVM's own tools on test images, and metadata of volumes that stand on other volumes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v.model import MiB
from tests.conftest import need_tools
from tests.disk.volumes import attached, run

GROUP = "p2vtest"
PE = 1 * MiB


class Lvm:
    """LVM without the kernel's device mapper: it writes metadata on these devices and activates nothing."""

    def __init__(self, devices: list[str]) -> None:
        self.devices = devices
        names = ",".join(f'"a|^{device}$|"' for device in devices)
        self.config = (
            f'devices{{use_devicesfile=0 scan=["/dev"] filter=[{names},"r|.*|"]}} '
            "global{activation=0} activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}"
        )

    def __call__(self, *argv: str | Path) -> str:
        name, *rest = argv
        return run(name, "--config", self.config, *rest)

    def make(self, *options: str) -> None:
        self("lvcreate", "-y", "-an", "-Zn", "-Wn", *options, GROUP)

    def restore(self, folder: Path, change: Callable[[str], str]) -> None:
        """Put changed metadata back: LVM parses and checks it before it writes."""
        text = folder / "metadata"
        self("vgcfgbackup", "-f", text, GROUP)
        changed = change(text.read_text())
        assert changed != text.read_text()
        text.write_text(changed)
        self("vgcfgrestore", "--force", "-y", "-f", text, GROUP)


@contextmanager
def lvm_on(*images: Path) -> Iterator[Lvm]:
    need_tools("lvm", "pvcreate", "losetup")
    if os.geteuid() != 0:
        pytest.skip("LVM needs root")
    with ExitStack() as stack:
        yield Lvm([stack.enter_context(attached(image)) for image in images])


def described(name: str, extents: int, segment: str, *, visible: bool = True) -> str:
    """A logical volume of one segment, as LVM writes it."""
    number = sum(name.encode())
    status = '["READ", "WRITE", "VISIBLE"]' if visible else '["READ", "WRITE"]'
    return f"""{name} {{
        id = "aaaaaa-{number:04d}-0001-0001-0001-0001-aaaaaa"
        status = {status}
        flags = []
        segment_count = 1
        segment1 {{
            start_extent = 0
            extent_count = {extents}
            {segment}
        }}
    }}
    """


def linear(first: int) -> str:
    return f'type = "striped" stripe_count = 1 stripes = ["pv0", {first}]'


THIN_POOL = """type = "thin-pool" metadata = "pool_tmeta" pool = "pool_tdata" transaction_id = 1
    chunk_size = 128 discards = "passdown" zero_new_blocks = 1"""
RAIDS = '"mirror_rmeta_0", "mirror_rimage_0", "mirror_rmeta_1", "mirror_rimage_1"'


@dataclass(frozen=True)
class Layer:
    """What stands on the volume `below`: other volumes, and the extents that they have themselves."""

    below: str
    segment_type: str
    text: str
    own: list[tuple[int, int]]
    hidden: bool = True
    whole: bool = True


LAYERS = {
    "thin": Layer(
        "pool_tdata",
        "thin-pool",
        described("pool", 60, THIN_POOL)
        + described("virtual", 500, 'type = "thin" thin_pool = "pool" transaction_id = 0 device_id = 1')
        + described("pool_tmeta", 4, linear(140), visible=False),
        [(140, 4)],
    ),
    "raid1": Layer(
        "mirror_rimage_0",
        "raid1",
        described("mirror", 60, f'type = "raid1" device_count = 2 region_size = 4096 raids = [{RAIDS}]')
        + described("mirror_rmeta_0", 1, linear(140), visible=False)
        + described("mirror_rmeta_1", 1, linear(142), visible=False)
        + described("mirror_rimage_1", 60, linear(150), visible=False),
        [(140, 1), (142, 1), (150, 60)],
    ),
    "snapshot": Layer(
        "base",
        "snap",
        described("snap", 8, linear(140))
        + described("snapshot0", 60, 'type = "snapshot" chunk_size = 8 origin = "base" cow_store = "snap"'),
        [(140, 8)],
        hidden=False,
    ),
    "old mirror": Layer(
        "base",
        "mirror",
        described(
            "pair",
            6,
            'type = "mirror" mirror_count = 2 region_size = 1024 mirrors = ["pv0", 140, "pv0", 160]',
        ),
        [(140, 6), (160, 6)],
        hidden=False,
        whole=False,
    ),
}
