"""A running QEMU for a proof: started on throw-away overlays, watched over files and a control line, ended.

The images are opened read-only as backing files, so nothing that the guest does reaches them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.accelerator import QEMU, Accelerator
from p2v.disk.packed import image_name
from p2v.errors import TargetError
from p2v.model import Firmware, MiB, VirtualMachine
from p2v.proof import devices
from p2v.proof.picture import Picture, read_ppm
from p2v.proof.qmp import Qmp, QmpError, connect

TEXT_LIMIT = 16 * MiB
"""A guest that writes more to its serial port than this is not listened to any more."""

PICTURE_LIMIT = 64 * MiB
ERROR_LIMIT = 2000
SHORT_SECONDS = 60.0
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

GONE = "gone"
"""Our own word beside QEMU's run states: the process ended."""

OVMF_FILES = (
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ("/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/edk2/x64/OVMF_VARS.4m.fd"),
    ("/usr/share/qemu/ovmf-x86_64-code.bin", "/usr/share/qemu/ovmf-x86_64-vars.bin"),
)
"""Code and empty variables of Debian and Ubuntu, older Debian, Fedora, Arch and SUSE; no Secure Boot."""


class EmulatorError(Exception):
    """QEMU did not start; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Scratch:
    """The private folder of one boot."""

    folder: Path

    @property
    def serial(self) -> Path:
        return self.folder / "serial.log"

    @property
    def firmware(self) -> Path:
        return self.folder / "firmware.log"

    @property
    def said(self) -> Path:
        return self.folder / "qemu.log"

    @property
    def picture(self) -> Path:
        return self.folder / "screen.ppm"

    @property
    def variables(self) -> Path:
        return self.folder / "OVMF_VARS.fd"

    def overlay(self, index: int) -> Path:
        return self.folder / f"overlay{index}.qcow2"


class Emulator:
    """One running machine. Everything that it shows is hostile text of bounded length."""

    def __init__(self, child: command.Child, qmp: Qmp, scratch: Scratch) -> None:
        self._child = child
        self._qmp = qmp
        self._scratch = scratch
        self._listening = True

    def status(self) -> str:
        """QEMU's run state (`running`, `shutdown`, `internal-error`, `io-error`, …), or `gone`."""
        if self._child.poll() is not None:
            return GONE
        try:
            return str(self._qmp.ask("query-status")["status"])
        except (QmpError, KeyError, TypeError):
            return GONE

    def serial(self) -> bytes:
        """All that came out of the serial port, up to the limit."""
        text = read_head(self._scratch.serial, TEXT_LIMIT)
        if len(text) >= TEXT_LIMIT and self._listening:
            self._stop_listening()
        return text

    def _stop_listening(self) -> None:
        # Otherwise a chatty guest fills the host's disk.
        self._listening = False
        null = {"type": "null", "data": {}}
        with contextlib.suppress(QmpError):
            self._qmp.ask("chardev-change", id="serial", backend=null)

    def firmware_log(self) -> bytes:
        return read_head(self._scratch.firmware, MiB)

    def said(self) -> str:
        """The end of what QEMU itself had to say."""
        return read_said(self._scratch)

    def picture(self) -> Picture | None:
        """The screen as it is now; None where QEMU gives none."""
        path = self._scratch.picture
        try:
            self._qmp.ask("screendump", filename=str(path))
            return read_ppm(read_head(path, PICTURE_LIMIT))
        except (QmpError, OSError, ValueError):
            return None

    def restart(self) -> None:
        """Let a machine that asked for a reset, and was stopped for it, start again. Raises QmpError."""
        self._qmp.ask("set-action", reboot="reset")
        self._qmp.ask("system_reset")
        self._qmp.ask("set-action", reboot="shutdown")
        self._qmp.ask("cont")

    @property
    def wants_restart(self) -> bool:
        """Whether the guest stopped to restart, not to turn itself off."""
        return self._qmp.shutdown_reason == "guest-reset"


def read_head(path: Path, limit: int) -> bytes:
    """At most `limit` bytes of a file; nothing where there is no file."""
    try:
        with path.open("rb") as file:
            return file.read(limit)
    except FileNotFoundError:
        return b""


def read_said(scratch: Scratch) -> str:
    return read_head(scratch.said, MiB).decode("utf-8", "replace").strip()[-ERROR_LIMIT:]


