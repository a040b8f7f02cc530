"""From what a booting machine showed to a verdict: pure text, no machine needed.

All text comes from the guest and is hostile: patterns are anchored to the start of a line, so that a login
prompt inside a log message proves nothing, and everything that is handed on is short and printable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from p2v.model import Verdict

EVIDENCE_LIMIT = 300
JUDGED_LIMIT = 2 * 1024 * 1024
"""Characters of serial output, from the end, that are looked at."""

MAX_FAILED_UNITS = 50

SETTLE_SECONDS = {
    Verdict.BOOTED: 8.0,
    Verdict.DEGRADED: 8.0,
    Verdict.GUEST_CRASHED: 20.0,
    Verdict.NO_BOOT_DEVICE: 5.0,
    Verdict.BOOTLOADER: 10.0,
}
"""How long a first impression must last: units fail late, and a kernel may survive what it calls a bug."""

OTHER_SETTLE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look at the machine gave. `status` is QEMU's run state, `said` what QEMU itself wrote."""

    serial: str = ""
    screen: str = ""
    firmware: str = ""
    status: str = "running"
    said: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    verdict: Verdict
    evidence: str
    failed_units: tuple[str, ...] = ()
    hostname: str = ""

    @property
    def settle(self) -> float:
        """Seconds for which this must stay the judgement before it counts."""
        return SETTLE_SECONDS.get(self.verdict, OTHER_SETTLE_SECONDS)


def lines_pattern(*patterns: str) -> re.Pattern[str]:
    """Any of the patterns at the start of a line, behind blanks and the kernel's time stamp."""
    return re.compile(r"^[ \t]*(?:\[ *\d+\.\d+\] )?(?:" + "|".join(patterns) + r").*$", re.MULTILINE)


# Cursor positions begin a new line; all other escape sequences (ECMA-48) only colour the text.
NEW_LINE = re.compile(r"\x1b\[\d*(?:;\d*)?[Hf]|\r\n?")
ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]")
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")

# A prompt ends its line, unless the kernel speaks right behind it.
LOGIN = re.compile(
    r"^(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?) login:[ \t]*(?:\[ *\d+\.\d+\].*)?$",
    re.MULTILINE,
)
NOT_HOSTS = frozenset({"please", "last", "to", "user", "your", "the"})

FAILED = re.compile(
    r"^[ \t]*\[ *FAILED *\] Failed to (?:start|mount|activate swap|listen on|set up) (?P<unit>.+?)\.*$",
    re.MULTILINE,
)
UNIT = re.compile(r"(\S+\.(?:service|mount|swap|socket|timer|device|target|path|automount))\b")

FATAL_PANIC = lines_pattern(
    r"Kernel panic - not syncing: VFS",
    r"Kernel panic - not syncing: No working init",
    r"Kernel panic - not syncing: Req",
)
PANIC = lines_pattern(r"(?:---\[ end )?Kernel panic - not syncing")
CRASH = lines_pattern(
    r"Oops: ",
    r"BUG: unable to handle",
    r"BUG: kernel NULL pointer",
    r"int3: ",
    r"general protection fault",
    r"PANIC: ",
)
INITRAMFS_REASONS = (
    lines_pattern(r"ALERT! .*does not exist"),
    lines_pattern(r"(?:\S{1,40} )?Warning: .{1,200}does not exist"),
    lines_pattern(r"ERROR: device .{1,200}not found"),
    lines_pattern(r"Gave up waiting for "),
)
INITRAMFS_PROMPT = lines_pattern(
    r"\(initramfs\)",
    r"(?:\S{1,40} )?dracut:/#",
    r"(?:\*+ )?Entering emergency mode\. Exit the shell",
    r"ALERT! .*Dropping to a shell",
    r"\[rootfs [^\]]{0,20}\]#",
)
EMERGENCY = lines_pattern(
    r"(?:Welcome to|You are in) (?:emergency|rescue) mode",
    r"Give root password for (?:maintenance|login)",
    r"Cannot open access to console, the root account is locked",
)
LOADER_PROMPT = re.compile(r"(?:grub rescue>|grub>|boot:$|sh:grub>|lilo:$)", re.IGNORECASE)
LOADER_ERROR = lines_pattern(
    r"error: ",
    r"No DEFAULT or UI configuration directive found",
    r"Missing operating system",
    r"Error loading operating system",
    r"BOOTMGR is missing",
    r"NTLDR is missing",
    r"GRUB (?:Hard Disk|Read|Geom) Error",
)
LOADER_DEAD = re.compile(
    r"Missing operating system|Error loading operating system|BOOTMGR is missing|NTLDR is missing"
    r"|Press Ctrl\+Alt\+Del|GRUB (?:Hard Disk|Read|Geom) Error"
)
NO_DEVICE = lines_pattern(
    r"No bootable device",
    r"BdsDxe: No bootable option or device was found",
    r"UEFI Interactive Shell",
    r"Shell>",
)
NO_DEVICE_LAST = re.compile(
    r"BdsDxe: failed to load|>>Start (?:PXE|HTTP) |BdsDxe: Press any key|Boot failed: not a bootable disk"
    r"|FATAL: No bootable medium|Operating system not found",
    re.IGNORECASE,
)


