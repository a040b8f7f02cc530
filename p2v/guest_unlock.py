"""Encrypted devices (LUKS) of a guest: opened in the appliance with a key that the user gave.

The key never leaves this process but for libguestfs' socket, and stands in no message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from p2v.errors import GuestError, UsageError
from p2v.guest import Guest
from p2v.guest_mounts import mapping

KEY_LIMIT = 8192
"""cryptsetup reads no longer passphrase (LUKS2, `--key-file` apart)."""


@dataclass(slots=True)
class Keys:
    """What may open encrypted devices: passphrases that were given, and a person who can be asked for one.

    A passphrase that a person typed is kept, so that nobody is asked twice in one run.
    """

    passphrases: tuple[str, ...] = field(default=(), repr=False)
    ask: Callable[[str], str] | None = None

    def another(self, devices: Sequence[str]) -> bool:
        """Ask for a passphrase of one of `devices`; False where nobody can be asked, or nothing was typed."""
        typed = self.ask(f"Passphrase of {', '.join(devices)} of the guest: ") if self.ask else ""
        self.passphrases += (typed,) if typed else ()
        return bool(typed)


def read_keys(files: Sequence[Path], ask: Callable[[str], str] | None = None) -> Keys:
    """Raises UsageError where a file holds no passphrase."""
    return Keys(tuple(read_key(path) for path in files), ask)


def read_key(path: Path) -> str:
    """A passphrase, the first line of a file. Raises UsageError where there is none, without saying it."""
    try:
        with path.open("rb") as file:
            content = file.read(KEY_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"The key in {path} cannot be read: {error.strerror}") from error
    line = content.split(b"\n", 1)[0].rstrip(b"\r")
    if not line or b"\0" in line or len(line) > KEY_LIMIT:
        raise UsageError(
            f"{path} holds no passphrase in its first line",
            hint="A binary key file cannot be used; add a slot"
            " with a passphrase on the source: cryptsetup luksAddKey DEVICE",
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"The passphrase in {path} is not in UTF-8") from None


def unlock(guest: Guest, keys: Sequence[str]) -> tuple[str, ...]:
    """Open what one of `keys` opens; returns the devices that stay closed."""
    closed = [
        device
        for device in guest.encrypted_devices()
        if not guest.exists_device(f"/dev/mapper/{mapping(device)}")
    ]
    still = tuple(device for device in closed if not any(_opens(guest, device, key) for key in keys))
    if len(still) < len(closed):
        guest.find_volumes()
    return still


def _opens(guest: Guest, device: str, key: str) -> bool:
    try:
        guest.unlock(device, key, mapping(device))
    except GuestError:
        return False
    return True
