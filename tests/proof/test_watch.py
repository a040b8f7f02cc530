"""Watching a boot, with a machine that plays a script: settling, restarts, the one retry, what is written."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from p2v import proof
from p2v.accelerator import Accelerator
from p2v.model import Proof, Verdict
from p2v.proof import Outcome, Watch, prove
from p2v.proof.picture import Picture
from p2v.proof.qmp import QmpError
from p2v.proof.verdict import Judgement
from p2v.ui import UI
from tests.proof.machines import machine

LOGIN = b"\r\nmetal12 login: "
FAILED = b"\r\n[FAILED] Failed to start late.service - Late.\r\n"


class Player:
    """Stands for an emulator: each look sees the next scene (serial text, state), then the last."""

    def __init__(self, *scenes: tuple[bytes, str], reset: bool = False) -> None:
        self._scenes = itertools.chain(scenes, itertools.repeat(scenes[-1]))
        self._scene = scenes[0]
        self.wants_restart = reset
        self.restarts = 0

    def status(self) -> str:
        self._scene = next(self._scenes)
        return self._scene[1]

    def serial(self) -> bytes:
        return self._scene[0]

    def firmware_log(self) -> bytes:
        return b""

    def said(self) -> str:
        return ""

    def picture(self) -> Picture | None:
        return None

    def restart(self) -> None:
        self.restarts += 1


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "SERIAL_POLL_SECONDS", 0.01)
    monkeypatch.setattr("p2v.proof.verdict.SETTLE_SECONDS", {})
    monkeypatch.setattr("p2v.proof.verdict.OTHER_SETTLE_SECONDS", 0.1)


def watch(player: Player, timeout: float = 1.0) -> Judgement:
    return Watch(player, timeout).run().judgement  # type: ignore[arg-type]


def test_prompt_must_stay() -> None:
    assert watch(Player((b"", "running"), (LOGIN, "running"))).verdict is Verdict.BOOTED


def test_unit_that_fails_while_settling_counts() -> None:
    judgement = watch(Player((LOGIN, "running"), (LOGIN, "running"), (LOGIN + FAILED, "running")))
    assert (judgement.verdict, judgement.failed_units) == (Verdict.DEGRADED, ("late.service",))


def test_failure_that_the_prompt_wiped_off_the_screen_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    screens = itertools.chain(
        ["[FAILED] Failed to start early.service - Early."], itertools.repeat("metal12 login:")
    )
    monkeypatch.setattr(proof, "SCREEN_POLL_SECONDS", 0.0)
    monkeypatch.setattr(proof, "read_screen", lambda _: next(screens))
    judgement = watch(Player((b"", "running")))
    assert (judgement.verdict, judgement.failed_units) == (Verdict.DEGRADED, ("early.service",))


def test_nothing_is_a_timeout() -> None:
    judgement = watch(Player((b"Loading Linux", "running")), timeout=0.1)
    assert judgement.verdict is Verdict.TIMEOUT
    assert "Loading Linux" in judgement.evidence


def test_timeout_does_not_hide_a_fresh_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2v.proof.verdict.OTHER_SETTLE_SECONDS", 60.0)
    assert watch(Player((LOGIN, "running")), timeout=0.1).verdict is Verdict.BOOTED


def test_one_restart_of_its_own_is_no_failure() -> None:
    before = b"Relabeling. Rebooting.\r\n"
    player = Player((before, "shutdown"), (before, "running"), (before + LOGIN, "running"), reset=True)
    assert watch(player).verdict is Verdict.BOOTED
    assert player.restarts == 1


def test_text_from_before_the_restart_is_not_judged_again() -> None:
    before = b"Welcome to rescue\r\n"
    player = Player((before, "shutdown"), (before + LOGIN, "running"), reset=True)
    assert watch(player).evidence == "metal12 login:"


def test_restarting_for_ever_is_a_failure() -> None:
    player = Player((b"", "shutdown"), reset=True)
    judgement = watch(player)
    assert (judgement.verdict, player.restarts) == (Verdict.GUEST_CRASHED, 2)
    assert "restarted itself 3 times" in judgement.evidence


def test_turning_off_is_a_failure() -> None:
    judgement = watch(Player((b"", "shutdown")))
    assert judgement.verdict is Verdict.GUEST_CRASHED
    assert "turned itself off" in judgement.evidence


def test_panic_that_restarts_the_machine_is_still_a_panic() -> None:
    panic = b"[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs\r\n"
    player = Player((panic, "shutdown"), reset=True)
    assert (watch(player).verdict, player.restarts) == (Verdict.KERNEL_PANIC, 0)


def test_emulator_that_does_not_restart() -> None:
    class Broken(Player):
        def restart(self) -> None:
            raise QmpError("gone")

    assert watch(Broken((b"", "shutdown"), reset=True)).verdict is Verdict.GUEST_CRASHED


def run_prove(monkeypatch: pytest.MonkeyPatch, output: Path, *verdicts: Verdict) -> tuple[Proof, str, int]:
    """Prove with boots that end in these verdicts: the proof, what was said, the number of boots."""
    left = list(verdicts)

    def boot_once(*_: object, **__: object) -> Outcome:
        return Outcome(Judgement(left.pop(0), "because", hostname="metal12"), b"text", Picture(1, 1, b"abc"))

    monkeypatch.setattr(proof, "boot_once", boot_once)
    said = io.StringIO()
    result = prove(
        machine("disk0.raw"),
        output,
        output / "proof",
        accelerator=Accelerator.TCG,
        timeout=1,
        ui=UI(stderr=said),
    )
    return result, said.getvalue(), len(verdicts) - len(left)


def test_crash_is_tried_once_more_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, said, boots = run_prove(
        monkeypatch, tmp_path, Verdict.GUEST_CRASHED, Verdict.BOOTED, Verdict.BOOTED
    )
    assert (result.verdict, boots) == (Verdict.BOOTED, 2)
    assert "second try" in result.evidence
    assert "trying once more" in said


def test_second_crash_is_the_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, _, boots = run_prove(monkeypatch, tmp_path, *[Verdict.GUEST_CRASHED] * 3)
    assert (result.verdict, boots) == (Verdict.GUEST_CRASHED, 2)


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.GUEST_CRASHED])
def test_no_other_verdict_gets_a_second_try(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, verdict: Verdict
) -> None:
    assert run_prove(monkeypatch, tmp_path, verdict, Verdict.BOOTED)[2] == 1


def test_what_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, _, _ = run_prove(monkeypatch, tmp_path, Verdict.INITRAMFS_SHELL)
    folder = tmp_path / "proof"
    assert sorted(path.name for path in folder.iterdir()) == ["screen.png", "serial.log", "verdict.json"]
    written = json.loads((folder / "verdict.json").read_text())
    assert written["verdict"] == "initramfs-shell"
    assert (folder / written["serial_log"]).read_bytes() == b"text"
    assert (folder / written["screenshot"]).read_bytes().startswith(b"\x89PNG")
    assert result.hostname == written["hostname"] == "metal12"


def test_type_of_player() -> None:
    """The stand-in must have what the emulator has, or the tests above prove nothing."""
    used: list[Callable[..., object]] = [Player.status, Player.serial, Player.firmware_log, Player.said]
    assert all(hasattr(proof.Emulator, each.__name__) for each in [*used, Player.picture, Player.restart])
    assert hasattr(proof.Emulator, "wants_restart")
