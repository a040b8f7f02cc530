"""Where the packages come from: the Debian archive that this host itself is installed from, and nothing else.

Formats: sources.list(5), one line or deb822. Other vendors' archives are passed over; signatures are checked
by apt with the keys that the host trusts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2v.errors import TargetError

FILE_LIMIT = 1 << 20
DEBIAN_KEYS = "debian-archive"
LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")
OPTION = re.compile(r"(\S+?)\s*=\s*(\S+)")
CODENAME = re.compile(r"[a-z][a-z0-9-]{1,31}")
HINT = "Build it on Debian 12 or 13, in a container of it: docker run -it debian:12"


@dataclass(frozen=True, slots=True)
class Source:
    """One archive. `keyring` is the file that its signature is checked with, or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str = ""

    def line(self) -> str:
        options = f"[signed-by={self.keyring}] " if self.keyring else ""
        return f"deb {options}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, slots=True)
class Debian:
    """What this host is: `bookworm`, its name for people, and its archives."""

    codename: str
    title: str
    sources: tuple[Source, ...]


def host_debian(root: Path = Path("/")) -> Debian:
    """Raises TargetError where the host is no Debian, or says nowhere where its packages come from."""
    release = _pairs(_read(root / "etc/os-release") or _read(root / "usr/lib/os-release"))
    codename = release.get("VERSION_CODENAME", "")
    if release.get("ID") != "debian" or not CODENAME.fullmatch(codename):
        there = release.get("PRETTY_NAME", "this host")[:80]
        raise TargetError(
            f"The rescue system is built from Debian's packages, and {there} is not Debian", hint=HINT
        )
    found = tuple(_ours(_all_sources(root / "etc/apt"), codename))
    if not any(source.suite == codename for source in found):
        raise TargetError(
            f"/etc/apt names no archive of Debian {codename} to take packages from",
            hint="Look at: apt-cache policy",
        )
    return Debian(codename, release.get("PRETTY_NAME", f"Debian {codename}"), found)


def _ours(sources: Iterator[Source], codename: str) -> Iterator[Source]:
    suites = {codename, f"{codename}-updates", f"{codename}-security", f"{codename}/updates"}
    for source in dict.fromkeys(sources):
        debian = not source.keyring or DEBIAN_KEYS in source.keyring
        if source.suite in suites and "main" in source.components and debian:
            yield source


def _all_sources(folder: Path) -> Iterator[Source]:
    parts = folder / "sources.list.d"
    for path in (folder / "sources.list", *sorted(parts.glob("*.list"))):
        yield from _one_line(_read(path))
    for path in sorted(parts.glob("*.sources")):
        yield from _deb822(_read(path))


def _one_line(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        if found := LINE.fullmatch(line.split("#")[0].strip()):
            options = {name.lower(): value for name, value in OPTION.findall(found["options"] or "")}
            yield from _source(
                found["uri"], found["suite"], found["components"].split(), options.get("signed-by", "")
            )


def _deb822(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {
            name.lower(): " ".join(value.split())
            for name, value in re.findall(r"(?m)^([A-Za-z0-9-]+):((?:.*)(?:\n[ \t].*)*)", stanza)
        }
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in (
            "no",
            "false",
        ):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield from _source(
                    uri, suite, fields.get("components", "").split(), fields.get("signed-by", "")
                )


def _source(uri: str, suite: str, components: Sequence[str], keyring: str) -> Iterator[Source]:
    # A key that stands in the file itself has no path; apt's own trusted ones are used then.
    usable = all(part.isprintable() and part for part in (uri, suite, *components))
    if usable and components:
        yield Source(uri, suite, tuple(components), keyring if re.fullmatch(r"/\S+", keyring) else "")


def _pairs(text: str) -> dict[str, str]:
    found = re.findall(r"(?m)^([A-Z_]+)=\"?([^\"\n]*)", text)
    return dict(found)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            return opened.read(FILE_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
