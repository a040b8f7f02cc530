"""The only door to libguestfs: the disks of a guest, opened in a small virtual machine, the appliance.

The guest's programs run inside the appliance only, its symbolic links resolve there, and it has no network.
libguestfs' own time limits do not exist, so a watchdog ends an appliance that does not answer.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import posixpath
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar, cast

from p2v.accelerator import Accelerator
from p2v.errors import GuestError, P2VError, TargetError
from p2v.globbing import folder_of, matching
from p2v.guest_handle import Handle
from p2v.model import ImageFormat, KiB, MiB
from p2v.watchdog import Watchdog

MEMORY = 1024
"""MiB of the appliance: mkinitramfs inside needs about 300, emulation costs nothing more for the rest."""
LAUNCH_SECONDS = 300.0
"""A launch takes 4 s with KVM, 21 s without; the very first builds the appliance, for a minute more."""
CALL_SECONDS = 300.0
RUN_SECONDS = 1800.0
T = TypeVar("T")

READ_LIMIT = 64 * MiB
MESSAGE_LIMIT = 1 * MiB
"""Larger contents do not fit into one message of libguestfs' protocol (4 MiB) with certainty."""
TEXT_LIMIT = 800
LUKS = "crypto_LUKS"
SELINUX_LABEL = "security.selinux"
BACKEND_VARIABLE = "LIBGUESTFS_BACKEND"


class Access(StrEnum):
    """`READ_ONLY` never writes to the files given: libguestfs puts a throw-away overlay on each."""

    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


@dataclass(frozen=True, slots=True)
class GuestDisk:
    """One disk of a guest, in the order of the machine's disks."""

    path: Path
    format: ImageFormat


@dataclass(frozen=True, slots=True)
class Array:
    """An MD RAID array: its name in the appliance, and its own name (`host:0`) and UUID (`8-4-4…`)."""

    device: str
    name: str
    uuid: str


