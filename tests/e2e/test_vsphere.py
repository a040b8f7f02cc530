"""The live import from the command line, into govmomi's simulator: one run, everything that can go wrong on
its way, and in the end one machine in the inventory.

The simulator says what it has from its own memory, not through what the product uses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures.build import BuiltDisk
from p2v.errors import ExitCode
from p2v.model import MiB
from p2v.vsphere.session import open_session
from tests.e2e.cli import Answer, kill_in, p2v
from tests.vsphere.simulator import LIMITS, PASSWORD, SECRET, USER, Simulator, running

pytestmark = [pytest.mark.guestfs, pytest.mark.timeout(1200)]

FREE = 500 << 30
NAME = "metal12"
TARGET = "vsphere:esx6.5"
"""The newest that this simulator knows."""


class Trial:
    """A simulated vCenter, and the place of one run."""

    def __init__(self, vcenter: Simulator, folder: Path) -> None:
        self.vcenter = vcenter
        self.home = folder / "home"
        self.runs = folder / "runs"
        self.run = self.runs / NAME

    def options(self, **changes: str | Path) -> list[str | Path]:
        """Where to import; a change of an option takes its place, an empty one leaves it out."""
        values: dict[str, str | Path] = {
            "to": TARGET,
            "server": self.vcenter.address,
            "user": USER,
            "password": "env:VC_PASSWORD",
            "ca_file": self.vcenter.ca_file,
            "datacenter": "DC0",
            "cluster": "DC0_C0",
            "datastore": "LocalDS_0",
            "network": "VM Network",
            **changes,
        }
        return [
            word for name, value in values.items() if value for word in (f"--{name.replace('_', '-')}", value)
        ]

    def emit(self, **changes: str | Path) -> Answer:
        return p2v("emit", self.run, *self.options(**changes), "--json", home=self.home)

    def behave(self, **behaviour: Any) -> None:
        """From now on, with nothing counted so far; nothing given: without trouble and with room."""
        free = {"LocalDS_0": FREE, "LocalDS_1": FREE}
        self.vcenter.order(Behaviour=behaviour, Reset=True, FreeSpace=free, Maintain=[])

    @property
    def used_units(self) -> int:
        used: int = p2v("license", "show", "--json", home=self.home).json()["used"]
        return used

    def ours(self) -> list[dict[str, Any]]:
        return [machine for machine in self.vcenter.seen()["machines"] if machine["Name"] == NAME]

    def written(self) -> str:
        """All text that the run has kept."""
        kept = [path for path in self.run.rglob("*") if path.suffix in (".json", ".jsonl", ".ovf", ".mf")]
        assert len(kept) >= 5
        return "".join(path.read_text() for path in kept)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("vsphere")
    with pytest.MonkeyPatch.context() as patch, running(folder) as vcenter:
        patch.setenv("VC_PASSWORD", PASSWORD)
        patch.setenv("WRONG_PASSWORD", "not this")
        yield Trial(vcenter, folder)


@pytest.fixture(scope="module")
def imported(trial: Trial, disk: BuiltDisk) -> Answer:
    """A conversion that fails, is killed, and comes to its end: what `p2v resume` said last."""
    before = trial.vcenter.inventory()
    trial.behave(FullAfter=8 * MiB)
    convert = ("convert", disk.image, *trial.options(), "--output", trial.runs)
    failed = p2v(*convert, home=trial.home)
    assert failed.code == ExitCode.TARGET, failed.stderr
    assert "not enough space on the datastore" in failed.stderr
    assert f"p2v resume {trial.run}" in failed.stderr
    assert trial.vcenter.inventory() == before
    assert trial.used_units == 0
    capture = (trial.run / "capture" / "disk0.raw").stat()

    trial.behave(BytesPerSecond=16 * MiB)
    kill_in("upload", "resume", trial.run, home=trial.home, after=1.0)
    # Nobody could tidy up after SIGKILL; the next one does.
    assert len(trial.ours()) == 1

    trial.behave()
    answer = p2v("resume", trial.run, "--json", home=trial.home)
    assert answer.code == 0, answer.stderr
    assert "an import that was killed" in answer.stderr
    assert (trial.run / "capture" / "disk0.raw").stat().st_mtime_ns == capture.st_mtime_ns
    return answer


def test_one_machine_is_in_the_inventory(trial: Trial, imported: Answer) -> None:
    (output,) = imported.json()["outputs"]
    (machine,) = trial.ours()
    placed, vm = output["placed"], output["vm"]
    assert placed["reference"] == machine["Ref"]
    assert (placed["path"], placed["datastore"]) == (f"/DC0/vm/{NAME}", "LocalDS_0")
    assert (placed["host"], placed["instance_uuid"]) == (machine["Host"], machine["InstanceUuid"])
    assert (machine["CPUs"], machine["MemoryMB"]) == (vm["cpus"], vm["memory"] // MiB)
    assert (machine["Firmware"], machine["Power"]) == ("bios", "poweredOff")
    assert [disk["KB"] * 1024 for disk in machine["Disks"]] == [disk["size"] for disk in vm["disks"]]
    assert [disk["Controller"] for disk in machine["Disks"]] == ["ParaVirtualSCSIController"]
    (card,) = machine["Cards"]
    assert (card["Mac"], card["Network"], card["Model"]) == (
        vm["nics"][0]["mac"],
        "VM Network",
        "VirtualVmxnet3",
    )


def test_its_disk_is_the_one_that_was_written(trial: Trial, imported: Answer) -> None:
    (output,) = imported.json()["outputs"]
    (upload,) = [upload for upload in trial.vcenter.seen()["uploads"] or () if upload["Whole"]]
    (image,) = output["files"]
    content = (trial.run / "vm" / "vsphere-esx6.5" / image["path"]).read_bytes()
    assert upload["Sha256"] == hashlib.sha256(content).hexdigest() == image["digest"]


def test_it_cost_one_unit_and_its_receipt_says_where_it_is(trial: Trial, imported: Answer) -> None:
    assert trial.used_units == 1
    shown = p2v("show", trial.run, home=trial.home)
    reference = imported.json()["outputs"][0]["placed"]["reference"]
    assert f"/DC0/vm/{NAME} ({reference}) on 127.0.0.1" in shown.stdout
    assert "datastore LocalDS_0" in shown.stdout


def test_no_password_is_kept(trial: Trial, imported: Answer) -> None:
    kept = trial.written()
    assert "env" in kept
    assert PASSWORD not in kept + imported.stdout + imported.stderr


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"password": "env:WRONG_PASSWORD"}, ExitCode.TARGET, "Wrong user or password"),
        ({"password": "hunter2"}, ExitCode.USAGE, "not taken from the command line"),
        ({"password": "env:NOT_SET"}, ExitCode.USAGE, "There is no password"),
        ({"ca_file": ""}, ExitCode.TARGET, "is not trusted"),
        ({"thumbprint": "ab" * 32}, ExitCode.TARGET, "AB:AB"),
        ({"to": "vsphere"}, ExitCode.PLAN_REFUSED, "up to vmx-13, not vmx-14\n  Try: --to vsphere:esx6.5"),
        ({"datastore": "LocalDS_9"}, ExitCode.PLAN_REFUSED, "no datastore 'LocalDS_9'"),
        ({"network": "nowhere"}, ExitCode.PLAN_REFUSED, "no network 'nowhere'"),
        ({"network": "eth7=VM Network"}, ExitCode.PLAN_REFUSED, "no network 'eth7'"),
        ({"cluster": "DC0_C9"}, ExitCode.PLAN_REFUSED, "no cluster 'DC0_C9'"),
        ({"folder": "a/b"}, ExitCode.PLAN_REFUSED, "no folder 'a'"),
        ({"server": "127.0.0.1:1"}, ExitCode.TARGET, "connection to 127.0.0.1 port 1 failed"),
        ({"server": ""}, ExitCode.USAGE, "needs --server"),
        ({"user": ""}, ExitCode.USAGE, "Who logs in"),
        ({"to": "libvirt"}, ExitCode.USAGE, "--server belongs to a live import"),
    ],
)
def test_what_cannot_work_is_refused_first(
    changes: dict[str, str], code: ExitCode, words: str, trial: Trial, imported: Answer
) -> None:
    """Into another datacenter's view than that of the machine that is there: nothing is made or uploaded."""
    trial.behave()
    before = trial.vcenter.inventory()
    answer = trial.emit(**{"datastore": "LocalDS_1", **changes})
    assert (answer.code, words in answer.stderr) == (code, True), answer.stderr
    assert trial.vcenter.inventory() == before
    assert "ImportVApp" not in trial.vcenter.seen()["calls"]
    assert PASSWORD not in answer.stderr
    assert "hunter2" not in answer.stderr
    assert trial.used_units == 1


