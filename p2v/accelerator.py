"""Whether this host can run guests with KVM, or only emulate them.

`/dev/kvm` may exist, open and even run a firmware, and a stock kernel still hangs under it without an
error (some nested clouds). So a kernel is booted once with a short time limit, and the answer is remembered
until the host restarts, its kernel changes or another QEMU is installed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from p2v import command
from p2v.atomic import write_atomically
from p2v.errors import UsageError

QEMU = "qemu-system-x86_64"
VARIABLE = "P2V_ACCEL"
CACHE_NAME = "accelerator.json"
CACHE_LIMIT = 64 * 1024

PROBE_SECONDS = 10.0
"""A host with working KVM needs less than two; one without a working KVM never gets there."""

KERNEL_STARTED = b"Linux version"
KERNEL_ENDED = b"Kernel panic - not syncing"


class Accelerator(StrEnum):
    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True, slots=True)
class AcceleratorAnswer:
    """What to run guests with. `reason` is a sentence for a person, without a full stop."""

    accelerator: Accelerator
    reason: str


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Where the host keeps what the probe looks at."""

    device: Path = Path("/dev/kvm")
    boot: Path = Path("/boot")
    boot_id: Path = Path("/proc/sys/kernel/random/boot_id")


HOST = HostPaths()


def find_accelerator(
    cache_dir: Path, *, host: HostPaths = HOST, seconds: float = PROBE_SECONDS
) -> AcceleratorAnswer:
    """KVM where it really runs a kernel, else emulation with the reason.

    Takes milliseconds when the answer is known, and up to `seconds` (and ten more for ending a stuck QEMU)
    once after each start of the host. The environment variable P2V_ACCEL overrides everything; raises
    UsageError when it holds something else than `kvm` or `tcg`.
    """
    wanted = os.environ.get(VARIABLE, "")
    if wanted:
        return _wanted(wanted)
    obstacle = _obstacle(host)
    if obstacle:
        return AcceleratorAnswer(Accelerator.TCG, obstacle)
    key = _host_key(host)
    known = _read_cache(cache_dir / CACHE_NAME, key)
    if known is not None:
        return known
    answer = probe(newest_kernel(host.boot), seconds=seconds)
    _write_cache(cache_dir, key, answer)
    return answer


def _wanted(value: str) -> AcceleratorAnswer:
    try:
        return AcceleratorAnswer(Accelerator(value.lower()), f"the environment variable {VARIABLE} says so")
    except ValueError as error:
        raise UsageError(
            f"{VARIABLE} is {value[:40]!r}, and must be kvm or tcg", hint=f"Try: unset {VARIABLE}"
        ) from error


def _obstacle(host: HostPaths) -> str:
    """Why no probe is needed, or can be made; empty where one must decide."""
    if command.find_tool(QEMU) is None:
        return f"{QEMU} is not installed"
    if not host.device.exists():
        return f"there is no {host.device} on this host"
    if not os.access(host.device, os.R_OK | os.W_OK):
        return f"no permission to use {host.device} (try: sudo usermod --append --groups kvm $USER)"
    if newest_kernel(host.boot) is None:
        return f"no readable kernel in {host.boot} to test KVM with (try: sudo chmod +r /boot/vmlinuz*)"
    return ""


def newest_kernel(boot: Path) -> Path | None:
    """The readable `vmlinuz*` with the highest version, or None."""
    readable = [path for path in boot.glob("vmlinuz*") if path.is_file() and os.access(path, os.R_OK)]
    return max(readable, key=_version, default=None)


def _version(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d{1,9}", path.name))


def probe(kernel: Path | None, *, seconds: float = PROBE_SECONDS) -> AcceleratorAnswer:
    """Boot `kernel` without a root filesystem under KVM and see whether it gets to its panic."""
    if kernel is None:
        return AcceleratorAnswer(Accelerator.TCG, "no readable kernel to test KVM with")
    # TMPDIR is the user's business: the log has some ten KiB.
    with tempfile.TemporaryDirectory(prefix="p2v-kvm-") as folder:
        log = Path(folder) / "serial.log"
        started = time.monotonic()
        with log.open("wb") as said, command.start(probe_argv(kernel), log=said) as child:
            while time.monotonic() - started < seconds:
                ended = child.poll() is not None
                text = log.read_bytes()
                if KERNEL_STARTED in text and KERNEL_ENDED in text:
                    took = time.monotonic() - started
                    return AcceleratorAnswer(Accelerator.KVM, f"{kernel.name} ran under KVM in {took:.1f} s")
                if ended:
                    return AcceleratorAnswer(Accelerator.TCG, f"QEMU refused KVM: {_last_line(text)}")
                time.sleep(0.1)
    return AcceleratorAnswer(
        Accelerator.TCG, f"/dev/kvm exists, but {kernel.name} did not start under it within {seconds:.0f} s"
    )


def probe_argv(kernel: Path) -> list[str]:
    argv = [QEMU, "-accel", "kvm", "-nodefaults", "-display", "none", "-serial", "stdio", "-monitor", "none"]
    return [*argv, "-no-reboot", "-m", "256", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1"]


def _last_line(text: bytes) -> str:
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return "".join(char for char in lines[-1][:200] if char.isprintable()) if lines else "it said nothing"


def _host_key(host: HostPaths) -> str:
    """What the answer depends on. QEMU's file stands for its version, so that nothing has to be started."""
    qemu = command.find_tool(QEMU) or ""
    stamp = Path(qemu).stat()
    boot_id = host.boot_id.read_text().strip() if host.boot_id.exists() else ""
    return f"{boot_id} {os.uname().release} {qemu}:{stamp.st_mtime_ns}:{stamp.st_size}"


def _read_cache(path: Path, key: str) -> AcceleratorAnswer | None:
    """The remembered answer for `key`. Anything odd in the file is the same as no file."""
    try:
        with path.open("rb") as file:
            kept = json.loads(file.read(CACHE_LIMIT))
        if kept["host"] != key:
            return None
        return AcceleratorAnswer(Accelerator(kept["accelerator"]), str(kept["reason"])[:500])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _write_cache(folder: Path, key: str, answer: AcceleratorAnswer) -> None:
    # A cache that cannot be written costs time at the next start, nothing else.
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps({"host": key, **asdict(answer)}, indent=2)
        write_atomically(folder / CACHE_NAME, f"{content}\n".encode())
