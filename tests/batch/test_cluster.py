"""A real Dask scheduler and real worker processes on the loopback; one of them is killed in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.batch import cluster
from p2v.batch.cluster import Order, Share
from p2v.errors import P2VError, PlanRefused
from p2v.house import House, default_home
from p2v.licensing.ledger import open_ledger
from p2v.run import read_journal, read_receipt
from p2v.ui import UI, ProgressStyle
from tests.batch import stub
from tests.batch.test_batch import p2v, used

pytest.importorskip("distributed")
ROOT = Path(__file__).parents[2]
START_SECONDS = 25.0


@pytest.fixture(autouse=True)
def stubbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2V_ACCEL", "tcg")
    monkeypatch.delenv(stub.GATE, raising=False)
    stub.install(monkeypatch.setattr)


@contextlib.contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """The address of a Dask scheduler in a process of its own."""
    note = folder / "scheduler.json"
    words = [
        "scheduler",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--no-dashboard",
        "--scheduler-file",
        str(note),
    ]
    with _dask(folder / "scheduler.log", words):
        _until(note.exists, "no scheduler")
        _until(lambda: bool(note.read_text()), "no scheduler")
        yield json.loads(note.read_text())["address"]


@contextlib.contextmanager
def worker(
    folder: Path,
    address: str,
    name: str,
    *,
    resources: str = "conversion=1",
    preload: str = "tests.batch.stub",
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, over the stub; it is there when this returns."""
    log = folder / f"{name}.log"
    words = [
        "worker", address, "--name", name, "--nthreads", "1", "--no-nanny", "--no-dashboard",
        "--host", "127.0.0.1", "--local-directory", str(folder / name), "--memory-limit", "0",
        *(("--preload", preload) if preload else ()), *(("--resources", resources) if resources else ()),
    ]  # fmt: skip
    with _dask(log, words) as child:
        _until(lambda: b"Registered to" in log.read_bytes(), "no worker")
        yield child


@contextlib.contextmanager
def _dask(log: Path, words: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (
        log.open("wb") as out,
        subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + words[0], *words[1:]], stdout=out,
                         stderr=out, env=env, cwd=ROOT) as child,
    ):  # fmt: skip
        try:
            yield child
        finally:
            child.kill()


