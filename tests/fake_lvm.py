"""LVM's commands as a source would have them, without the device mapper that they need.

A volume is a loop device on a part of the disk's image; a snapshot is a copy of what it holds, made while its
filesystem is frozen, and a name in /dev/mapper. The metadata on the disk is real, and is scribbled upon with
every change, where LVM would write more of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2v.model import Disk, MiB
from tests.disk.lvm_tools import GROUP, lvm_on
from tests.loops import LoopDisk, run, unmount

VOLUME_SIZE = 320 * MiB
DISK_SIZE = 600 * MiB
SCRIBBLE = b"a snapshot was here"
TOOLS = ("vgs", "lvs", "lvcreate", "lvremove")


@dataclass(frozen=True, slots=True)
class FakeLvm:
    """A disk that is one physical volume with one volume, `root`, mounted; `state` is what the tools know."""

    disk: LoopDisk
    image: Path
    state: Path
    tools: Path
    first: int

    @property
    def whole(self) -> Disk:
        return Disk(self.device, DISK_SIZE, serial="pv")

    @property
    def device(self) -> str:
        return str(self.facts()["disk"])

    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state.read_text())
        return found

    def change(self, **values: object) -> None:
        self.state.write_text(json.dumps({**self.facts(), **values}))

    def snapshots(self) -> list[str]:
        return sorted(self.facts()["snapshots"])


@contextmanager
def fake_lvm(folder: Path) -> Iterator[FakeLvm]:
    image = folder / "pv.img"
    with image.open("wb") as handle:
        handle.truncate(DISK_SIZE)
    with lvm_on(image) as lvm:
        lvm("pvcreate", "-q", *lvm.devices)
        lvm("vgcreate", "-q", GROUP, *lvm.devices)
        lvm.make("-n", "root", "-L", f"{VOLUME_SIZE}b")
        facts = lvm("vgs", "--noheadings", "-o", "vg_uuid,vg_seqno", GROUP).split()
        first = int(lvm("pvs", "--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start", *lvm.devices))
        with _volume(folder, image, first) as disk:
            made = FakeLvm(disk, image, folder / "lvm.json", folder / "tools", first)
            made.state.write_text(
                json.dumps(
                    {
                        "disk": lvm.devices[0], "uuid": facts[0], "revision": int(facts[1]),
                        "free": 200 * MiB, "snapshots": [], "attributes": "swi-a-s---", "percent": "3.10",
                        "origin": disk.device, "place": str(disk.folder), "first": first,
                        "folder": str(folder),
                    }
                )
            )  # fmt: skip
            _write_tools(made)
            try:
                yield made
            finally:
                for name in made.snapshots():
                    subprocess.run(
                        [made.tools / "lvremove", "-f", f"{GROUP}/{name}"], check=False, timeout=30
                    )


@contextmanager
def _volume(folder: Path, image: Path, first: int) -> Iterator[LoopDisk]:
    place = folder / "root"
    place.mkdir()
    device = run(
        "losetup", "--find", "--show", "--offset", str(first), "--sizelimit", str(VOLUME_SIZE), image
    ).strip()
    try:
        run("mkfs.ext4", "-q", device)
        run("mount", device, place)
        disk = LoopDisk("ext4", device, place, image)
        try:
            yield disk
        finally:
            disk.thaw()
            unmount(place)
    finally:
        run("losetup", "--detach", device)


def _write_tools(fake: FakeLvm) -> None:
    fake.tools.mkdir()
    for name in TOOLS:
        tool = fake.tools / name
        tool.write_text(f"#!{sys.executable}\nSTATE = {str(fake.state)!r}\nNAME = {name!r}\n{PROGRAM}")
        tool.chmod(0o755)
    shutil.copy("/bin/true", fake.tools / "lvm")


PROGRAM = f"""
import json, os, subprocess, sys
GROUP, SIZE, MARK = {GROUP!r}, {VOLUME_SIZE}, {SCRIBBLE!r}
words = sys.argv[1:]
state = json.load(open(STATE))
mapped = lambda name: "/dev/mapper/" + GROUP + "-" + name.replace("-", "--")
content = lambda name: os.path.join(state["folder"], name + ".cow")

def save():
    with open(state["disk"], "r+b") as disk:
        disk.seek(state["first"] - 8192)
        disk.write(MARK)
    with open(STATE + ".new", "w") as handle:
        json.dump(state, handle)
    os.rename(STATE + ".new", STATE)

def row(name):
    snapshot = name != "root"
    values = dict(vg_name=GROUP, lv_name=name, lv_size=str(SIZE), segtype="linear", snap_percent="")
    values["lv_attr"] = state["attributes"] if snapshot else "-wi-ao----"
    if snapshot:
        values["snap_percent"] = state["percent"]
    return values

def say(rows):
    fields = words[words.index("-o") + 1].split(",")
    for values in rows:
        print("  " + "|".join(values[field] for field in fields))

if NAME == "vgs":
    say([dict(vg_name=GROUP, vg_uuid=state["uuid"], vg_free=str(state["free"]), vg_extent_size="4194304",
              vg_seqno=str(state["revision"]), vg_attr="wz--n-")])
elif NAME == "lvs":
    say([row(name) for name in ["root"] + state["snapshots"]])
elif NAME == "lvcreate":
    name = words[words.index("--name") + 1]
    subprocess.check_call(["fsfreeze", "--freeze", state["place"]])
    subprocess.check_call(["cp", "--sparse=always", state["origin"], content(name)])
    subprocess.check_call(["fsfreeze", "--unfreeze", state["place"]])
    os.symlink(content(name), mapped(name))
    state["snapshots"].append(name)
    save()
elif NAME == "lvremove":
    name = words[1].split("/")[1]
    if name == "root" or name not in state["snapshots"]:
        sys.exit("  Failed to find logical volume " + words[1])
    state["snapshots"].remove(name)
    for path in (mapped(name), content(name)):
        if os.path.lexists(path):
            os.unlink(path)
    save()
"""