@contextlib.contextmanager
def boot(
    vm: VirtualMachine,
    image_dir: Path,
    folder: Path,
    *,
    accelerator: Accelerator,
    network: devices.NetworkAccess = devices.ISOLATED,
) -> Iterator[Emulator]:
    """Start `vm` on overlays in the empty private `folder`; it is ended with the block.

    Raises EmulatorError when QEMU does not start, TargetError when an image or a local program is missing.
    """
    scratch = Scratch(folder)
    qemu = command.need_tool(QEMU, reason="prove that a machine boots", package="qemu-system-x86")
    make_overlays(vm, image_dir, scratch)
    # The path of a Unix socket has at most 107 bytes, and the output folder may be deep.
    with tempfile.TemporaryDirectory(prefix="p2v-qmp-") as short, scratch.said.open("wb") as said:
        socket = Path(short) / "qmp"
        argv = [qemu, *arguments(vm, scratch, accelerator, network), *control_arguments(scratch, socket)]
        with (
            command.start([*argv, *sandbox_arguments(qemu)], log=said) as child,
            contextlib.ExitStack() as stack,
        ):
            try:
                qmp = stack.enter_context(connect(socket, alive=lambda: child.poll() is None))
                qmp.ask("cont")
            except QmpError as error:
                raise EmulatorError(read_said(scratch) or str(error)) from error
            yield Emulator(child, qmp, scratch)


def make_overlays(vm: VirtualMachine, image_dir: Path, scratch: Scratch) -> None:
    """Make the throw-away overlays, and the private copy of the firmware's variables."""
    qemu_img = command.need_tool("qemu-img", reason="prove that a machine boots", package="qemu-utils")
    for index, disk in enumerate(vm.disks):
        image = image_name(image_dir, disk.file, disk.format)
        words = [qemu_img, "create", "-q", "-f", "qcow2", "-F", disk.format.value, "-b", image]
        command.check(
            [*words, scratch.overlay(index)], timeout=SHORT_SECONDS, reason=f"make an overlay of {image}"
        )
    if vm.firmware is Firmware.UEFI:
        shutil.copyfile(find_ovmf()[1], scratch.variables)


def find_ovmf() -> tuple[Path, Path]:
    """The UEFI firmware for virtual machines: code and empty variables. Raises TargetError without one."""
    for code, variables in OVMF_FILES:
        if Path(code).is_file() and Path(variables).is_file():
            return Path(code), Path(variables)
    raise TargetError(
        "A UEFI firmware for QEMU (OVMF) is needed to prove this machine", hint="Try: sudo apt install ovmf"
    )


def arguments(
    vm: VirtualMachine, scratch: Scratch, accelerator: Accelerator, network: devices.NetworkAccess
) -> list[str]:
    """The machine itself."""
    memory = devices.proof_memory(vm.memory, available_memory())
    words = ["-nodefaults", "-no-user-config", "-machine", devices.machine_type(vm), "-m", str(memory // MiB)]
    words += processor_arguments(vm, accelerator)
    if vm.firmware is Firmware.UEFI:
        words += devices.firmware_arguments(vm.firmware, find_ovmf()[0], scratch.variables)
    overlays = [scratch.overlay(index) for index in range(len(vm.disks))]
    words += devices.disk_arguments(vm.disks, overlays)
    words += devices.nic_arguments(vm.nics, network)
    return [*words, "-boot", "strict=on", "-device", "VGA", "-rtc", "base=utc"]


def processor_arguments(vm: VirtualMachine, accelerator: Accelerator) -> list[str]:
    match accelerator:
        case Accelerator.KVM:
            return ["-accel", "kvm", "-cpu", "host", "-smp", str(max(1, min(vm.cpus, devices.MAX_CPUS)))]
        case Accelerator.TCG:
            # Emulation with several threads can crash a healthy guest, so it gets one processor.
            return ["-accel", "tcg,thread=single", "-cpu", "max", "-smp", "1"]


def control_arguments(scratch: Scratch, socket: Path) -> list[str]:
    """How we see and steer it. It starts paused, so nothing is missed, and stops rather than restarts."""
    words = ["-display", "none", "-S", "-no-reboot", "-no-shutdown"]
    words += ["-chardev", f"file,id=serial,path={devices.option(scratch.serial)}"]
    words += ["-device", "isa-serial,chardev=serial"]
    # SeaBIOS writes its own log to this port: "No bootable device." is read from there.
    words += ["-chardev", f"file,id=firmware,path={devices.option(scratch.firmware)}"]
    words += ["-device", "isa-debugcon,iobase=0x402,chardev=firmware"]
    return [*words, "-qmp", f"unix:{devices.option(socket)},server=on,wait=off"]


def sandbox_arguments(qemu: str) -> list[str]:
    """QEMU's own system call filter, where it was built with one."""
    known = command.run([qemu, "-sandbox", SANDBOX, "-version"], timeout=SHORT_SECONDS).code == 0
    return ["-sandbox", SANDBOX] if known else []


def available_memory(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Bytes of memory that the host can give without swapping; the upper limit where it does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return devices.MAX_MEMORY
