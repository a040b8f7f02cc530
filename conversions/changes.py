"""Every change to a guest goes through here, so that the receipt can name each with digests and a reason."""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace

from conversions.protocol import GuestFiles
from p2v.model import Change, ChangeKind

TEXT_LIMIT = 4 * 1024 * 1024
"""Bytes of the largest configuration file that is read; a real grub.cfg with a hundred entries has 100 KB."""


class Changes:
    """Records what is done to a guest, one `Change` a file however often it was touched, and the warnings."""

    def __init__(self, guest: GuestFiles) -> None:
        self.guest = guest
        self._changes: dict[str, Change] = {}
        self._warnings: list[str] = []

    def read_text(self, path: str) -> str:
        """A text file as it is: bytes that are not UTF-8 survive a round trip. Empty where there is none."""
        if not self.guest.exists(path):
            return ""
        return self.guest.read(path, limit=TEXT_LIMIT).decode("utf-8", "surrogateescape")

    def write_text(self, path: str, text: str, reason: str) -> None:
        """Give a file this content; nothing happens, and nothing is recorded, where it has it already."""
        self.write_bytes(path, text.encode("utf-8", "surrogateescape"), reason)

    def write_bytes(
        self, path: str, content: bytes, reason: str, *, kind: ChangeKind = ChangeKind.EDITED
    ) -> None:
        """As `write_text`; `kind` is what happened to a file that was there."""
        before = self.guest.sha256(path)
        after = hashlib.sha256(content).hexdigest()
        if before != after:
            self.guest.mkdir(posixpath.dirname(path))
            self.guest.write(path, content)
            self._record(Change(kind if before else ChangeKind.CREATED, path, reason, before, after))

    def remove(self, path: str, reason: str) -> None:
        before = self.guest.sha256(path)
        if before:
            self.guest.remove(path)
            self._record(Change(ChangeKind.REMOVED, path, reason, before, ""))

    def copy(self, source: str, destination: str, reason: str) -> None:
        before = self.guest.sha256(destination)
        self.guest.copy(source, destination)
        self._record(Change(_kind(before), destination, reason, before, self.guest.sha256(destination)))

    def rebuild(self, source: str, destination: str, reason: str) -> None:
        """Move what the guest's own tool made in `source` over `destination`."""
        before = self.guest.sha256(destination)
        self.guest.move(source, destination)
        after = self.guest.sha256(destination)
        self._record(Change(ChangeKind.REBUILT, destination, reason, before, after))

    def record_bytes(self, what: str, before: bytes, after: bytes, reason: str) -> None:
        """Note a change that was made to what is no file, such as a boot sector."""
        digests = (hashlib.sha256(content).hexdigest() for content in (before, after))
        self._record(Change(ChangeKind.EDITED, what, reason, *digests))

    @contextlib.contextmanager
    def watching(self, path: str, reason: str) -> Iterator[None]:
        """Record what the block did to a file by other ways, such as a hive's own writer."""
        before = self.guest.sha256(path)
        yield
        after = self.guest.sha256(path)
        if before != after:
            self._record(Change(_kind(before), path, reason, before, after))

    def warn(self, warning: str) -> None:
        # What a guest wrote may be of any encoding, and a receipt is text.
        text = warning.encode("utf-8", "backslashreplace").decode("utf-8")
        if text not in self._warnings:
            self._warnings.append(text)

    def warn_all(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self.warn(warning)

    @property
    def changes(self) -> tuple[Change, ...]:
        """One entry a file, in the order of the first touch, without what came out as it was."""
        return tuple(change for change in self._changes.values() if change.before != change.after)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._warnings)

    def _record(self, change: Change) -> None:
        first = self._changes.get(change.path)
        self._changes[change.path] = change if first is None else _merge(first, change)


def _kind(before: str) -> ChangeKind:
    return ChangeKind.EDITED if before else ChangeKind.CREATED


def _merge(first: Change, second: Change) -> Change:
    reason = first.reason if second.reason in first.reason else f"{first.reason}; {second.reason}"
    kind = ChangeKind.CREATED if not first.before else second.kind
    return replace(second, kind=kind, before=first.before, reason=reason)
