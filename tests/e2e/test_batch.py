"""A manifest with a real guest: on a Dask cluster of one worker, and again, where nothing is left to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.build import BuiltDisk
from p2v.batch.reading import read_manifest
from tests.batch.test_cluster import scheduler, worker
from tests.e2e.cli import p2v


@pytest.mark.guestfs
@pytest.mark.timeout(900)
def test_a_real_guest_is_converted_by_a_worker(disk: BuiltDisk, tmp_path: Path) -> None:
    home, runs = tmp_path / "home", tmp_path / "runs"
    manifest = tmp_path / "rack.yaml"
    manifest.write_text(
        f"defaults: {{to: libvirt, memory: 512M}}\nmachines:\n  - {{source: {disk.image}, name: web01}}\n"
    )
    assert read_manifest(manifest).mistakes == ()
    with scheduler(tmp_path) as address, worker(tmp_path, address, "one", preload=""):
        done = p2v("batch", manifest, "--output", runs, "--cluster", address, "--json", home=home)
    assert done.code == 0, done.stderr
    (machine,) = done.json()["machines"]
    assert (machine["state"], machine["units"], machine["targets"][0]["target"]) == ("done", 1, "libvirt")
    assert (runs / "web01" / "vm" / "libvirt" / "disk0.qcow2").exists()
    shown = p2v("show", runs / "web01", "--json", home=home).json()
    assert shown["license"]["state"] == "committed"
    assert shown["outputs"][0]["conversion"]["changes"]

    again = p2v("batch", manifest, "--output", runs, home=home)
    assert (again.code, "done before" in again.stdout) == (0, True)
    assert p2v("license", "show", "--json", home=home).json()["used"] == 1