class Guest:
    """An open guest; implements `conversions.protocol.GuestFiles` once its filesystems are mounted."""

    def __init__(self, handle: Handle, watchdog: Watchdog, access: Access) -> None:
        self._handle = handle
        self._watchdog = watchdog
        self.access = access
        self._filesystems: tuple[tuple[str, str], ...] | None = None
        self._opened: list[str] = []

    # Filesystems: what p2v.guest_inspect builds on.

    def filesystems(self) -> tuple[tuple[str, str], ...]:
        """Every filesystem: its name in the appliance and its type (or `unknown`, `swap`)."""
        if self._filesystems is None:  # it takes 5 s in emulation
            with self._calling("look for filesystems"):
                found = self._handle.list_filesystems()
                # Not every version lists what stands on an opened device itself, without LVM.
                found |= {name: self._handle.vfs_type(name) for name in self._opened if name not in found}
            self._filesystems = tuple(found.items())
        return self._filesystems

    def partition_device(self, index: int, number: int) -> str:
        """What the appliance calls partition `number` of disk `index`; 0 is the whole disk."""
        with self._calling("list the disks"):
            devices = self._handle.list_devices()
        if not 0 <= index < len(devices):
            raise GuestError(f"The guest has no disk {index}")
        return f"{devices[index]}{number or ''}"

    def find_uuid(self, identifier: str) -> str:
        """The device with this UUID; raises GuestError where there is none."""
        with self._calling(f"find the filesystem {identifier}"):
            return self._handle.findfs_uuid(identifier)

    def find_label(self, label: str) -> str:
        """The device with this label; raises GuestError where there is none."""
        with self._calling(f"find the filesystem {label}"):
            return self._handle.findfs_label(label)

    def mount(self, device: str, at: str, *, options: str = "") -> None:
        """Mount a device; its journal is replayed, in a throw-away overlay where access is read-only."""
        mode = "rw" if self.access is Access.READ_WRITE else "ro"
        with self._calling(f"mount {device} at {at}"):
            self._handle.mount_options(",".join(filter(None, (mode, options))), device, at)

    def unmount_all(self) -> None:
        with self._calling("unmount the filesystems"):
            self._handle.umount_all()

    def make_mountpoint(self, place: str) -> None:
        """A folder of the appliance to mount a volume at, beside others; nothing is mounted at `/` then."""
        with self._calling(f"make {place}"):
            self._handle.mkmountpoint(place)

    def read_device(self, device: str, offset: int, count: int) -> bytes:
        """`count` bytes of a device, fewer at its end."""
        with self._calling(f"read {device}"):
            return self._handle.pread_device(device, count, offset)

    def write_device(self, device: str, offset: int, content: bytes) -> None:
        """Raises GuestError where not all of `content` was written."""
        with self._calling(f"write {device}"):
            if self._handle.pwrite_device(device, content, offset) != len(content):
                raise RuntimeError("not all of it was written")

    def mounted(self) -> dict[str, str]:
        """Devices by the places where they are mounted; a volume of LVM is /dev/GROUP/NAME."""
        with self._calling("look at what is mounted"):
            return {place: self._canonical(device) for device, place in self._handle.mountpoints().items()}

    def _canonical(self, device: str) -> str:
        if device.startswith("/dev/mapper/"):
            with contextlib.suppress(RuntimeError):  # an opened device is no volume
                return self._handle.lvm_canonical_lv_name(device)
        return device

    def kind(self, device: str) -> str:
        """What is on a device: `ext4`, `crypto_LUKS`, …; empty where nobody can tell."""
        with self._calling(f"look at {device}"):
            return self._handle.vfs_type(device)

    def arrays(self) -> tuple[Array, ...]:
        """The MD RAID arrays that the appliance could assemble."""
        with self._calling("list the RAID arrays"):
            found = [(device, self._handle.md_detail(device)) for device in self._handle.list_md_devices()]
        return tuple(Array(device, says.get("name", ""), says.get("uuid", "")) for device, says in found)

    def partition_label(self, label: str) -> str:
        """The partition with this name in its GPT; raises GuestError where there is none."""
        with self._calling(f"find the partition {label}"):
            for partition in self._handle.list_partitions():
                with contextlib.suppress(RuntimeError):  # an MBR has no names
                    disk = self._handle.part_to_dev(partition)
                    if self._handle.part_get_name(disk, self._handle.part_to_partnum(partition)) == label:
                        return partition
        raise GuestError(f"No partition of this run is called {label}")

    def encrypted_devices(self) -> tuple[str, ...]:
        """The LUKS devices: partitions, disks, arrays, volumes. `filesystems` does not list them."""
        with self._calling("look for encrypted devices"):
            handle = self._handle
            lists = (handle.list_partitions, handle.list_devices, handle.list_md_devices, handle.lvs)
            return tuple(name for names in lists for name in names() if handle.vfs_type(name) == LUKS)

    def exists_device(self, device: str) -> bool:
        """Whether the appliance has this device, such as one that `unlock` made."""
        with self._calling("list the opened devices"):
            return device in self._handle.list_dm_devices()

    def unlock(self, device: str, key: str, name: str) -> None:
        """Open a LUKS device as /dev/mapper/`name`.

        Raises GuestError where `key` does not open it; the message never holds the key.
        """
        with self._calling(f"open {device} with this key"):
            self._handle.cryptsetup_open(device, key, name)
        self._filesystems = None
        self._opened.append(f"/dev/mapper/{name}")

    def find_volumes(self) -> None:
        """See the volumes of LVM on what was opened."""
        with self._calling("look for volumes"):
            self._handle.lvm_scan(True)
        self._filesystems = None

    def has_errors(self, device: str) -> bool:
        """Whether a filesystem of the ext family says itself that it has errors."""
        if not self.kind(device).startswith("ext"):
            return False
        with self._calling(f"look at {device}"):
            return "errors" in self._handle.tune2fs_l(device).get("Filesystem state", "")

    def check_filesystem(self, device: str) -> str:
        """What the checker of a device that is not mounted finds and cannot mend safely; empty if nothing."""
        try:
            with self._calling("check", seconds=RUN_SECONDS):
                self._check(device)
        except GuestError as error:
            return error.message
        return ""

    def _check(self, device: str) -> None:
        kind = self._handle.vfs_type(device)
        if kind.startswith("ext"):
            self._handle.e2fsck(device, correct=True)  # -p: mends what needs no decision, in the overlay
        elif kind == "btrfs":
            self._handle.btrfs_fsck(device)
        elif kind == "xfs" and self._handle.xfs_repair(device, nomodify=True):
            raise RuntimeError("xfs_repair -n found damage")

    def on_device(self, what: str, work: Callable[[Handle], T], *, seconds: float = RUN_SECONDS) -> T:
        """What `work` does with the handle itself; errors say `what` could not be done."""
        with self._calling(what, seconds=seconds):
            return work(self._handle)

    # Files.

    def exists(self, path: str) -> bool:
        with self._calling(f"look at {path}"):
            return self._exists(path)

    def _exists(self, path: str) -> bool:
        # libguestfs' own `exists` is also true for a symbolic link that leads nowhere.
        if not self._handle.exists(path):
            return False
        try:
            self._handle.statns(path)
        except RuntimeError:
            return False
        return True

    def is_dir(self, path: str) -> bool:
        with self._calling(f"look at {path}"):
            return bool(self._handle.is_dir(path, followsymlinks=True))

    def size(self, path: str) -> int:
        self._need_file(path)
        with self._calling(f"look at {path}"):
            return self._handle.filesize(path)

    def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        size = self.size(path)
        if size > limit:
            raise GuestError(
                f"{path} of the guest has {size} bytes, more than the {limit} that were expected"
            )
        with self._calling(f"read {path}"):
            if size <= MESSAGE_LIMIT:  # one message: a file transfer takes a quarter of a second more
                return self._handle.pread(path, size, 0) if size else b""
            return self._handle.read_file(path)

    def read_start(self, path: str, *, count: int) -> bytes:
        """The first `count` bytes of a file."""
        self._need_file(path)
        with self._calling(f"read {path}"):
            return self._handle.pread(path, count, 0)

    def write(self, path: str, content: bytes) -> None:
        target = self._real(path)
        folder, _ = posixpath.split(target)
        beside = posixpath.join(folder, f".p2v-{uuid.uuid4().hex[:12]}")
        replaced = self.exists(target)
        with self._calling(f"write {path}"), self._removed_on_error(beside):
            self._put(beside, content)
            if replaced:
                self._handle.copy_attributes(target, beside, all=True)
            else:
                self._make_roots(beside, folder)
            self._handle.rename(beside, target)

    def overwrite(self, path: str, content: bytes) -> None:
        """As `write`, but into the file itself: half of it may be there after an error."""
        with self._calling(f"write {path}"):
            self._put(self._real(path), content)

    def protect(self, path: str) -> None:
        """Let nobody but the system and administrators change a file or folder; all may read and run it.

        Of NTFS mounted with the option `permissions`. Raises GuestError where owners cannot be set.
        """
        with self._calling(f"protect {path}"):
            self._handle.chown(0, 0, path)
            self._handle.chmod(0o755, path)

    def mkdir(self, path: str) -> None:
        with self._calling(f"make {path}"):
            self._handle.mkdir_p(path)

    def remove(self, path: str) -> None:
        with self._calling(f"remove {path}"):
            self._handle.rm_f(path)

    def glob(self, pattern: str) -> list[str]:
        with self._calling(f"list {pattern}"):
            try:
                return sorted(self._handle.glob_expand(pattern, directoryslash=False))
            except UnicodeDecodeError:  # one file of another encoding must not hide all others
                return sorted(matching(self._listing(folder_of(pattern)), pattern))

    def _listing(self, folder: str) -> bytes:
        with tempfile.NamedTemporaryFile() as file:
            self._handle.find0(folder, file.name)
            return Path(file.name).read_bytes()

    def sha256(self, path: str) -> str:
        with self._calling(f"read {path}"):
            if not self._handle.is_file(path, followsymlinks=True):
                return ""
            return self._handle.checksum("sha256", path)

    def copy(self, source: str, destination: str) -> None:
        # cp and mv are the appliance's: a symbolic link among the folders would leave the guest.
        real_source, real_destination = self._real(source), self._real(destination)
        with self._calling(f"copy {source} to {destination}"):
            self._handle.cp_a(real_source, real_destination)

    def move(self, source: str, destination: str) -> None:
        real_source, real_destination = self._real(source), self._real(destination)
        with self._calling(f"move {source} to {destination}"):
            self._handle.mv(real_source, real_destination)

    def run(self, argv: Sequence[str]) -> str:
        with self._calling(f"run {argv[0]} in the guest", seconds=RUN_SECONDS):
            return self._handle.command(list(argv))

    def free_space(self, path: str) -> int:
        with self._calling(f"ask for the space of {path}"):
            found = self._handle.statvfs(self._handle.realpath(path))
        return found["bavail"] * (found["frsize"] or found["bsize"])

    def _need_file(self, path: str) -> None:
        # Reading a FIFO never ends, and neither does /dev/zero.
        with self._calling(f"look at {path}"):
            if not self._handle.is_file(path, followsymlinks=True):
                raise GuestError(f"The guest has no file {path}")

    def _real(self, path: str) -> str:
        """The path with every symbolic link resolved inside the guest; the last part need not exist."""
        folder, name = posixpath.split(path)
        with self._calling(f"look at {path}"):
            if self._exists(path):
                return self._handle.realpath(path)
            return posixpath.join(self._handle.realpath(folder), name)

    @contextlib.contextmanager
    def _removed_on_error(self, path: str) -> Iterator[None]:
        """Half a file would fill what is full already."""
        try:
            yield
        except (RuntimeError, GuestError):
            with contextlib.suppress(RuntimeError):
                self._handle.rm_f(path)
            raise

    def _put(self, path: str, content: bytes) -> None:
        if len(content) <= MESSAGE_LIMIT:
            self._handle.write(path, content)
            return
        # An upload that fails does not say why.
        if (free := self.free_space(posixpath.dirname(path))) < len(content):
            raise RuntimeError(f"{len(content) // KiB} KiB are needed, but there are {free // KiB} KiB free")
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            self._handle.upload(file.name, path)

    def _make_roots(self, path: str, folder: str) -> None:
        """Owner, mode and SELinux label of a new file; the label is the folder's, as the kernel does it."""
        self._handle.chown(0, 0, path)
        self._handle.chmod(0o644, path)
        with contextlib.suppress(RuntimeError, UnicodeDecodeError):
            # The binding takes text, which the NUL at the end of a label is not.
            label = self._handle.lgetxattr(folder, SELINUX_LABEL).rstrip(b"\0").decode("ascii")
            self._handle.lsetxattr(SELINUX_LABEL, label, len(label), path)

    @contextlib.contextmanager
    def _calling(self, what: str, *, seconds: float = CALL_SECONDS) -> Iterator[None]:
        with _guest_errors(what), self._watchdog.limit(seconds, what):
            yield


