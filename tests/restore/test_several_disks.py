"""Several disks in one restore, in another order; and how it goes on where it was ended in between them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from p2v.model import BLOCK_SIZE, MiB
from tests.restore.commands import SERIAL, SIZE, Place, check, killed, require_files
from tests.restore.metal import MetalDisk, environment, metal_disk
from tests.sshd import Sshd

pytestmark = [pytest.mark.ssh, pytest.mark.tools, pytest.mark.timeout(300)]

OTHER = "WD-TEST-2"
DATA_SIZE = 64 * MiB
CONTENT = random.Random(99).randbytes(32 * MiB)


@dataclass(frozen=True, slots=True)
class Several(Place):
    """A machine of two disks; `metal` is the first."""

    other: MetalDisk

    def environment(self, changed: Mapping[str, str]) -> dict[str, str]:
        return {**Place.environment(self, {}), **environment(self.metal, self.other), **changed}


@pytest.fixture
def several(sshd: Sshd, tmp_path: Path) -> Iterator[Several]:
    first, second = tmp_path / "first.disk", tmp_path / "second.disk"
    first.write_bytes(random.Random(7).randbytes(DATA_SIZE))
    second.write_bytes(random.Random(8).randbytes(SIZE))
    with metal_disk(first, SERIAL) as one, metal_disk(second, OTHER) as other:
        yield Several(sshd, tmp_path, one, other)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A disk of data as they often are: a filesystem without any partition."""
    image, files = tmp_path / "data.raw", tmp_path / "data"
    files.mkdir()
    (files / "content").write_bytes(CONTENT)
    with image.open("wb") as file:
        file.truncate(DATA_SIZE)
    check("mke2fs", "-q", "-t", "ext4", "-b", "4096", "-d", files, image)
    return image


def require_data(disk: Path, folder: Path) -> None:
    check("e2fsck", "-fn", disk)
    found = folder / "found"
    check("debugfs", "-R", f"dump /content {found}", disk)
    assert found.read_bytes() == CONTENT


def words(place: Several, image: Path, data: Path, *more: str) -> list[str | Path]:
    """The system is image 0, and goes onto the second disk; the data are image 1, onto the first."""
    argv: list[str | Path] = ["restore", f"sda={image},sdb={data}", "--to", place.sshd.url, *place.login()]
    argv += ["--output", place.runs, "--name", "two", "--as-is", "--json"]
    return [*argv, "--disk", f"0={OTHER}", "--disk", f"1={SERIAL}", *more]


def test_killed_between_two_disks_and_resumed(several: Several, image: Path, data: Path) -> None:
    run = several.runs / "two"
    argv = words(several, image, data, "--erase", SERIAL, "--erase", OTHER)
    with killed(several, several.argv(*argv), run / "write" / "disk1.written", 2):
        pass
    (before,) = finished(run, "write:disk0")
    assert not finished(run, "write:disk1")
    done = several.p2v("resume", run, "--json")
    assert done.code == 0, done.stderr
    # What was done and read back is not done again, and nothing is done twice of what was half done.
    assert finished(run, "write:disk0") == [before]
    system, rest = done.json()["disks"]
    assert (system["disk"], rest["disk"]) == (OTHER, SERIAL)
    assert rest["kept_size"] > 0
    assert rest["sent_size"] + rest["kept_size"] == rest["data_size"]
    require_files(several.other.image, image)
    require_data(several.metal.image, several.folder)
    assert done.json()["license"]["units"] == 1


def test_what_changed_since_is_written_anew(several: Several, image: Path, data: Path) -> None:
    """Between the two tries somebody started the virtual machine once more."""
    run = several.runs / "two"
    argv = words(several, image, data, "--erase", SERIAL, "--erase", OTHER)
    with killed(several, several.argv(*argv), run / "write" / "disk1.written", 2):
        pass
    assert finished(run, "write:disk0")
    blocks = check("debugfs", "-R", "blocks /file3", f"{image}?offset={MiB}").split()
    place, news = MiB + int(blocks[100]) * 4096, random.Random(5).randbytes(4096)
    with image.open("r+b") as file:
        file.seek(place)
        file.write(news)
    done = several.p2v("resume", run, "--json")
    assert done.code == 0, done.stderr
    with several.other.image.open("rb") as file:
        file.seek(place)
        assert file.read(4096) == news
    system = done.json()["disks"][0]
    # A block of the data path, of which the rest has not changed.
    assert 0 < system["sent_size"] <= BLOCK_SIZE
    require_data(several.metal.image, several.folder)


def finished(run: Path, step: str) -> list[str]:
    """When a step was finished, as the journal says."""
    steps = json.loads((run / "restore.json").read_text())["steps"]
    return [one["finished"] + one["digest"] for one in steps if one["name"] == step]


def test_each_disk_must_be_confirmed(several: Several, image: Path, data: Path) -> None:
    """With one of them not confirmed, too small, or named for both, neither gets a byte."""
    before = [hashed(one) for one in (several.metal, several.other)]
    done = several.p2v(*words(several, image, data, "--erase", OTHER))
    assert (done.code, f"--erase {SERIAL}" in done.stderr) == (3, True), done.stderr
    erased = ("--erase", SERIAL, "--erase", OTHER)
    done = several.p2v(*words(several, data, image, *erased))
    assert (done.code, "too small" in done.stderr) == (3, True), done.stderr
    argv = [f"1={OTHER}" if word == f"1={SERIAL}" else word for word in words(several, image, data, *erased)]
    done = several.p2v(*argv)
    assert (done.code, "named for two images" in done.stderr) == (3, True), done.stderr
    assert [hashed(one) for one in (several.metal, several.other)] == before


def hashed(disk: MetalDisk) -> str:
    return check("sha256sum", disk.disk.path).split()[0]