def judge(seen: Seen) -> Judgement | None:
    """The verdict as of now, or None while the machine may still get further."""
    if seen.status == "gone":
        return Judgement(Verdict.EMULATOR_FAILED, short(last_line(seen.said)) or "QEMU ended by itself")
    if seen.status == "io-error":
        return Judgement(
            Verdict.EMULATOR_FAILED, "QEMU could not write its overlay: is the disk of the host full?"
        )
    serial, screen = clean(seen.serial[-JUDGED_LIMIT:]), clean(seen.screen)
    found = judge_system(f"{serial}\n{screen}") or judge_loader(serial, screen, clean(seen.firmware))
    if found is None and seen.status == "internal-error":
        return Judgement(
            Verdict.GUEST_CRASHED, f"QEMU gave up (internal error) {short(last_line(seen.said))}".strip()
        )
    return found


def judge_system(text: str) -> Judgement | None:
    """What a kernel and a system said, worst first."""
    login = find_login(text)
    crash = CRASH.search(text)
    if FATAL_PANIC.search(text) or (PANIC.search(text) and not crash):
        return _because(Verdict.KERNEL_PANIC, first_match(text, FATAL_PANIC, PANIC))
    if crash and (login is None or PANIC.search(text)):
        return _because(Verdict.GUEST_CRASHED, crash)
    if INITRAMFS_PROMPT.search(text) and login is None:
        return _because(Verdict.INITRAMFS_SHELL, first_match(text, *INITRAMFS_REASONS, INITRAMFS_PROMPT))
    if EMERGENCY.search(text) and login is None:
        return _because(Verdict.EMERGENCY, EMERGENCY.search(text), failed_units(text))
    if login is not None:
        failed = failed_units(text)
        verdict = Verdict.DEGRADED if failed else Verdict.BOOTED
        return Judgement(verdict, short(login[0]), failed, login["host"])
    return None


def judge_loader(serial: str, screen: str, firmware: str) -> Judgement | None:
    """What firmware and boot loader said last: earlier complaints may have been overcome."""
    for text in (screen, serial):
        end = last_line(text)
        if LOADER_PROMPT.match(end) or LOADER_DEAD.search(end):
            return _because(Verdict.BOOTLOADER, LOADER_ERROR.search(text), default=end)
    for text in (screen, serial):
        if NO_DEVICE_LAST.search(last_line(text)):
            return Judgement(Verdict.NO_BOOT_DEVICE, short(last_line(text)))
        if NO_DEVICE.search(text):
            return _because(Verdict.NO_BOOT_DEVICE, NO_DEVICE.search(text))
    if NO_DEVICE.search(firmware):
        return _because(Verdict.NO_BOOT_DEVICE, NO_DEVICE.search(firmware))
    return None


def judge_timeout(seen: Seen, seconds: float) -> Judgement:
    """Nothing decided it: the last line that the guest wrote is all there is to say."""
    texts = (clean(text) for text in (seen.serial[-JUDGED_LIMIT:], seen.screen, seen.firmware))
    last = next((last_line(text) for text in texts if text.strip()), "")
    said = f"last line: {last}" if last else "the guest wrote nothing that could be read"
    return Judgement(Verdict.TIMEOUT, short(f"no verdict within {seconds:.0f} s; {said}"))


def _because(
    verdict: Verdict, found: re.Match[str] | None, failed: tuple[str, ...] = (), *, default: str = ""
) -> Judgement:
    return Judgement(verdict, short(found[0] if found else default), failed)


def first_match(text: str, *patterns: re.Pattern[str]) -> re.Match[str] | None:
    """The match of the first pattern that has one: the most telling stands first."""
    return next((found for pattern in patterns if (found := pattern.search(text))), None)


def find_login(text: str) -> re.Match[str] | None:
    """The last login prompt: `NAME login:` alone on a line."""
    found = [match for match in LOGIN.finditer(text) if match["host"].lower() not in NOT_HOSTS]
    return found[-1] if found else None


def failed_units(text: str) -> tuple[str, ...]:
    """What systemd could not start: units by name, or as described where there is none; each once."""
    said = (match["unit"] for match in FAILED.finditer(text))
    named = (unit[1] if (unit := UNIT.match(what)) else what for what in said)
    return tuple(dict.fromkeys(short(name) for name in named))[:MAX_FAILED_UNITS]


def with_failures(judgement: Judgement, failed: tuple[str, ...]) -> Judgement:
    """The judgement on a machine that showed these failed units at some time, maybe not any more."""
    units = tuple(dict.fromkeys((*judgement.failed_units, *failed)))[:MAX_FAILED_UNITS]
    verdict = Verdict.DEGRADED if units and judgement.verdict is Verdict.BOOTED else judgement.verdict
    return replace(judgement, verdict=verdict, failed_units=units)


def clean(text: str) -> str:
    """Terminal output as plain lines."""
    return CONTROLS.sub("", ESCAPES.sub("", NEW_LINE.sub("\n", text)))


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def short(text: str) -> str:
    """One printable line of bounded length."""
    return "".join(char for char in text.strip() if char.isprintable())[:EVIDENCE_LIMIT]