@contextlib.contextmanager
def open_guest(
    disks: Sequence[GuestDisk],
    *,
    access: Access,
    accelerator: Accelerator,
    launch_seconds: float = LAUNCH_SECONDS,
) -> Iterator[Guest]:
    """Launch the appliance with these disks, nothing mounted yet; it is shut down behind the block.

    Raises TargetError where libguestfs does not work here, and GuestError where the last writes did not reach
    the disks.
    """
    handle = _new_handle()
    watchdog = Watchdog(f"p2v_mark={uuid.uuid4().hex}")
    try:
        _add_disks(handle, disks, access)
        _launch(handle, watchdog, accelerator, launch_seconds)
        yield Guest(handle, watchdog, access)
        with _guest_errors("finish the guest's disks"), watchdog.limit(CALL_SECONDS, "finish"):
            handle.umount_all()
            handle.shutdown()
    finally:
        handle.close()


def _new_handle() -> Handle:
    try:
        module = importlib.import_module("guestfs")
    except ImportError as error:
        raise TargetError(
            "The Python bindings of libguestfs are missing in this interpreter",
            hint="Try: sudo apt install python3-guestfs; a virtual environment must see it:"
            " /usr/bin/python3 -m venv --system-site-packages",
        ) from error
    return cast(Handle, module.GuestFS(python_return_dict=True))


