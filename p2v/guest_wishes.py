"""What a user may choose beyond what a boot needs: cards' addresses, clean-up, a script at the first boot."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from p2v.errors import PlanRefused, UsageError
from p2v.model import Choice, CleanUp, Finding, KiB, Machine, Nic, PlannedNic, Removal, Script, Severity

QEMU_OUI = "52:54:00"
SCRIPT_LIMIT = 256 * KiB
WINDOWS_SCRIPTS = (".ps1", ".cmd", ".bat")
HOSTNAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")
SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._:-]{0,127}")
ESSENTIAL = frozenset(("dbus", "systemd-udevd", "udev", "systemd-logind", "systemd-journald", "init", "rc"))
REMOVED = {Removal.HW_AGENTS: "agents of the old hardware", Removal.GUEST_TOOLS: "tools of other platforms"}
NUMBERS = re.compile(r"(\d+)")


def clean_up(
    *,
    remove: Sequence[Removal],
    identity: Choice,
    hostname: str,
    first_boot: Path | None,
    disable: Sequence[str],
) -> CleanUp:
    """The choices as the plan holds them. Raises UsageError where the script cannot be read."""
    script = _script(first_boot) if first_boot else None
    return CleanUp(tuple(dict.fromkeys(remove)), identity, hostname, script, tuple(dict.fromkeys(disable)))


def _script(path: Path) -> Script:
    return Script(str(path.absolute()), hashlib.sha256(_read(path)).hexdigest())


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(SCRIPT_LIMIT + 1)
    except OSError as error:
        raise UsageError(f"The script {path} cannot be read: {error.strerror}") from error
    known = content.startswith(b"#!") or path.suffix.lower() in WINDOWS_SCRIPTS
    if not known or len(content) > SCRIPT_LIMIT:
        raise UsageError(
            f"{path} is not a script for the first boot: it must begin with #! (for a Windows, end in"
            f" {', '.join(WINDOWS_SCRIPTS)}) and have at most {SCRIPT_LIMIT // KiB} KiB",
            hint="Its first line names what runs it, for example #!/bin/sh",
        )
    return content


def script_content(chosen: CleanUp) -> bytes:
    """The script that was planned, empty where there is none. Raises PlanRefused where it has changed."""
    if chosen.first_boot is None:
        return b""
    content = _read(Path(chosen.first_boot.path))
    if hashlib.sha256(content).hexdigest() != chosen.first_boot.sha256:
        raise PlanRefused(
            f"{chosen.first_boot.path} is not the script that was planned: it was changed since",
            hint="Bring back what it was, or start another run with another --name",
        )
    return content


def findings(machine: Machine, chosen: CleanUp) -> Iterator[Finding]:
    """What of the choices cannot be done on this machine."""
    is_windows = machine.os is not None and machine.os.family == "windows"
    if is_windows and not _served_on_windows(chosen):
        message = (
            "Of the clean-up options, a Windows guest has --remove guest-tools and --run-first-boot alone"
        )
        yield Finding(Severity.BLOCKER, message, "Leave out --remove hw-agents, --hostname and the like")
    if chosen.first_boot and machine.os:
        yield from _about_script(chosen.first_boot, is_windows=is_windows)
    if chosen.hostname and (not HOSTNAME.fullmatch(chosen.hostname) or chosen.hostname.endswith("-")):
        hint = "Letters, digits, dashes and dots; each part has 63 characters at the most"
        yield Finding(Severity.BLOCKER, f"{chosen.hostname!r} is not a host name", hint)
    for service in chosen.disable:
        name = service.removesuffix(".service")
        if not SERVICE.fullmatch(service):
            yield Finding(Severity.BLOCKER, f"{service!r} is not the name of a service")
        elif name in ESSENTIAL:
            yield Finding(Severity.BLOCKER, f"Without the service {name} the machine does not boot")


def _about_script(script: Script, *, is_windows: bool) -> Iterator[Finding]:
    if is_windows == (Path(script.path).suffix.lower() in WINDOWS_SCRIPTS):
        return
    runs = f"scripts that end in {', '.join(WINDOWS_SCRIPTS)}" if is_windows else "scripts of its own shells"
    system = "A Windows" if is_windows else "A Linux"
    yield Finding(Severity.BLOCKER, f"{system} runs {runs} at its first boot, and not {script.path}")


def _served_on_windows(chosen: CleanUp) -> bool:
    tools = tuple(one for one in chosen.remove if one is Removal.GUEST_TOOLS)
    return chosen == CleanUp(remove=tools, first_boot=chosen.first_boot)


def planned_nics(machine: Machine, macs: Choice) -> tuple[PlannedNic, ...]:
    """The cards of the virtual machine: as on the source, in the order of their names, at least one.

    Addresses are the source's, unless new ones were asked for or nobody knows them; then they are made from
    its identity, so that the same job gives the same ones.
    """
    nics = sorted(machine.nics, key=_order) or [Nic("", "")]
    return tuple(
        PlannedNic(nic.mac if nic.mac and macs is Choice.KEEP else _made(machine, nic), nic.name)
        for nic in nics
    )


def _order(nic: Nic) -> list[tuple[int, str]]:
    """As people count: eth2 before eth10. The kernel counts the cards of a virtual machine in this order."""
    parts = NUMBERS.split(nic.name)
    return [(int(part[:9]), "") if part.isdigit() else (-1, part) for part in parts if part]


def _made(machine: Machine, nic: Nic) -> str:
    identity = f"{machine.identity};{nic.name};{nic.mac}" if nic.name else machine.identity
    made = hashlib.sha256(identity.encode()).hexdigest()
    return ":".join((QEMU_OUI, made[0:2], made[2:4], made[4:6]))


def nic_warnings(machine: Machine, macs: Choice) -> Iterator[str]:
    """What is not known of the cards before the first byte is copied."""
    if not machine.nics:
        yield "The network cards of the source are not known: the virtual machine gets one with a new MAC"
    unknown = [nic.name for nic in machine.nics if not nic.mac]
    if unknown and macs is Choice.KEEP:
        yield f"The addresses of {', '.join(unknown)} are not known: they get new ones (MAC)"
    known = [nic.mac for nic in machine.nics if nic.mac]
    for mac in dict.fromkeys(mac for mac in known if known.count(mac) > 1):
        names = ", ".join(nic.name for nic in machine.nics if nic.mac == mac)
        yield f"{names} have one address ({mac}), as in a bond: they cannot be told apart by it"


def words(chosen: CleanUp) -> Iterator[str]:
    """The choices for a person, one line each."""
    for removal in chosen.remove:
        yield f"starts no more: {REMOVED[removal]}"
    if chosen.identity is Choice.NEW:
        yield "new identity: machine-id, SSH host keys"
    if chosen.hostname:
        yield f"host name {chosen.hostname}"
    if chosen.first_boot:
        yield f"runs {chosen.first_boot.path} at the first boot"
    if chosen.disable:
        yield f"disables {', '.join(chosen.disable)}"
