"""The proof: boot the finished machine in QEMU, alone on its network, and say what it showed."""

from __future__ import annotations

import dataclasses
import functools
import json
import tempfile
import time
from pathlib import Path

from p2v.accelerator import Accelerator
from p2v.atomic import write_atomically
from p2v.model import Proof, Verdict, VirtualMachine
from p2v.proof.devices import ISOLATED, Forward, NetworkAccess
from p2v.proof.picture import Picture, to_png
from p2v.proof.qemu import Emulator, EmulatorError, boot
from p2v.proof.qmp import QmpError
from p2v.proof.screen import read_screen
from p2v.proof.verdict import Judgement, Seen, failed_units, judge, judge_timeout, with_failures
from p2v.ui import UI

__all__ = ["ISOLATED", "Emulator", "EmulatorError", "Forward", "NetworkAccess", "boot", "prove"]

SERIAL_POLL_SECONDS = 1.0
SCREEN_POLL_SECONDS = 3.0
MAX_RESTARTS = 2
"""A system may restart itself once while it starts, to relabel its files for SELinux for example."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """One boot: what was judged, and what it left to look at."""

    judgement: Judgement
    serial: bytes = b""
    picture: Picture | None = None


def prove(
    vm: VirtualMachine,
    image_dir: Path,
    output: Path,
    *,
    accelerator: Accelerator,
    timeout: float,
    ui: UI,
    network: NetworkAccess = ISOLATED,
) -> Proof:
    """Boot `vm`, whose images lie in `image_dir`; write verdict.json, screen.png and serial.log to `output`.

    The images are never written. `timeout` (seconds) bounds each boot; a guest that crashes is booted once
    more, because emulation can crash a healthy one. `Proof.screenshot` and `.serial_log` are names in
    `output`. Every way to fail to boot is a verdict; raises TargetError where no boot can be tried at all.
    """
    output.mkdir(parents=True, exist_ok=True)
    # An old verdict must not survive a boot that could not be tried.
    (output / "verdict.json").unlink(missing_ok=True)
    attempt = functools.partial(
        boot_once, vm, image_dir, output, accelerator=accelerator, timeout=timeout, network=network
    )
    started = time.monotonic()
    with ui.phase(f"Booting {vm.name} ({accelerator.value})"):
        outcome = attempt()
    if outcome.judgement.verdict is Verdict.GUEST_CRASHED:
        ui.warn(f"The guest crashed ({outcome.judgement.evidence}); trying once more")
        started = time.monotonic()
        with ui.phase(f"Booting {vm.name} again ({accelerator.value})"):
            outcome = attempt()
        outcome = dataclasses.replace(outcome, judgement=note_retry(outcome.judgement))
    return write_proof(outcome, output, accelerator, time.monotonic() - started)


def note_retry(judgement: Judgement) -> Judgement:
    return dataclasses.replace(
        judgement, evidence=f"{judgement.evidence} (second try; the guest crashed in the first)"
    )


def boot_once(
    vm: VirtualMachine,
    image_dir: Path,
    output: Path,
    *,
    accelerator: Accelerator,
    timeout: float,
    network: NetworkAccess,
) -> Outcome:
    """One boot in a private folder inside `output`, which is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=".boot-", dir=output) as folder:
        try:
            with boot(vm, image_dir, Path(folder), accelerator=accelerator, network=network) as emulator:
                return Watch(emulator, timeout).run()
        except EmulatorError as error:
            return Outcome(judge(Seen(status="gone", said=str(error))) or judge_timeout(Seen(), 0))


class Watch:
    """Looks at a running machine until a judgement has stood long enough, or time is up."""

    def __init__(self, emulator: Emulator, timeout: float) -> None:
        self._emulator = emulator
        self._timeout = timeout
        self._started = time.monotonic()
        self._screen = ""
        self._screen_at = 0.0
        self._read_from = 0
        self._restarts = 0
        self._failed: dict[str, None] = {}

    def run(self) -> Outcome:
        judgement: Judgement | None = None
        since = time.monotonic()
        while time.monotonic() - self._started < self._timeout:
            seen = self.look()
            newest = judge(seen)
            if judgement is None or newest is None or newest.verdict is not judgement.verdict:
                since = time.monotonic()
            judgement = newest
            if judgement and (seen.status != "running" or time.monotonic() - since >= judgement.settle):
                return self._end(judgement)
            if seen.status == "shutdown" and not self._restart():
                return self._end(Judgement(Verdict.GUEST_CRASHED, self._why_stopped()))
            time.sleep(SERIAL_POLL_SECONDS)
        return self._end(judgement or judge_timeout(self.look(), self._timeout))

    def look(self) -> Seen:
        """One look: the screen is read less often, reading it costs more."""
        if time.monotonic() - self._screen_at >= SCREEN_POLL_SECONDS:
            self._screen_at = time.monotonic()
            self._screen = read_screen(self._emulator.picture())
            # The login prompt clears the screen, so what failed before it must be remembered.
            self._failed.update(dict.fromkeys(failed_units(self._screen)))
        status = self._emulator.status()
        return Seen(
            serial=_text(self._emulator.serial()[self._read_from :]),
            screen=self._screen,
            firmware=_text(self._emulator.firmware_log()),
            status=status,
            said=self._emulator.said(),
        )

    def _restart(self) -> bool:
        """Let the guest restart if it asked for that and did not do so too often."""
        if not self._emulator.wants_restart or self._restarts >= MAX_RESTARTS:
            return False
        self._restarts += 1
        self._read_from = len(self._emulator.serial())
        self._screen, self._screen_at = "", time.monotonic()
        self._failed.clear()
        try:
            self._emulator.restart()
        except QmpError:
            return False
        return True

    def _why_stopped(self) -> str:
        if self._emulator.wants_restart:
            return f"the guest restarted itself {self._restarts + 1} times without a login prompt"
        return "the guest turned itself off without a login prompt"

    def _end(self, judgement: Judgement) -> Outcome:
        judgement = with_failures(judgement, tuple(self._failed))
        return Outcome(judgement, self._emulator.serial(), self._emulator.picture())


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def write_proof(outcome: Outcome, output: Path, accelerator: Accelerator, seconds: float) -> Proof:
    """Write the files of the proof; `verdict.json` last, so that it only stands beside what it names."""
    write_atomically(output / "serial.log", outcome.serial, mode=0o644)
    if outcome.picture is not None:
        write_atomically(output / "screen.png", to_png(outcome.picture), mode=0o644)
    judgement = outcome.judgement
    proof = Proof(
        verdict=judgement.verdict,
        evidence=judgement.evidence,
        seconds=round(seconds, 1),
        accelerator=accelerator.value,
        screenshot="screen.png" if outcome.picture is not None else "",
        serial_log="serial.log",
        failed_units=judgement.failed_units,
        hostname=judgement.hostname,
    )
    text = json.dumps(dataclasses.asdict(proof), indent=2, ensure_ascii=False)
    write_atomically(output / "verdict.json", f"{text}\n".encode(), mode=0o644)
    return proof