def _add_disks(handle: Handle, disks: Sequence[GuestDisk], access: Access) -> None:
    for disk in disks:
        try:
            readonly = access is Access.READ_ONLY
            handle.add_drive(str(disk.path), readonly=readonly, format=disk.format.value)
        except RuntimeError as error:
            raise TargetError(f"libguestfs cannot open {disk.path}: {_printable(str(error))}") from error


def _launch(handle: Handle, watchdog: Watchdog, accelerator: Accelerator, seconds: float) -> None:
    try:
        _configure(handle, watchdog, accelerator)
        with watchdog.limit(seconds, "start its appliance"):
            handle.launch()
    except RuntimeError as error:
        raise _launch_error(str(error)) from error


def _configure(handle: Handle, watchdog: Watchdog, accelerator: Accelerator) -> None:
    if BACKEND_VARIABLE not in os.environ:
        handle.set_backend("direct")
    if accelerator is Accelerator.TCG:
        handle.set_backend_setting("force_tcg", "1")
    handle.set_memsize(MEMORY)
    handle.set_smp(1)
    handle.set_network(False)
    handle.set_append(watchdog.mark)


def _launch_error(said: str) -> P2VError:
    """The usual reasons, each with what to type."""
    kernels = sorted(Path("/boot").glob("vmlinuz*"))
    hint = "Try: libguestfs-test-tool"
    if not kernels:
        hint = "libguestfs needs a kernel for its appliance. Try: sudo apt install linux-image-amd64"
    elif not any(os.access(kernel, os.R_OK) for kernel in kernels):
        hint = "libguestfs must read the kernel. Try: sudo chmod 0644 /boot/vmlinuz*"
    elif "appliance" in said and "cannot find" in said:
        hint = "Try: sudo apt install libguestfs0 supermin"
    return TargetError(f"libguestfs cannot start: {_printable(said)}", hint=hint)


@contextlib.contextmanager
def _guest_errors(what: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise GuestError(f"Cannot {what}: {_printable(str(error))}") from error
    except UnicodeDecodeError as error:
        raise GuestError(f"Cannot {what}: the guest answers in bytes that are no text") from error
    except ValueError as error:  # a zero byte, or what is no text, in a name that the guest gave
        raise GuestError(f"Cannot {_printable(what)}: that is no name of anything") from error


def _printable(text: str) -> str:
    """The end of what somebody else said, without what would disturb a terminal."""
    return "".join(char if char.isprintable() else " " for char in text)[-TEXT_LIMIT:].strip()
