"""What in a Windows' registry stands against a conversion, or will be in its way: findings with their
mending.

Measured class filters: a Windows 10 (19041) as it is installed; the older ones from Microsoft's KB 925179.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from conversions.nt.identify import control_set, number_of, text_of, texts_of
from conversions.nt.registry import Hive
from p2v.model import Finding, Firmware, OperatingSystem, Severity

RESTRICTIONS = r"Policies\Microsoft\Windows\DeviceInstall\Restrictions"
PENDING = (
    r"Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending",
    r"Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired",
)
UNINSTALL = (
    r"Microsoft\Windows\CurrentVersion\Uninstall",
    r"Wow6432Node\Microsoft\Windows\CurrentVersion\Uninstall",
)
MAX_PROGRAMS = 2000
GUARDS = re.compile(
    r"virus|kaspersky|mcafee|norton|sophos|apexone|avg technologies|trend micro|bitdefender|"
    r"carbon black|sentinel agent|crowdstrike|eset (?:endpoint|server|nod32)",
    re.IGNORECASE,
)
"""Programs that may let no driver in that they do not know; the first ones are libguestfs' list."""

STORAGE_CLASSES = {
    "{4d36e967-e325-11ce-bfc1-08002be10318}": ("disks", frozenset(("partmgr", "ehstorclass", "iorate"))),
    "{71a27cdd-812a-11d0-bec7-08002be2092f}": (
        "volumes",
        frozenset(("volsnap", "fvevol", "iorate", "rdyboost", "volume")),
    ),
    "{4d36e97b-e325-11ce-bfc1-08002be10318}": ("SCSI controllers", frozenset[str]()),
    "{4d36e96a-e325-11ce-bfc1-08002be10318}": ("IDE and SATA controllers", frozenset[str]()),
}
"""Setup classes on the way to the system's disk, and the filters that Windows itself puts there."""
MAKERS = (
    (re.compile(r"prl_|prlfilter", re.IGNORECASE), "Parallels"),
    (re.compile(r"xen|rhelscsi", re.IGNORECASE), "Xen"),
    (re.compile(r"vmci|vsock|vmhgfs", re.IGNORECASE), "VMware"),
    (re.compile(r"vbox", re.IGNORECASE), "VirtualBox"),
    (re.compile(r"mpio|msdsm|emcp|hdlm|dlm|hpdsm", re.IGNORECASE), "multipath software"),
    (re.compile(r"snapman|fltsrv|tdrpm|vsflt|tib", re.IGNORECASE), "Acronis"),
    (re.compile(r"stcvsm|symsnap|veeam|cbt|datto|bxvsm", re.IGNORECASE), "backup software"),
)
MAX_FILTERS = 32


def findings(system: Hive, software: Hive) -> Iterator[Finding]:
    """All that the hives tell. Raises GuestError where one is damaged."""
    yield from _about_filters(system)
    yield from _about_restrictions(software)
    yield from _about_reboot(system, software)
    yield from _about_guards(software)


def about_architecture(system: OperatingSystem, firmware: Firmware) -> Iterator[Finding]:
    """No virtual machine has the firmware of a 32-bit Windows on UEFI."""
    if system.architecture == "i686" and firmware is Firmware.UEFI:
        yield Finding(
            Severity.BLOCKER,
            f"{system.name} (32-bit) starts from a 32-bit UEFI, which no hypervisor has",
            "Install a 64-bit Windows on it, or move it to BIOS (MBR) on the source",
        )


def _about_filters(system: Hive) -> Iterator[Finding]:
    current = control_set(system)
    for guid, (what, inbox) in STORAGE_CLASSES.items():
        key = rf"{current}\Control\Class\{guid}"
        for name in ("UpperFilters", "LowerFilters"):
            filters = texts_of(system, key, name)[:MAX_FILTERS]
            strangers = [one for one in filters if one and one.lower() not in inbox]
            if strangers:
                kept = [one for one in filters if one not in strangers]
                words = ", ".join(_with_maker(system, current, one) for one in strangers)
                yield _warning(
                    f"Other software filters all {what} of this Windows ({name}: {words}); where its driver "
                    "does not start on the new machine, Windows stops with 0x7B",
                    f"Uninstall it on the source, or there: {_filter_command(guid, name, kept)}",
                )


def _with_maker(system: Hive, current: str, service: str) -> str:
    maker = next((maker for pattern, maker in MAKERS if pattern.match(service)), "")
    missing = "" if system.has(rf"{current}\Services\{service}") else "not installed"
    notes = ", ".join(filter(None, (maker, missing)))
    return f"{service} ({notes})" if notes else service


def _filter_command(guid: str, name: str, kept: list[str]) -> str:
    key = rf'"HKLM\SYSTEM\CurrentControlSet\Control\Class\{guid}"'
    if not kept:
        return f"reg delete {key} /v {name} /f"
    return rf'reg add {key} /v {name} /t REG_MULTI_SZ /d "{chr(92).join(_joined(kept))}" /f'


def _joined(kept: list[str]) -> list[str]:
    # reg.exe separates the strings of a list with `\0`, typed as these two characters.
    return [kept[0], *(f"0{one}" for one in kept[1:])]


def _about_restrictions(software: Hive) -> Iterator[Finding]:
    values = [value.name for value in software.values(RESTRICTIONS)]
    active = [name for name in values if name.lower().startswith("deny") and _is_set(software, name)]
    if active:
        yield _warning(
            f"A policy restricts which devices may be installed ({', '.join(sorted(active)[:8])}): Windows "
            "may refuse the devices of the new machine",
            rf'On the source: reg delete "HKLM\SOFTWARE\{RESTRICTIONS}" /f',
        )


def _is_set(software: Hive, name: str) -> bool:
    return number_of(software, RESTRICTIONS, name) not in (None, 0)


def _about_reboot(system: Hive, software: Hive) -> Iterator[Finding]:
    session = rf"{control_set(system)}\Control\Session Manager"
    waits = [key.rpartition("\\")[2] for key in PENDING if software.has(key)]
    if any(texts_of(system, session, "PendingFileRenameOperations")):
        waits.append("PendingFileRenameOperations")
    if waits:
        yield _warning(
            f"Windows waits for a restart to finish an installation ({', '.join(waits)}): the first start on "
            "the new machine will finish it",
            "On the source: shutdown /r /t 0, and once it is up again: shutdown /s /f /t 0",
        )


def _about_guards(software: Hive) -> Iterator[Finding]:
    names = {name for key in UNINSTALL for name in _programs(software, key) if GUARDS.search(name)}
    if names:
        yield _warning(
            f"Software that may keep new drivers out is installed ({', '.join(sorted(names)[:5])})",
            "Let it accept drivers of the new platform, or uninstall it on the source before the capture",
        )


def _programs(software: Hive, key: str) -> Iterator[str]:
    for name in software.keys(key)[:MAX_PROGRAMS]:
        yield text_of(software, rf"{key}\{name}", "DisplayName")


def _warning(message: str, hint: str) -> Finding:
    return Finding(Severity.WARNING, message, hint)
