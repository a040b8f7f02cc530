"""Stand-ins for the programs that build an initramfs, as far as it matters: they put in what they are told.

What each is told, it must be told in its own language; one that is called in another way fails the test.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from conversions.changes import Changes
from conversions.kernels import Kernel, installed_kernels
from tests.conversions.cpio_writer import initramfs
from tests.tree_guest import Command, TreeGuest

OLD_HARDWARE = ("megaraid_sas", "scsi_mod", "sd_mod", "nvme", "nvme_core")


def kernel(guest: TreeGuest, version: str) -> Kernel:
    return next(one for one in installed_kernels(Changes(guest), ()) if one.version == version)


def put(guest: TreeGuest, path: str, version: str, named: Iterable[str]) -> str:
    """Write an initramfs with these modules and all that they need."""
    known = kernel(guest, version)
    modules = [name for name in named if name in {module.name for module in known.loadable}]
    guest.write(path, initramfs(version, known.closure(modules)))
    return ""


def dracut(guest: TreeGuest, argv: Sequence[str]) -> str:
    """dracut --force RESULT VERSION, with files of configuration."""
    force, result, version = argv[1:]
    assert force == "--force"
    text = "".join(guest.read(path).decode() for path in guest.glob("/etc/dracut.conf.d/*.conf"))
    assert 'hostonly="no"' in text
    return put(guest, result, version, " ".join(re.findall(r'^add_drivers\+="([^"]*)"', text, re.M)).split())


def mkinitcpio(guest: TreeGuest, argv: Sequence[str]) -> str:
    """mkinitcpio -k VERSION -S autodetect -g RESULT, with MODULES of its configuration."""
    options = dict(zip(argv[1::2], argv[2::2], strict=True))
    assert options["-S"] == "autodetect"
    found = re.search(r"^MODULES=\(([^)]*)\)", guest.read("/etc/mkinitcpio.conf").decode(), re.M)
    assert found
    return put(guest, options["-g"], options["-k"], [*OLD_HARDWARE, *found[1].split()])


def mkinitfs(guest: TreeGuest, argv: Sequence[str]) -> str:
    """mkinitfs -o RESULT VERSION, with the features of its configuration."""
    option, result, version = argv[1:]
    assert option == "-o"
    found = re.search(r'^features="([^"]*)"', guest.read("/etc/mkinitfs/mkinitfs.conf").decode(), re.M)
    assert found
    files = [f"/etc/mkinitfs/features.d/{feature}.modules" for feature in found[1].split()]
    lines = [line for path in files if guest.exists(path) for line in guest.read(path).decode().splitlines()]
    names = [line.rsplit("/", 1)[-1].split(".")[0].replace("-", "_") for line in lines]
    return put(guest, result, version, [*OLD_HARDWARE, *names])


def mkinitrd(guest: TreeGuest, argv: Sequence[str]) -> str:
    """mkinitrd of SUSE (-k IMAGE -i RESULT -m MODULES -d ROOT) and of Red Hat 5 (--with=… RESULT VERSION)."""
    if argv[1] == "-k":
        options = dict(zip(argv[1::2], argv[2::2], strict=True))
        version = options["-k"].rsplit("vmlinuz-", 1)[-1]
        return put(guest, options["-i"], version, options["-m"].split())
    force, *modules, result, version = argv[1:]
    assert force == "-f"
    return put(guest, result, version, [word.removeprefix("--with=") for word in modules])


def mkinitramfs(guest: TreeGuest, argv: Sequence[str]) -> str:
    """mkinitramfs -d CONFIG -o RESULT VERSION, with a list of modules and a hook."""
    config, result, version = argv[2], argv[4], argv[5]
    listed = guest.read(f"{config}/modules").decode().split("\n")
    hook = guest.read(f"{config}/hooks/zz-p2v").decode().split("manual_add_modules", 1)[1].split()
    return put(guest, result, version, [*(line for line in listed if not line.startswith("#")), *hook])


def findmnt(guest: TreeGuest, argv: Sequence[str]) -> str:
    return "/dev/vda2\n"


def setfiles(guest: TreeGuest, argv: Sequence[str]) -> str:
    assert all(guest.exists(path) for path in argv[1:])
    return ""


PROGRAMS: dict[str, Command] = {
    "dracut": dracut,
    "mkinitcpio": mkinitcpio,
    "mkinitfs": mkinitfs,
    "mkinitrd": mkinitrd,
    "mkinitramfs": mkinitramfs,
    "findmnt": findmnt,
    "setfiles": setfiles,
}
