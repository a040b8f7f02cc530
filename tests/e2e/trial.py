"""One boot of a machine on the hardware of a target, seen from outside: its verdict, and itself over SSH."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fixtures.matrix import BuiltHost, Host
from fixtures.metal import DEFAULT_HARDWARE, free_port
from p2v import command
from p2v.accelerator import Accelerator
from p2v.model import (
    DiskBus,
    Firmware,
    GiB,
    ImageFormat,
    NicModel,
    Verdict,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.proof import Forward, NetworkAccess, Watch, boot
from tests.e2e.conftest import IDENTITY, Facts

BOOT_SECONDS = 700.0
NETWORK_SECONDS = 150.0
"""How long after its login prompt a machine may take until sshd answers; 20 s in emulation alone."""

CHECKS = (
    ("systemctl", "--failed", "--no-legend", "--plain"),
    ("findmnt", "--real", "--raw", "--noheadings", "--output", "TARGET"),
    ("swapon", "--show=NAME", "--noheadings"),
    ("sh", "-c", "cd /srv && sha256sum --quiet --check MANIFEST 2>&1"),
    ("sh", "-c", "cat /data/*/WHO 2>/dev/null || true"),
)


@dataclass(frozen=True, slots=True)
class Inside:
    """What a machine says of its own state: failed units, mount points, swap spaces, damage, data disks."""

    failed: str
    mounts: str
    swap: str
    damage: str
    data: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One boot. `facts` and `inside` are None where nobody answered at the machine's own address."""

    verdict: Verdict
    evidence: str
    facts: Facts | None = None
    inside: Inside | None = None


def as_it_is(host: Host, built: BuiltHost) -> VirtualMachine:
    """The target's hardware around the unconverted disks, the boot disk first."""
    order = boot_order(built)
    disks = tuple(
        VirtualDisk(
            built.images[index].name,
            ImageFormat.RAW,
            host.drives[index].size,
            DiskBus.VIRTIO_BLK,
            serial=built.serials[index],
        )
        for index in order
    )
    return VirtualMachine(
        name="trial",
        uuid=DEFAULT_HARDWARE.uuid,
        cpus=1,
        memory=GiB,
        firmware=Firmware(built.firmware),
        disks=disks,
        nics=(VirtualNic(DEFAULT_HARDWARE.mac, NicModel.VIRTIO),),
    )


def boot_order(built: BuiltHost) -> list[int]:
    """Numbers of the drives, that with the loader first."""
    others = [index for index in range(len(built.images)) if index != built.boot_drive]
    return [built.boot_drive, *others]


def source_of(built: BuiltHost) -> str:
    """SOURCE for p2v: the images by the names that the machine has for them."""
    return ",".join(f"sd{'abcdef'[index]}={built.images[index]}" for index in boot_order(built))


def try_out(
    vm: VirtualMachine, images: Path, built: BuiltHost, folder: Path, accelerator: Accelerator
) -> Trial:
    """Boot `vm` on throw-away overlays; a crash of the emulator's own making is tried once more."""
    for attempt in range(2):
        found = _boot_once(vm, images, built, folder / f"boot{attempt}", accelerator)
        if found.verdict is not Verdict.GUEST_CRASHED:
            break
    return found


def _boot_once(
    vm: VirtualMachine, images: Path, built: BuiltHost, folder: Path, accelerator: Accelerator
) -> Trial:
    folder.mkdir(parents=True)
    port = free_port()
    access = NetworkAccess(DEFAULT_HARDWARE.network, (Forward(port, 22, built.address.partition("/")[0]),))
    with boot(vm, images, folder, accelerator=accelerator, network=access) as emulator:
        judgement = Watch(emulator, BOOT_SECONDS).run().judgement
        if not judgement.verdict.passed:
            return Trial(judgement.verdict, judgement.evidence)
        login = ssh_command(built, port, folder)
        if not _answers(login):
            return Trial(judgement.verdict, judgement.evidence)
        facts = Facts(*(ask(login, words) for words in IDENTITY))
        inside = Inside(*(ask(login, words) for words in CHECKS))
    return Trial(judgement.verdict, judgement.evidence, facts, inside)


def ssh_command(built: BuiltHost, port: int, folder: Path) -> list[str]:
    """The VM must have the host key of the metal: anything else is refused by ssh itself."""
    known_hosts = folder / "known_hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {built.host_key}\n")
    argv = [
        "ssh",
        "-F",
        "none",
        "-i",
        str(built.key),
        "-p",
        str(port),
        "-o",
        f"UserKnownHostsFile={known_hosts}",
    ]
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "ConnectTimeout=20", "IdentitiesOnly=yes"):
        argv += ["-o", option]
    return [*argv, "-o", "LogLevel=ERROR", "root@127.0.0.1", "--"]


def _answers(login: Sequence[str]) -> bool:
    deadline = time.monotonic() + NETWORK_SECONDS
    while time.monotonic() < deadline:
        if subprocess.run([*login, "true"], check=False, timeout=120, capture_output=True).returncode == 0:
            return True
        time.sleep(2)
    return False


def ask(login: Sequence[str], words: Sequence[str]) -> str:
    """What a command on the machine prints; it may fail."""
    return command.run([*login, shlex.join(words)], timeout=120).stdout.strip()
