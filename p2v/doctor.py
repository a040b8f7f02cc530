"""`p2v doctor`: every tool, library and ability that a conversion needs, and what mends it."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory

from p2v import command
from p2v.accelerator import Accelerator, find_accelerator, newest_kernel
from p2v.errors import P2VError, TargetError
from p2v.guest import Access, GuestDisk, open_guest
from p2v.model import GiB, ImageFormat, MiB
from p2v.run import free_space
from p2v.ui import UI, human_size

TOOLS = (
    ("qemu-img", "qemu-utils", "write disk images"),
    ("qemu-nbd", "qemu-utils", "read images that are not raw"),
    ("qemu-system-x86_64", "qemu-system-x86", "prove that a virtual machine boots"),
)
OPTIONAL_TOOLS = (
    ("xorriso", "xorriso", "read drivers from an ISO image, and build the rescue system"),
    ("mmdebstrap", "mmdebstrap", "build the rescue system"),
    ("mksquashfs", "squashfs-tools", "build the rescue system"),
    ("virt-xml-validate", "libvirt-clients", "check the configuration for libvirt"),
    ("virsh", "libvirt-clients", "start the result with libvirt"),
)
LIBRARIES = (
    ("guestfs", "python3-guestfs", "convert guests"),
    ("nbd", "python3-libnbd", "read images that are not raw"),
)
OPTIONAL_LIBRARIES = (
    ("hivex", "python3-hivex", "convert Windows guests"),
    ("parted", "python3-parted", "restore onto disks of another size"),
)
KERNEL_PACKAGE = "linux-image-amd64"
LITTLE_SPACE = 10 * GiB


class State(StrEnum):
    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `mend` is the command to type."""

    name: str
    state: State
    found: str
    mend: str = ""


def examine(home: Path, ui: UI) -> tuple[Check, ...]:
    """Look at everything; takes up to a minute, for the appliance is really started."""
    checks = [*_tools(), *_libraries(), _kernel(), _firmware(), _accelerator(home), _space(Path.cwd())]
    with ui.phase("Starting the libguestfs appliance"):
        checks.append(_appliance(home))
    return tuple(checks)


def require(checks: tuple[Check, ...]) -> None:
    """Raises TargetError where something is missing without which no conversion works."""
    missing = [check.name for check in checks if check.state is State.MISSING]
    if missing:
        raise TargetError(f"p2v cannot convert on this machine yet: {', '.join(missing)}")


def _tools() -> Iterator[Check]:
    for name, package, reason in TOOLS:
        yield _tool(name, package, reason, State.MISSING)
    for name, package, reason in OPTIONAL_TOOLS:
        yield _tool(name, package, reason, State.WARNING)


def _tool(name: str, package: str, reason: str, otherwise: State) -> Check:
    found = command.find_tool(name)
    if found:
        return Check(name, State.OK, found)
    return Check(name, otherwise, f"not installed; needed to {reason}", f"sudo apt install {package}")


def _libraries() -> Iterator[Check]:
    for name, package, reason in LIBRARIES:
        yield _library(name, package, reason, State.MISSING)
    for name, package, reason in OPTIONAL_LIBRARIES:
        yield _library(name, package, reason, State.WARNING)


def _library(name: str, package: str, reason: str, otherwise: State) -> Check:
    if importlib.util.find_spec(name):
        return Check(f"python3: {name}", State.OK, "importable")
    mend = f"sudo apt install {package}; then /usr/bin/python3 -m venv --system-site-packages"
    return Check(
        f"python3: {name}", otherwise, f"{sys.executable} cannot import it; needed to {reason}", mend
    )


def _kernel() -> Check:
    kernel = newest_kernel(Path("/boot"))
    if kernel is not None:
        return Check("kernel", State.OK, str(kernel))
    if any(Path("/boot").glob("vmlinuz*")):
        mend = "sudo chmod 0644 /boot/vmlinuz*"
        return Check("kernel", State.MISSING, "not readable by you; the appliance needs it", mend)
    return Check(
        "kernel",
        State.MISSING,
        "none in /boot; the appliance needs one",
        f"sudo apt install {KERNEL_PACKAGE}",
    )


def _firmware() -> Check:
    for path in (Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_CODE.fd")):
        if path.exists():
            return Check("UEFI firmware", State.OK, str(path))
    return Check(
        "UEFI firmware", State.WARNING, "none; needed to prove UEFI machines", "sudo apt install ovmf"
    )


def _accelerator(home: Path) -> Check:
    answer = find_accelerator(home / "cache")
    if answer.accelerator is Accelerator.KVM:
        return Check("KVM", State.OK, answer.reason)
    mend = "Everything works in emulation too, several times slower"
    return Check("KVM", State.WARNING, answer.reason, mend)


def _appliance(home: Path) -> Check:
    accelerator = find_accelerator(home / "cache").accelerator
    started = time.monotonic()
    with TemporaryDirectory(prefix="p2v-doctor-") as folder:
        disk = Path(folder) / "empty.raw"
        disk.write_bytes(bytes(MiB))
        disks = [GuestDisk(disk, ImageFormat.RAW)]
        try:
            with open_guest(disks, access=Access.READ_ONLY, accelerator=accelerator):
                seconds = time.monotonic() - started
        except P2VError as error:
            return Check("libguestfs appliance", State.MISSING, error.message, error.hint)
    return Check("libguestfs appliance", State.OK, f"starts in {seconds:.0f} s")


def _space(path: Path) -> Check:
    available = free_space(path)
    state = State.OK if available > LITTLE_SPACE else State.WARNING
    temporary = os.environ.get("TMPDIR", "/var/tmp")
    mend = "" if state is State.OK else "Runs go where --output says"
    return Check(
        "free space", state, f"{human_size(available)} in {path}; temporary files in {temporary}", mend
    )
