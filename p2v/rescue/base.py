"""The system itself, made once by mmdebstrap and kept: who may log in and where it is reached is added later.

mmdebstrap ─► packages ─► our files ─► squashfs ─┐
                             kernel, loaders ────┴─► initrd, vmlinuz, loader/ in the cache
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2v import command
from p2v.atomic import LockHeld, locked, write_atomically
from p2v.errors import TargetError
from p2v.rescue import cpio, recipe
from p2v.rescue.install import INSTALL_SECONDS, run_mmdebstrap
from p2v.rescue.recipe import BUILD, TreeFile
from p2v.rescue.sources import Debian
from p2v.run import require_space
from p2v.ui import UI

TREE_SIZE = 2 << 30
CACHE_SIZE = 1 << 30
READY = "ready"
KEPT = 2
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,63}")
LOADERS = ("BOOTX64.EFI", "grubx64.efi", "mmx64.efi", "boot_hybrid.img", "eltorito.img")


@dataclass(frozen=True, slots=True)
class Base:
    """A built system in the cache: `initrd` lacks the keys. `loader` holds the files named in `LOADERS`."""

    kernel: Path
    initrd: Path
    loader: Path
    version: str


def make_base(debian: Debian, packages: Sequence[str], cache: Path, ui: UI, *, anew: bool) -> Base:
    """The system from the cache, or built now; `anew` takes in newer packages.

    Raises TargetError: tools, rights, archive, disk space.
    """
    tools = _Tools()
    folder = cache / key_of(debian, packages)
    with _alone(cache, ui):
        if anew or not (folder / READY).exists():
            require_space(cache, CACHE_SIZE)
            require_space(Path(tempfile.gettempdir()), TREE_SIZE)
            with (
                ui.phase(f"Installing {debian.title} for the rescue system"),
                _new_folder(cache, folder) as made,
            ):
                _build(debian, packages, made, tools)
        os.utime(folder)
        _prune(cache)
    version = (folder / READY).read_text().strip()
    return Base(folder / "vmlinuz", folder / "initrd", folder / "loader", version)


def key_of(debian: Debian, packages: Sequence[str]) -> str:
    """By all that goes in, apart from the age of the packages."""
    digest = hashlib.sha256(repr((debian, sorted(packages))).encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name in ("base.py", "cpio.py", "recipe.py"):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return f"{debian.codename}-{digest.hexdigest()[:16]}"


class _Tools:
    """Raises TargetError where one is missing."""

    def __init__(self) -> None:
        reason = "build the rescue system"
        self.mmdebstrap = command.need_tool("mmdebstrap", reason=reason, package="mmdebstrap")
        self.mksquashfs = command.need_tool("mksquashfs", reason=reason, package="squashfs-tools")


@contextmanager
def _alone(cache: Path, ui: UI) -> Iterator[None]:
    """Two builds at once would do the same work twice: the second one waits for what the first makes."""
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with locked(cache / "lock"):
            yield
            return
    except LockHeld as held:
        ui.say(f"Waiting for another build of the rescue system (process {held.pid})")
    try:
        with locked(cache / "lock", wait=INSTALL_SECONDS):
            yield
    except LockHeld as error:
        raise TargetError(f"Another build of the rescue system did not end: {error}") from error


@contextmanager
def _new_folder(cache: Path, folder: Path) -> Iterator[Path]:
    """What is made in it takes the place of `folder` at the end, or is removed."""
    for leftover in cache.glob(".making-*"):  # of a killed build: the lock is ours
        shutil.rmtree(leftover, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=cache) as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        yield made
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)


def _prune(cache: Path) -> None:
    entries = sorted(cache.glob("*/" + READY), key=lambda path: path.parent.stat().st_mtime, reverse=True)
    for old in entries[KEPT:]:
        shutil.rmtree(old.parent, ignore_errors=True)


def _build(debian: Debian, packages: Sequence[str], made: Path, tools: _Tools) -> None:
    work = made.parent
    given, taken = work / "given.tar", work / "taken.tar"
    given.write_bytes(tree_archive(list(recipe.tree_files(debian.title))))
    listed = work / "sources.list"
    listed.write_text("".join(source.line() + "\n" for source in debian.sources))
    argv = install_command(tools.mmdebstrap, tools.mksquashfs, packages, given=given, taken=taken)
    run_mmdebstrap([*argv, debian.codename, "-", str(listed)], work / "install.log")
    take(taken, work / "taken")
    _pack(work / "taken" / BUILD, made)


def install_command(
    mmdebstrap: str, mksquashfs: str, packages: Sequence[str], *, given: Path, taken: Path
) -> list[str]:
    """mmdebstrap with everything but the suite and the archives. Hooks run as root of the tree."""
    included = ",".join((*recipe.PACKAGES, *packages, *recipe.LOADERS))
    squash = f'{shlex.quote(mksquashfs)} "$1" "$1/{BUILD}/root.squashfs" -comp zstd -Xcompression-level 15'
    squash += " -noappend -no-xattrs -no-progress -quiet -wildcards -e " + shlex.join(recipe.LEFT_OUT)
    hooks = (
        f"tar-in {shlex.quote(str(given))} /",
        f'chroot "$1" /bin/sh /{BUILD}/finish',
        squash,
        f"tar-out /{BUILD} {shlex.quote(str(taken))}",
    )
    argv = [mmdebstrap, "--mode=auto", "--variant=essential", "--format=null", f"--include={included}"]
    argv += ["--aptopt=Apt::Install-Recommends false", "--quiet"]
    argv += [f"--dpkgopt={option}" for option in recipe.DPKG_OPTIONS]
    return [*argv, *(f"--customize-hook={hook}" for hook in hooks)]


def tree_archive(files: Sequence[TreeFile]) -> bytes:
    """A tar archive of the files, all of them root's."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in files:
            entry = tarfile.TarInfo(file.path)
            entry.mode, entry.size = 0o644, len(file.content)
            if file.link:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
            archive.addfile(entry, io.BytesIO(file.content))
    return buffer.getvalue()


def take(archive: Path, folder: Path) -> None:
    """The plain files of the archive below `folder`; nothing else of it, and nothing beside it."""
    with tarfile.open(archive) as opened:
        for member in opened:
            place = (folder / member.name).resolve()
            content = opened.extractfile(member) if member.isfile() else None
            if content is None or not place.is_relative_to(folder.resolve()):
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            with place.open("wb") as handle:
                shutil.copyfileobj(content, handle, 1 << 20)
    archive.unlink()


def _pack(taken: Path, made: Path) -> None:
    """The first of the archives that the kernel unpacks."""
    shutil.copyfile(taken / "vmlinuz", made / "vmlinuz")
    (made / "loader").mkdir()
    for name in LOADERS:
        shutil.copyfile(taken / "loader" / name, made / "loader" / name)
    with (made / "initrd").open("wb") as handle, cpio.Archive(handle) as archive:
        for folder in ("bin", "modules", "p2v"):
            archive.folder(folder)
        archive.text("init", recipe.INIT.encode(), mode=0o755)
        archive.file("bin/busybox", taken / "busybox", mode=0o755)
        for module in sorted((taken / "modules").iterdir()):
            archive.file(f"modules/{module.name}", module)
        archive.file("root.squashfs", taken / "root.squashfs")
    write_atomically(made / READY, (taken / "kernel").read_bytes())
