"""A machine of metal on LVM that is written to while it is copied: from snapshots, and frozen."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fixtures.matrix import HOSTS, build_host
from fixtures.metal import Metal, start_metal
from p2v import rooms
from p2v.accelerator import Accelerator
from p2v.capture import capture
from p2v.disk.device import BlockDevice, open_file_device
from p2v.disk.volumes import PhysicalVolume, physical_volumes
from p2v.grades import choose_consistency
from p2v.house import House, Source
from p2v.job import Job
from p2v.model import BLOCK_SIZE, Consistency, ConsistencyWish, Machine, Plan, PlannedDisk, Reached
from p2v.probe import probe
from p2v.run import create_run
from p2v.ui import UI, ProgressStyle
from tests.conftest import need_tools
from tests.disk.mounting import need_mounts
from tests.loops import WRITER, mounted_copy, read_count, run
from tests.plans import make_plan

# Twenty minutes in emulation: more than make test has.
pytestmark = [pytest.mark.boot, pytest.mark.tools, pytest.mark.matrix, pytest.mark.timeout(1800)]

HOST = "debian12-uefi-lvm"
FIRST, SECOND, NOISE = "/root/first", "/root/second", "/root"


@dataclass(frozen=True, slots=True)
class Copied:
    """One capture of the running machine, and what the counter on it said before and after."""

    image: Path
    reached: Reached
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Live:
    """What was seen of a machine that ran all the time."""

    machine: Machine
    snapshot: Copied
    frozen: Copied
    volumes_after: str
    writer_after: bool


@contextmanager
def metal_with_writer(accelerator: Accelerator, folder: Path) -> Iterator[tuple[Metal, Job]]:
    host = build_host(HOSTS[HOST])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("P2V_ACCEL", accelerator)
        with start_metal(host) as metal:
            metal.wait_for_ssh()
            known_hosts = folder / "known_hosts"
            known_hosts.write_text(metal.known_hosts_line + "\n")
            # One emulated processor must have time left for the reader.
            calm = WRITER.replace("% 200 ==", "% 20 ==").replace("sleep(0.01)", "sleep(0.3)")
            assert calm.count("sleep(0.3)") == 1
            script = f"cat > /run/writer.py <<'END'\n{calm}\nEND\n"
            script += f"nohup nice -n 19 python3 /run/writer.py {FIRST} {SECOND} {NOISE} >/dev/null 2>&1 &\n"
            metal.ssh(["sh", "-c", script])
            source = f"ssh://root@127.0.0.1:{metal.port}"
            yield metal, Job(source, ("libvirt",), folder, identity=host.key, known_hosts=known_hosts)


def count(metal: Metal) -> int:
    digits = metal.ssh(["od", "-An", "-tx1", SECOND]).replace(" ", "").strip()
    return int(struct.unpack("!Q", bytes.fromhex(digits))[0])


def copy(metal: Metal, source: Source, house: House, plan: Plan, folder: Path) -> Copied:
    before = count(metal)
    with create_run(folder, str(plan.consistency), plan, job={}, order=rooms.order(plan)) as held:
        _, stats = capture(held, plan, source, house)
        assert stats.reached is not None
        return Copied(held.capture_dir / "disk0.raw", stats.reached, before, count(metal))


def plan_of(machine: Machine, wish: ConsistencyWish) -> Plan:
    grade, _ = choose_consistency(machine, wish)
    return replace(
        make_plan(),
        machine=machine,
        disks=tuple(PlannedDisk(index, disk, disk.data_size) for index, disk in enumerate(machine.disks)),
        prove=False,
        consistency=grade,
        consistency_wish=wish,
        freeze_limit=300.0,
    )


@pytest.fixture(scope="module")
def live(accelerator: Accelerator, tmp_path_factory: pytest.TempPathFactory) -> Live:
    need_tools("mkfs.xfs", "mkfs.vfat", "lvm")
    folder = tmp_path_factory.mktemp("live")
    house = House(UI(style=ProgressStyle.LINES), folder / "home")
    with metal_with_writer(accelerator, folder) as (metal, job), Source(job, house) as source:
        machine = probe(source.transport(), house.ui)
        snapshot = copy(metal, source, house, plan_of(machine, ConsistencyWish.AUTO), folder)
        frozen = copy(metal, source, house, plan_of(machine, ConsistencyWish.FREEZE), folder)
        volumes = metal.ssh(["lvs", "--noheadings", "-o", "lv_name"])
        last = count(metal)
        metal.ssh(["sleep", "2"])
        return Live(machine, snapshot, frozen, volumes, count(metal) > last)


def test_what_is_seen_of_a_machine_on_lvm(live: Live) -> None:
    (disk,) = live.machine.disks
    assert not disk.idle
    places = {one.place: (one.kind, one.volume) for one in live.machine.mounted}
    assert places == {"/": ("xfs", "metal-root"), "/boot": ("ext4", ""), "/boot/efi": ("vfat", "")}
    assert {(one.group, one.name, one.plain) for one in live.machine.volumes} == {
        ("metal", "root", True),
        ("metal", "swap", True),
    }


@pytest.mark.parametrize("grade", [Consistency.SNAPSHOT, Consistency.FROZEN])
def test_the_copy_is_one_moment(live: Live, tmp_path: Path, grade: Consistency) -> None:
    need_mounts("xfs")
    copied = live.snapshot if grade is Consistency.SNAPSHOT else live.frozen
    assert copied.reached.grade is grade, copied.reached
    with open_file_device(copied.image) as device:
        (volumes,) = physical_volumes(device)
        root = extract(device, volumes, "root", tmp_path / "root.img")
    assert {part.volume for part in volumes.parts} == {"root", "swap"}
    with mounted_copy(root, tmp_path) as place:
        one, other = read_count(place / FIRST[1:]), read_count(place / SECOND[1:])
    assert copied.before < other <= one <= other + 1 <= copied.after
    boot = live.machine.disks[0].partitions[1]
    run("dd", f"if={copied.image}", f"of={tmp_path / 'boot.img'}", "bs=1M", f"skip={boot.start >> 20}",
        f"count={boot.length >> 20}")  # fmt: skip
    run("e2fsck", "-f", "-n", tmp_path / "boot.img")


def extract(device: BlockDevice, volumes: PhysicalVolume, name: str, path: Path) -> Path:
    with path.open("wb") as out:
        for part in volumes.parts:
            if part.volume == name:
                for at in range(0, part.length, BLOCK_SIZE):
                    out.seek(part.offset + at)
                    out.write(device.read(part.start + at, min(BLOCK_SIZE, part.length - at)))
    return path


def test_nothing_is_left_on_the_source(live: Live) -> None:
    assert live.volumes_after.split() == ["root", "swap"]
    assert live.writer_after


def test_what_it_cost(live: Live) -> None:
    """From snapshots only /boot stands still; frozen, everything does, and for longer."""
    assert 0 < live.snapshot.reached.frozen_seconds < live.frozen.reached.frozen_seconds < 300
    assert live.snapshot.reached.warnings == live.frozen.reached.warnings == ()
