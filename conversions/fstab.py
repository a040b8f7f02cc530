"""/etc/fstab and /etc/crypttab: only the field that names a device changes, all else stays byte for byte.

Formats: fstab(5), crypttab(5). Fields are separated by blanks; a blank inside a field is written `\\040`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from conversions.devices import DeviceNames, is_unstable, with_stable_paths

ESCAPE = re.compile(r"\\([0-7]{3})")
MAX_LINES = 10_000
EXT = frozenset({"ext2", "ext3", "ext4"})
LUKS = "crypto_LUKS"
COMPARED = EXT | {"xfs", "btrfs", "swap"}


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of fstab, escapes resolved."""

    spec: str
    mountpoint: str
    kind: str
    options: tuple[str, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether a boot waits for this, and stops in emergency mode without it."""
        return not {"noauto", "nofail"} & set(self.options)


@dataclass(frozen=True, slots=True)
class Rewritten:
    """A text after the names were replaced, and what a person should know about it."""

    text: str
    warnings: tuple[str, ...] = ()


def mounts(text: str) -> tuple[Mount, ...]:
    """The entries of an fstab; lines that are none are skipped."""
    return tuple(_mounts(text))


def _mounts(text: str) -> Iterator[Mount]:
    for line in text.splitlines()[:MAX_LINES]:
        fields = [_unescape(field) for field in line.split()]
        if len(fields) >= 3 and not fields[0].startswith("#"):
            options = tuple(fields[3].split(",")) if len(fields) > 3 else ()
            yield Mount(fields[0], fields[1], fields[2], options)


def encrypted(text: str) -> tuple[Mount, ...]:
    """The devices of a crypttab, as entries that are mounted nowhere."""
    lines = (line.split() for line in text.splitlines()[:MAX_LINES])
    return tuple(
        Mount(_unescape(fields[1]), "", LUKS)
        for fields in lines
        if len(fields) > 1 and not fields[0].startswith("#")
    )


def rewrite_fstab(text: str, names: DeviceNames, path: str = "/etc/fstab") -> Rewritten:
    """Replace names that hold on the source only. Names that are not the source's stay, with a warning."""
    lines: list[str] = []
    warnings: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        new, warning = _fstab_line(line, names, f"{path}:{number}")
        lines.append(_with_stable_options(new, names))
        warnings.extend([warning] if warning else [])
    return Rewritten("".join(lines), tuple(warnings))


def _fstab_line(line: str, names: DeviceNames, place: str) -> tuple[str, str]:
    parsed = next(_mounts(line), None)
    if parsed is None or not is_unstable(parsed.spec):
        return line, ""
    found = names.find(parsed.spec)
    if found is None:
        return line, _unknown(place, parsed)
    if not _same_kind(parsed.kind, found.kind):
        says = f"{place} says that {parsed.spec} holds {parsed.kind}, but {found.kind} is there"
        return line, f"{says}; the line was left as it is"
    return _replace_field(line, 0, found.stable), ""


def _with_stable_options(line: str, names: DeviceNames) -> str:
    """Btrfs names further disks in its options (`device=`), XFS its log, ext4 its journal."""
    parsed = next(_mounts(line), None)
    if parsed is None or not any("=/dev/" in option for option in parsed.options):
        return line
    field = line.split()[3]
    return _replace_field(line, 3, with_stable_paths(field, names))


def _unknown(place: str, mount: Mount) -> str:
    effect = "the boot will stop there" if mount.waits else "it will not be mounted"
    return f"{place} names {mount.spec} for {mount.mountpoint}, which is on no disk of this run; {effect}"


def _same_kind(said: str, seen: str) -> bool:
    if said not in COMPARED or seen not in COMPARED:
        return True
    return said == seen or (said in EXT and seen in EXT)


def rewrite_crypttab(text: str, names: DeviceNames, path: str = "/etc/crypttab") -> Rewritten:
    """As `rewrite_fstab`, for the second field of crypttab, the encrypted device."""
    lines: list[str] = []
    warnings: list[str] = []
    for number, line in enumerate(text.splitlines(keepends=True), start=1):
        fields = line.split()
        if len(fields) < 2 or fields[0].startswith("#") or not is_unstable(_unescape(fields[1])):
            lines.append(line)
            continue
        stable = names.stable(_unescape(fields[1]))
        lines.append(_replace_field(line, 1, stable) if stable else line)
        if stable is None:
            warnings.append(f"{path}:{number} names {fields[1]}, which is on no disk of this run")
    return Rewritten("".join(lines), tuple(warnings))


def _replace_field(line: str, index: int, value: str) -> str:
    fields = list(re.finditer(r"\S+", line))
    return line[: fields[index].start()] + value + line[fields[index].end() :]


def _unescape(field: str) -> str:
    return ESCAPE.sub(lambda found: chr(int(found.group(1), 8) & 0xFF), field)
