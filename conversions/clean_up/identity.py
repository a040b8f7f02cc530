"""What tells two copies of one machine apart: machine-id, SSH host keys, random seeds, host name.

machine-id(5): an empty file is filled at boot without starting the whole ceremony of a first boot. Without
systemd it is D-Bus that makes the file, and only where there is none.
"""

from __future__ import annotations

import re

from conversions.changes import Changes
from conversions.clean_up.first_boot import ensure_host_keys
from p2v.model import Machine

MACHINE_ID = "/etc/machine-id"
DBUS_ID = "/var/lib/dbus/machine-id"
SEEDS = ("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed")
HOST_KEYS = ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/etc/ssh/ssh_host_key*")
SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
LOADER_ENTRIES = "/boot/loader/entries/{identifier}-*.conf"
HOSTNAME_FILES = ("/etc/hostname", "/etc/HOSTNAME", "/etc/nodename")
HOSTNAME_SETTINGS = ("/etc/sysconfig/network", "/etc/conf.d/hostname", "/etc/rc.conf")
SETTING = re.compile(
    r"^(?P<head>[ \t]*(?:HOSTNAME|hostname)=)(?P<quote>[\"']?)[^\"'\s#]*(?P=quote)", re.MULTILINE
)
HOSTS = "/etc/hosts"
WORD = re.compile(r"\S+")
NEW = "the virtual machine gets its own"


def renew_identity(changes: Changes) -> None:
    """Let the guest make a machine-id, SSH host keys and random seeds of its own at its next boot."""
    _warn_of_entries(changes)
    if any(changes.guest.exists(path) for path in SYSTEMD):
        if changes.guest.exists(MACHINE_ID):
            changes.write_text(MACHINE_ID, "", NEW)
    else:
        changes.remove(MACHINE_ID, NEW)
    for path in (DBUS_ID, *SEEDS):
        changes.remove(path, NEW)
    keys = [path for pattern in HOST_KEYS for path in changes.guest.glob(pattern)]
    if keys and ensure_host_keys(changes):
        for path in keys:
            changes.remove(path, NEW)


def _warn_of_entries(changes: Changes) -> None:
    identifier = changes.read_text(MACHINE_ID).strip()
    if re.fullmatch("[0-9a-f]{32}", identifier) and changes.guest.glob(
        LOADER_ENTRIES.format(identifier=identifier)
    ):
        changes.warn("The boot menu's entries are named after the old machine-id: remove old kernels by hand")


def rename(changes: Changes, machine: Machine, name: str) -> None:
    """Give the guest another host name, and what it calls itself in /etc/hosts."""
    reason = "the host name that the job asked for"
    old = next((text.strip() for path in HOSTNAME_FILES if (text := changes.read_text(path).strip())), "")
    for path in HOSTNAME_FILES:
        if changes.guest.exists(path):
            changes.write_text(path, f"{name}\n", reason)
    # On SUSE, /etc/sysconfig/network is a folder.
    there = [path for path in HOSTNAME_SETTINGS if not changes.guest.is_dir(path)]
    settings = [path for path in there if SETTING.search(changes.read_text(path))]
    for path in settings:
        text = changes.read_text(path)
        found = SETTING.search(text)
        old = old or (found.group().partition("=")[2].strip("\"'") if found else "")
        changes.write_text(path, SETTING.sub(rf"\g<head>\g<quote>{name}\g<quote>", text), reason)
    if not settings and not any(changes.guest.exists(path) for path in HOSTNAME_FILES):
        changes.write_text(HOSTNAME_FILES[0], f"{name}\n", reason)
    _rename_in_hosts(changes, machine, old or machine.hostname, name)


def _rename_in_hosts(changes: Changes, machine: Machine, old: str, name: str) -> None:
    own = {address.partition("/")[0] for nic in machine.nics for address in nic.addresses}
    lines = changes.read_text(HOSTS).splitlines(keepends=True)
    changed = [_renamed(line, own, old, name) for line in lines]
    if changed != lines:
        changes.write_text(HOSTS, "".join(changed), "the host name that the job asked for")


def _renamed(line: str, own: set[str], old: str, name: str) -> str:
    words = line.partition("#")[0].split()
    if not words or not (words[0].startswith("127.") or words[0] == "::1" or words[0] in own):
        return line
    short = old.partition(".")[0]

    def renamed(found: re.Match[str]) -> str:
        word = found.group()
        if word == short:
            return name.partition(".")[0]
        if word == old or word.startswith(f"{short}."):
            return name if "." in name else name + word[len(short) :]
        return word

    code, mark, comment = line.partition("#")
    return WORD.sub(renamed, code) + mark + comment
