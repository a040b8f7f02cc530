"""One simulated vCenter for all tests of this folder, put in order before each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.ui import UI, ProgressStyle
from p2v.vsphere.settings import Appliance, NetworkMap, Placement
from tests.vsphere.appliances import make_appliance
from tests.vsphere.simulator import Simulator, running

FREE = 500 << 30


@pytest.fixture(scope="session")
def shared_vcenter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("vcsim")) as simulator:
        yield simulator


@pytest.fixture
def vcenter(shared_vcenter: Simulator) -> Simulator:
    """Without trouble and with room; the machines of earlier tests are still there."""
    free = {"LocalDS_0": FREE, "LocalDS_1": FREE}
    shared_vcenter.order(Behaviour={}, Reset=True, FreeSpace=free, Maintain=[])
    return shared_vcenter


@pytest.fixture(scope="session")
def esxi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with running(tmp_path_factory.mktemp("esx"), "esx") as simulator:
        yield simulator


@pytest.fixture
def appliance(tmp_path: Path, request: pytest.FixtureRequest) -> Appliance:
    """A machine named after the test."""
    return make_appliance(tmp_path, name=request.node.name[:70])


@pytest.fixture
def stderr() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def ui(stderr: io.StringIO) -> UI:
    return UI(style=ProgressStyle.LINES, stdout=io.StringIO(), stderr=stderr)


@pytest.fixture
def place() -> Placement:
    """Where the tests put their machines unless they try something else."""
    return Placement(
        datacenter="DC0",
        cluster="DC0_C0",
        datastore="LocalDS_0",
        networks=(NetworkMap("front", "VM Network"), NetworkMap("back", "DC0_DVPG0")),
    )
