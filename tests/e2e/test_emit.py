"""One capture, many targets: the capture alone, machines out of it later, one guest for two platforms."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from p2v.errors import ExitCode
from tests.e2e.cli import p2v


def used_units(home: Path) -> int:
    used = p2v("license", "show", "--json", home=home).json()["used"]
    assert isinstance(used, int)
    return used


def sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@pytest.mark.guestfs
@pytest.mark.timeout(900)
def test_a_capture_feeds_targets_without_another_one(disk: BuiltDisk, tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    captured = p2v("capture", disk.image, "--output", runs, "--name", "web01", "--json", home=home)
    assert captured.code == 0, captured.stderr
    assert captured.json()["outputs"] == []
    assert captured.json()["license"] is None
    assert used_units(home) == 0
    run = runs / "web01"
    image = run / "capture" / "disk0.raw"
    before = sha256(image)

    made = p2v("emit", run, "--to", "virtualbox", "--to", "vmware:workstation", "--json", home=home)
    assert made.code == 0, made.stderr
    outputs = made.json()["outputs"]
    assert [output["platform"]["name"] for output in outputs] == ["virtualbox", "vmware"]
    assert outputs[0]["conversion"]["changes"] == outputs[1]["conversion"]["changes"]
    assert (run / "vm" / "virtualbox" / "disk0.vdi").exists()
    assert list((run / "vm" / "vmware-workstation").glob("*.vmx"))
    assert used_units(home) == 1

    again = p2v("emit", run, "--to", "raw:format=vhdx", "--json", home=home)
    assert again.code == 0, again.stderr
    assert [output["platform"]["name"] for output in again.json()["outputs"]] == [
        "virtualbox",
        "vmware",
        "raw",
    ]
    assert used_units(home) == 1
    assert sha256(image) == before
    assert not list(run.glob("vm/*/work"))
    shown = p2v("show", run, home=home)
    assert shown.stdout.count("is now the virtual machine web01 for") == 3


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_a_disk_without_a_system_is_captured_and_refused_later(blank: BuiltDisk, tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    captured = p2v("capture", blank.image, "--output", runs, "--json", home=home)
    assert captured.code == 0, captured.stderr
    receipt = captured.json()
    run = runs / receipt["plan"]["name"]
    assert json.loads((run / "run.json").read_text())["order"] == ["capture"]
    again = p2v("capture", blank.image, "--output", runs, home=home)
    assert again.code == 0
    assert "finished already" in again.stderr
    proof = p2v("prove", run, home=home)
    assert proof.code == ExitCode.USAGE
    assert f"p2v emit {run} --to TARGET" in proof.stderr


@pytest.mark.tools
@pytest.mark.timeout(60)
def test_what_is_asked_of_targets_is_checked_first(blank: BuiltDisk, tmp_path: Path) -> None:
    home = tmp_path / "home"
    twice = p2v("convert", blank.image, "--to", "libvirt", "--to", "libvirt", "--output", tmp_path, home=home)
    assert twice.code == ExitCode.USAGE
    assert "named twice" in twice.stderr
    unknown = p2v("emit", tmp_path / "none", "--to", "libvirt", home=home)
    assert unknown.code == ExitCode.USAGE
