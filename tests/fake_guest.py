"""A guest without an appliance for what lies above `p2v.guest`: devices with trees of files on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from p2v.errors import GuestError
from p2v.guest import Access, Array, Guest
from tests.conversions.trees import guest_with
from tests.tree_guest import TreeGuest


@dataclass(frozen=True, slots=True)
class Device:
    """What is on a device, and how it can be found. `damage` is what the checker says of it."""

    name: str
    kind: str = "ext4"
    uuid: str = ""
    label: str = ""
    files: dict[str, str | bytes] = field(default_factory=dict)
    damage: str = ""


class FakeGuest(TreeGuest):
    """Records what is mounted where; the files are those of what is mounted at `/`."""

    access = Access.READ_WRITE

    def __init__(self, folder: Path, *devices: Device, arrays: tuple[Array, ...] = ()) -> None:
        super().__init__(folder / "nothing")
        self.devices = {device.name: device for device in devices}
        self.known_arrays = arrays
        self.folder = folder
        self.mounted: list[tuple[str, str, str]] = []
        self.opened: set[str] = set()

    def as_guest(self) -> Guest:
        return cast(Guest, self)

    def mount(self, device: str, at: str, *, options: str = "") -> None:
        found = self.devices.get(device)
        if found is None or found.kind in ("swap", "crypto_LUKS", "unknown"):
            raise GuestError(f"Cannot mount {device} at {at}: wrong fs type")
        if at == "/":
            self.root = self.folder / device.replace("/", "_")
            self.root.mkdir(parents=True, exist_ok=True)
            guest_with(self.root, found.files)
            self.root /= "guest"
        self.mounted.append((device, at, options))

    def unmount_all(self) -> None:
        self.mounted.clear()
        self.root = self.folder / "nothing"

    def read_start(self, path: str, *, count: int) -> bytes:
        return self.read(path)[:count]

    def filesystems(self) -> tuple[tuple[str, str], ...]:
        return tuple((device.name, device.kind) for device in self.devices.values())

    def partition_device(self, index: int, number: int) -> str:
        return f"/dev/sd{'abcd'[index]}{number or ''}"

    def find_uuid(self, identifier: str) -> str:
        return self._find(identifier, "uuid")

    def find_label(self, label: str) -> str:
        return self._find(label, "label")

    def partition_label(self, label: str) -> str:
        return self._find(label, "label")

    def _find(self, value: str, what: str) -> str:
        for device in self.devices.values():
            if value and getattr(device, what) == value:
                return device.name
        raise GuestError(f"Cannot find the filesystem {value}")

    def kind(self, device: str) -> str:
        return self.devices[device].kind

    def arrays(self) -> tuple[Array, ...]:
        return self.known_arrays

    def encrypted_devices(self) -> tuple[str, ...]:
        return tuple(device.name for device in self.devices.values() if device.kind == "crypto_LUKS")

    def exists_device(self, device: str) -> bool:
        return device in self.opened

    def unlock(self, device: str, key: str, name: str) -> None:
        if key != self.devices[device].label:
            raise GuestError(f"Cannot open {device} with this key")
        self.opened.add(f"/dev/mapper/{name}")

    def find_volumes(self) -> None:
        """Nothing that is opened holds volumes here."""

    def has_errors(self, device: str) -> bool:
        return bool(self.devices[device].damage)

    def check_filesystem(self, device: str) -> str:
        return self.devices[device].damage