def test_the_same_again_imports_nothing(trial: Trial, imported: Answer) -> None:
    trial.behave()
    answer = trial.emit()
    assert answer.code == 0, answer.stderr
    assert answer.json()["outputs"] == imported.json()["outputs"]
    assert "ImportVApp" not in trial.vcenter.seen()["calls"]
    assert len(trial.ours()) == 1
    assert trial.used_units == 1


def test_a_full_datastore_is_refused_first(trial: Trial, imported: Answer) -> None:
    trial.behave()
    with open_session(trial.vcenter.server(), SECRET, LIMITS) as session:
        session.content.rootFolder.childEntity[0].vmFolder.CreateFolder("other")
    before = trial.vcenter.inventory()
    trial.vcenter.order(FreeSpace={"LocalDS_1": 50 * MiB})
    answer = trial.emit(datastore="LocalDS_1", folder="other")
    assert answer.code == ExitCode.PLAN_REFUSED, answer.stderr
    assert "'LocalDS_1' has 50.0 MiB free" in answer.stderr
    assert trial.vcenter.inventory() == before


def test_it_can_be_imported_to_another_place_too(trial: Trial, imported: Answer) -> None:
    trial.behave()
    answer = trial.emit(folder="other", datastore="LocalDS_1")
    assert answer.code == 0, answer.stderr
    (output,) = answer.json()["outputs"]
    assert output["placed"]["path"] == f"/DC0/vm/other/{NAME}"
    assert {machine["Folder"] for machine in trial.ours()} == {"vm", "other"}
    assert trial.used_units == 1


def test_a_name_that_is_taken_is_refused_first(trial: Trial, imported: Answer) -> None:
    """It is ours, at another place: asked for anew, it would be there twice."""
    trial.behave()
    answer = trial.emit(datastore="LocalDS_1")
    assert answer.code == ExitCode.PLAN_REFUSED, answer.stderr
    assert f"already a '{NAME}'" in answer.stderr


def test_the_target_is_listed() -> None:
    answer = p2v("targets", "--json", home=Path("/nonexistent"))
    (row,) = [row for row in answer.json() if row["name"] == "vsphere"]
    assert row["configuration"] == "live import"
