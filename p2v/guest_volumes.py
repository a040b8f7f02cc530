"""Several volumes of a guest as one tree of files, each mounted for itself in the appliance.

The volume of Windows and the one with its loader have no folder for one another, and none must be made.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from conversions.nt.places import BOOT, ESP, ROOT
from p2v.errors import GuestError
from p2v.guest import READ_LIMIT, Guest

MOUNT_POINTS = {ROOT: "/p2v-root", ESP: "/p2v-esp", BOOT: "/p2v-boot"}
"""In the appliance, where nothing else is mounted then."""

NTFS_OPTIONS = "permissions"
"""ntfs-3g then keeps a descriptor for each file, by its owner and mode, and not one for Everyone."""


@contextmanager
def _own_names() -> Iterator[None]:
    """Errors name the guest's places, not those of the appliance."""
    try:
        yield
    except GuestError as error:
        message = error.message
        for place, point in MOUNT_POINTS.items():
            message = message.replace(point, place.rstrip("/"))
        raise GuestError(message, hint=error.hint) from error


class Volumes:
    """Implements `conversions.protocol.GuestFiles` and `conversions.nt.places.VolumeBytes`.

    `devices` are the names in the appliance, by place. A place that has no volume is an empty folder's name:
    nothing is there.
    """

    def __init__(self, guest: Guest, devices: Mapping[str, str]) -> None:
        self._guest = guest
        self._devices = dict(devices)

    @_own_names()
    def exists(self, path: str) -> bool:
        return self._guest.exists(self._inner(path))

    @_own_names()
    def is_dir(self, path: str) -> bool:
        return self._guest.is_dir(self._inner(path))

    @_own_names()
    def size(self, path: str) -> int:
        return self._guest.size(self._inner(path))

    @_own_names()
    def read(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        return self._guest.read(self._inner(path), limit=limit)

    @_own_names()
    def read_start(self, path: str, *, count: int) -> bytes:
        return self._guest.read_start(self._inner(path), count=count)

    @_own_names()
    def write(self, path: str, content: bytes) -> None:
        # In place: a new file under the old name would have neither its descriptor of who may use it nor its
        # short name.
        with self._protected(self._own(path)) as place:
            self._guest.overwrite(place, content)

    @_own_names()
    def mkdir(self, path: str) -> None:
        place = self._own(path)
        parent = posixpath.dirname(_plain(path))
        if parent != "/" and not self._guest.exists(place):
            self.mkdir(parent)
        with self._protected(place):
            self._guest.mkdir(place)

    @contextmanager
    def _protected(self, place: str) -> Iterator[str]:
        """What is new at `place` behind the block may be changed by administrators only.

        ntfs-3g alone gives it to Everyone: drivers, and a script that runs as the system.
        """
        new = not self._guest.exists(place)
        yield place
        if new:
            with suppress(GuestError):  # FAT knows no owners
                self._guest.protect(place)

    @_own_names()
    def remove(self, path: str) -> None:
        self._guest.remove(self._inner(path))

    @_own_names()
    def glob(self, pattern: str) -> list[str]:
        place, inner = self._place(pattern), self._inner(pattern)
        point = MOUNT_POINTS[place]
        found = self._guest.glob(inner)
        return [posixpath.join(place, path.removeprefix(point).lstrip("/")) for path in found]

    @_own_names()
    def sha256(self, path: str) -> str:
        return self._guest.sha256(self._inner(path))

    @_own_names()
    def copy(self, source: str, destination: str) -> None:
        with self._protected(self._own(destination)) as place:
            self._guest.copy(self._inner(source), place)

    @_own_names()
    def move(self, source: str, destination: str) -> None:
        self._guest.move(self._inner(source), self._own(destination))

    def run(self, argv: Sequence[str]) -> str:
        raise GuestError(f"Nothing of a Windows guest can be run here ({argv[0]})")

    @_own_names()
    def free_space(self, path: str) -> int:
        return self._guest.free_space(self._inner(path))

    def read_volume(self, place: str, offset: int, count: int) -> bytes:
        return self._guest.read_device(self._device(place), offset, count)

    def write_volume(self, place: str, offset: int, content: bytes) -> None:
        self._guest.write_device(self._device(place), offset, content)

    def _device(self, place: str) -> str:
        if place not in self._devices:
            raise GuestError(f"The guest has no volume at {place}")
        return self._devices[place]

    def _own(self, path: str) -> str:
        """As `_inner`, for what is written: without its volume it would land in the appliance."""
        self._device(self._place(path))
        return self._inner(path)

    def _inner(self, path: str) -> str:
        """Where a path is in the appliance; `..` never leaves its volume."""
        place = self._place(path)
        inside = posixpath.normpath("/" + _plain(path).removeprefix(place).lstrip("/"))
        return f"{MOUNT_POINTS[place]}{inside}".rstrip("/")

    def _place(self, path: str) -> str:
        first = "/" + _plain(path).lstrip("/").split("/", 1)[0]
        return first if first in (ESP, BOOT) else ROOT


def _plain(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def mount_volumes(guest: Guest, devices: Mapping[str, str]) -> Volumes:
    """Mount volumes beside one another, by place. Raises GuestError for one that cannot be mounted."""
    for place, device in devices.items():
        point = MOUNT_POINTS[place]
        guest.make_mountpoint(point)
        try:
            guest.mount(device, point, options=NTFS_OPTIONS)
        except GuestError:  # FAT has no owners; of a volume that cannot be mounted at all, this says why
            guest.mount(device, point)
    return Volumes(guest, devices)