def _until(done: object, problem: str, seconds: float = START_SECONDS) -> None:
    assert callable(done)
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, problem
        time.sleep(0.05)


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_the_same_manifest_gives_the_same_output(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01", "web02", "broken1"])
    with scheduler(tmp_path) as address, worker(tmp_path, address, "one"), worker(tmp_path, address, "two"):
        code, out, err = p2v("batch", path, "--output", tmp_path / "far", "--cluster", address)
    assert code == 9, out + err
    assert "2 of 3 machines done" in out
    assert re.search(r"broken1 +failed: the guest is damaged", out)
    assert used() == 2
    assert p2v("batch", path, "--output", tmp_path / "near")[0] == 9
    for name in ("web01", "web02"):
        far, near = read_receipt(tmp_path / "far" / name), read_receipt(tmp_path / "near" / name)
        assert far is not None
        assert near is not None
        assert far.images == near.images
        assert far.license is not None
        assert far.license.state == "committed"
        steps = [[step.name for step in one.steps] for one in (far, near)]
        assert steps[0] == steps[1]
    # What is done is not asked of the cluster again, which is gone by now.
    code, out, _ = p2v("batch", path, "--output", tmp_path / "far", "--only", "web01")
    assert (code, "done before" in out) == (0, True)


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_a_job_of_a_killed_worker_is_done_elsewhere_for_one_unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    gate.mkdir()
    monkeypatch.setenv(stub.GATE, str(gate))
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(scheduler(tmp_path))
        workers = [stack.enter_context(worker(tmp_path, address, name)) for name in ("one", "two")]
        code = "from tests.batch import stub; stub.install(); from p2v import cli; cli.main()"
        words = [sys.executable, "-c", code, "batch", str(path), "--output", str(runs), "--cluster", address]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        child = stack.enter_context(subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True))
        stack.callback(child.kill)
        _until(lambda: list(gate.iterdir()), "nobody works")
        first = int(next(gate.iterdir()).suffix[1:])
        assert first in [one.pid for one in workers]
        with open_ledger(default_home()) as ledger:
            assert (ledger.status().reserved, ledger.status().used) == (1, 0)
        captured = next(step for step in read_journal(runs / "web01").steps if step.name == "capture")
        os.kill(first, signal.SIGKILL)
        _until(lambda: len(list(gate.iterdir())) == 2, "nobody took it over")
        (gate / "open").touch()
        assert child.wait(30) == 0
    receipt = read_receipt(runs / "web01")
    assert receipt is not None
    assert receipt.license is not None
    assert (receipt.license.state, receipt.license.units) == ("committed", 1)
    assert captured in receipt.steps
    assert used() == 1


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_an_interrupted_batch_lets_the_workers_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    gate.mkdir()
    monkeypatch.setenv(stub.GATE, str(gate))
    with scheduler(tmp_path) as address, worker(tmp_path, address, "one"):
        code = "from tests.batch import stub; stub.install(); from p2v import cli; cli.main()"
        words = [sys.executable, "-c", code, "batch", str(path), "--output", str(runs), "--cluster", address]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) as child:
            _until(lambda: list(gate.iterdir()), "nobody works")
            child.send_signal(signal.SIGINT)
            assert child.wait(25) == 130
            assert child.stdout is not None
            assert re.search(r"web01 +interrupted", child.stdout.read())
        assert used() == 0
        (gate / "open").touch()
        # The worker has let go of the run, and takes it again.
        code_again, out, err = p2v("batch", path, "--output", runs, "--cluster", address)
        assert code_again == 0, out + err
    assert used() == 1


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_a_worker_lets_go_of_what_nobody_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coordinator that is killed and started again finds its run free, though the worker was in it."""
    path = stub.write_manifest(tmp_path, ["web01"])
    gate, runs = tmp_path / "gate", tmp_path / "runs"
    gate.mkdir()
    monkeypatch.setenv(stub.GATE, str(gate))
    with scheduler(tmp_path) as address, worker(tmp_path, address, "one"):
        code = "from tests.batch import stub; stub.install(); from p2v import cli; cli.main()"
        words = [sys.executable, "-c", code, "batch", str(path), "--output", str(runs), "--cluster", address]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(words, env=env) as child:
            _until(lambda: list(gate.iterdir()), "nobody works")
            child.kill()
        (note,) = gate.iterdir()
        note.unlink()
        with subprocess.Popen(words, env=env) as again:
            _until(lambda: list(gate.iterdir()), "the run is still taken")
            (gate / "open").touch()
            assert again.wait(30) == 0
    assert used() == 1


@pytest.mark.tools
@pytest.mark.timeout(120)
def test_without_a_worker_that_takes_conversions_nothing_starts(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    with scheduler(tmp_path) as address, worker(tmp_path, address, "one", resources=""):
        code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--cluster", address)
    assert (code, "--resources conversion=1" in err) == (2, True)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_nobody_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1.0)
    path = stub.write_manifest(tmp_path, ["web01"])
    code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--cluster", "tcp://127.0.0.1:9")
    assert (code, "No Dask scheduler answers" in err) == (7, True)


def test_a_password_that_must_be_typed_cannot_be_used_elsewhere(tmp_path: Path) -> None:
    path = stub.write_manifest(tmp_path, ["web01"])
    path.write_text(path.read_text().replace("{to: libvirt}", "{to: libvirt, password: prompt}"))
    code, _, err = p2v("batch", path, "--output", tmp_path / "runs", "--cluster", "tcp://127.0.0.1:9")
    assert (code, "another machine: web01" in err) == (2, True)


def test_a_worker_refuses_what_it_cannot_know(tmp_path: Path) -> None:
    """Another version, a folder that is not shared: said in the answer, as an error of the job."""
    from p2v import __version__

    for order, words in (
        (Order(str(tmp_path), 1, "0.0.0", "{}"), "The worker on"),
        (Order(str(tmp_path / "nowhere"), 1, __version__, "{}"), "does not see"),
    ):
        answer = json.loads(cluster.work_on(order))
        assert answer["receipt"] is None
        assert words in answer["error"]["message"]
        assert answer["error"]["exit_code"] == 2


@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b'{"said": [], "receipt": "{}"}', b'{"said": 1}'])
def test_an_answer_that_is_none_is_an_error_of_the_job(answer: bytes) -> None:
    house = House(UI(style=ProgressStyle.NONE), Path("/nowhere"))
    with pytest.raises(P2VError):
        cluster._receipt_in(answer, house)


def test_an_error_of_a_worker_is_of_the_same_class() -> None:
    house = House(UI(style=ProgressStyle.NONE), Path("/nowhere"))
    error = {"message": "no", "hint": "do", "exit_code": 3}
    with pytest.raises(PlanRefused) as caught:
        cluster._receipt_in(json.dumps({"said": [], "receipt": None, "error": error}).encode(), house)
    assert (caught.value.message, caught.value.hint) == ("no", "do")


def test_a_share_of_the_budget_is_a_limit_of_its_own() -> None:
    assert Share(5e6).limit().current() == 5e6
