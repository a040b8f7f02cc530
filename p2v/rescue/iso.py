"""One image that a BIOS and UEFI start, from a CD and from a USB stick.

El Torito with GRUB for a BIOS, a partition with shim and GRUB (signed by Debian, so that Secure Boot may be
on) for UEFI, and a boot sector in front for sticks. The layout is that of Ubuntu's installation images since
20.10; options as in xorrisofs(1), "Bootable ISO images".
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from p2v import command
from p2v.rescue.base import Base

VOLUME = "P2V_RESCUE"
ESP_KIB = 12 * 1024
STEP_SECONDS = 600.0
QUIET_BOOT = "quiet loglevel=3"
CONSOLES = "console=tty0 console=ttyS0,115200"
ESP_TYPE = "28732ac11ff8d211ba4b00a0c93ec93b"
"""GUID of an EFI system partition as its bytes lie on the disk."""
DATA_TYPE = "a2a0d0ebe5b9334487c068b6b72699c7"
"""GUID of a basic data partition, likewise."""

MENU = f"""search --no-floppy --set=root --file /p2v/vmlinuz
if [ "$grub_platform" = pc ]; then
    if serial --unit=0 --speed=115200; then
        terminal_input console serial
        terminal_output console serial
    fi
fi
set timeout=3
set default=0
menuentry "p2v rescue system" {{
    linux /p2v/vmlinuz {QUIET_BOOT} {CONSOLES}
    initrd /p2v/initrd
}}
menuentry "p2v rescue system, address by DHCP" {{
    linux /p2v/vmlinuz {QUIET_BOOT} {CONSOLES} ip=dhcp
    initrd /p2v/initrd
}}
menuentry "p2v rescue system, with all messages" {{
    linux /p2v/vmlinuz {CONSOLES} systemd.show_status=1
    initrd /p2v/initrd
}}
menuentry "Restart" {{
    reboot
}}
"""


class IsoTools:
    """Raises TargetError where one is missing."""

    def __init__(self) -> None:
        reason = "write the image"
        self.xorriso = command.need_tool("xorriso", reason=reason, package="xorriso")
        self.mkfs = command.need_tool("mkfs.vfat", reason=reason, package="dosfstools")
        self.mcopy = command.need_tool("mcopy", reason=reason, package="mtools")
        self.mmd = command.need_tool("mmd", reason=reason, package="mtools")


def write_iso(base: Base, initrd: Path, output: Path, tools: IsoTools) -> None:
    """Write the image to `output`. Raises TargetError."""
    with tempfile.TemporaryDirectory(prefix=".p2v-iso-", dir=output.parent) as scratch:
        work = Path(scratch)
        tree = work / "tree"
        for folder in ("p2v", "boot/grub", ".disk"):
            (tree / folder).mkdir(parents=True)
        (tree / ".disk/info").write_text("p2v rescue system\n")
        (tree / "boot/grub/grub.cfg").write_text(MENU)
        shutil.copyfile(base.loader / "eltorito.img", tree / "boot/grub/eltorito.img")
        _link(base.kernel, tree / "p2v/vmlinuz")
        _link(initrd, tree / "p2v/initrd")
        esp = _write_esp(base, tree / "boot/grub/grub.cfg", work / "esp.img", tools)
        argv = iso_command(tools.xorriso, tree, esp, base.loader / "boot_hybrid.img", output)
        command.check(argv, timeout=STEP_SECONDS, reason="write the image")


def _link(source: Path, place: Path) -> None:
    """No second copy where the filesystem allows it; xorriso follows with -f."""
    place.symlink_to(source.absolute())


def _write_esp(base: Base, menu: Path, esp: Path, tools: IsoTools) -> Path:
    env = {"MTOOLS_SKIP_CHECK": "1"}
    argv = [tools.mkfs, "-C", "-n", "P2VRESCUE", str(esp), str(ESP_KIB)]
    command.check(argv, timeout=60, reason="format the EFI system partition")
    folders = ["::/EFI", "::/EFI/BOOT", "::/boot", "::/boot/grub"]
    command.check([tools.mmd, "-i", esp, *folders], timeout=60, env=env, reason="make folders for EFI")
    files = [
        (base.loader / name, f"::/EFI/BOOT/{name}") for name in ("BOOTX64.EFI", "grubx64.efi", "mmx64.efi")
    ]
    for source, place in (*files, (menu, "::/boot/grub/grub.cfg")):
        command.check(
            [tools.mcopy, "-i", esp, source, place], timeout=60, env=env, reason="copy the EFI loader"
        )
    return esp


def iso_command(xorriso: str, tree: Path, esp: Path, boot_sector: Path, output: Path) -> list[str]:
    """The two boot images stand in one catalogue; the partition is the same bytes as the second of them."""
    argv = [xorriso, "-as", "mkisofs", "-quiet", "-f", "-r", "-J", "-V", VOLUME, "-o", str(output)]
    argv += ["--grub2-mbr", str(boot_sector), "-partition_offset", "16", "--mbr-force-bootable"]
    argv += [
        "-append_partition",
        "2",
        ESP_TYPE,
        str(esp),
        "-appended_part_as_gpt",
        "-iso_mbr_part_type",
        DATA_TYPE,
    ]
    argv += ["-c", "boot/boot.cat", "-b", "boot/grub/eltorito.img", "-no-emul-boot", "-boot-load-size", "4"]
    argv += ["-boot-info-table", "--grub2-boot-info", "-eltorito-alt-boot"]
    argv += ["-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]
    return [*argv, str(tree)]
