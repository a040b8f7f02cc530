"""What the guest does once, at its first boot: a script of the user's, and host keys where it lost them.

Under systemd a unit, wanted by a drop-in of multi-user.target; elsewhere one line in the local start file.
Everything removes itself afterwards; the log stays.
"""

from __future__ import annotations

import re

from conversions.changes import Changes

SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
UNITS = "/etc/systemd/system"
FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where the guest's policy (SELinux) expects programs."""
LOCAL_FILES = ("/etc/rc.d/rc.local", "/etc/rc.local", "/etc/init.d/after.local")
LOCAL_FOLDER = "/etc/local.d"
LOG = "/var/log/p2v-first-boot.log"
NAME = "p2v-first-boot"
KEYS = "p2v-host-keys"
KEYGEN = ("/usr/bin/ssh-keygen", "/bin/ssh-keygen")
OWN_KEYGEN = (
    "/usr/lib/systemd/system/sshd-keygen*.service",
    "/lib/systemd/system/sshd-keygen*.service",
    "/usr/lib/systemd/system/sshdgenkeys.service",
)
SERVERS = ("/usr/lib/systemd/system/sshd.service", "/lib/systemd/system/ssh.service")
MAKES_KEYS = re.compile("sshd?-keygen|gen-keys|sshdgenkeys")
INIT_SCRIPTS = ("/etc/init.d/sshd", "/etc/init.d/ssh", "/etc/rc.d/init.d/sshd", "/etc/conf.d/sshd")
EXIT = re.compile(r"^exit\b[^\n]*\n?\s*\Z", re.MULTILINE)

WANTS = "# By p2v, for the first boot only.\n[Unit]\nWants={name}.service\n"
UNIT = """# By p2v, for the first boot only.
[Unit]
Description=Script for the first boot after the conversion
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
TimeoutStartSec=0
ExecStart=/bin/sh {runner}
"""
KEYS_UNIT = """# By p2v: makes the SSH host keys that are missing, once.
[Unit]
Description=SSH host keys of this machine
Before=ssh.service sshd.service

[Service]
Type=oneshot
ExecStart={keygen} -A
ExecStartPost=/bin/rm -f {unit} {wants}
"""
RUNNER = """#!/bin/sh
# By p2v: runs {script} once and removes itself.
rm -f {files}
{unhook}
mv {script} {script}.once || exit 1
chmod 0700 {script}.once
{{
    echo "p2v: first boot, $(date)"
    {script}.once
    code=$?
    echo "p2v: the script ended with $code"
}} >>{log} 2>&1
rm -f {script}.once {runner}
exit $code
"""
LINE = "[ ! -f {runner} ] || /bin/sh {runner}\n"
UNHOOK = "sed -i '/{name}/d' {file}"
REASON = "runs a script at the first boot"


def install_script(changes: Changes, script: bytes) -> None:
    """Let the guest run a script once; a guest that knows neither way gets a warning instead."""
    folder = next((path for path in FOLDERS if changes.guest.is_dir(path)), "")
    place, runner = f"{folder}/{NAME}", f"{folder}/{NAME}-runner"
    if not folder:
        changes.warn("The script for the first boot was not installed: the guest has no /usr/sbin")
    elif any(changes.guest.exists(path) for path in SYSTEMD):
        files = _hook_unit(changes, NAME, UNIT.format(runner=runner), REASON)
        _write_script(changes, script, place, runner, files=files, unhook=":")
    elif changes.guest.is_dir(LOCAL_FOLDER):
        file = f"{LOCAL_FOLDER}/{NAME}.start"
        changes.write_text(file, "#!/bin/sh\n" + LINE.format(runner=runner), REASON)
        changes.guest.run(["chmod", "0755", file])
        _write_script(changes, script, place, runner, files=(file,), unhook=":")
        if not changes.guest.exists("/etc/runlevels/default/local"):
            changes.warn("The script for the first boot needs OpenRC's service `local`: rc-update add local")
    else:
        file = _hook_line(changes, runner)
        _write_script(changes, script, place, runner, files=(), unhook=UNHOOK.format(name=NAME, file=file))


def _write_script(
    changes: Changes, script: bytes, place: str, runner: str, *, files: tuple[str, ...], unhook: str
) -> None:
    changes.write_bytes(place, script, REASON)
    changes.guest.run(["chmod", "0700", place])
    text = RUNNER.format(script=place, runner=runner, files=" ".join(files), unhook=unhook, log=LOG)
    changes.write_text(runner, text, REASON)


def _hook_unit(changes: Changes, name: str, text: str, reason: str) -> tuple[str, ...]:
    """A unit that the usual target wants by a drop-in, which is a file where `enable` would make a link."""
    unit, wants = _unit_files(name)
    changes.write_text(unit, text, reason)
    changes.write_text(wants, WANTS.format(name=name), reason)
    return unit, wants


def _unit_files(name: str) -> tuple[str, str]:
    return f"{UNITS}/{name}.service", f"{UNITS}/multi-user.target.d/{name}.conf"


def _hook_line(changes: Changes, runner: str) -> str:
    """One line in the file that the guest runs at the end of its start, above an `exit`."""
    file = next((path for path in LOCAL_FILES if changes.guest.exists(path)), "")
    if not file:
        file = LOCAL_FILES[2] if changes.guest.is_dir("/etc/init.d/rc3.d") else LOCAL_FILES[1]
    text = changes.read_text(file) or "#!/bin/sh\n"
    line = LINE.format(runner=runner)
    if line not in text:
        text += "" if text.endswith("\n") else "\n"
        end = EXIT.search(text)
        text = text[: end.start()] + line + text[end.start() :] if end else text + line
        changes.write_text(file, text, REASON)
        changes.guest.run(["chmod", "0755", file])
    return file


def ensure_host_keys(changes: Changes) -> bool:
    """See that missing SSH host keys are made before the server starts; False where nothing can do that."""
    if any(changes.guest.glob(pattern) for pattern in OWN_KEYGEN):
        return True
    if any(MAKES_KEYS.search(changes.read_text(path)) for path in (*SERVERS, *INIT_SCRIPTS)):
        return True
    keygen = next((path for path in KEYGEN if changes.guest.exists(path)), "")
    if keygen and any(changes.guest.exists(path) for path in SYSTEMD):
        unit, wants = _unit_files(KEYS)
        text = KEYS_UNIT.format(keygen=keygen, unit=unit, wants=wants)
        _hook_unit(changes, KEYS, text, "makes the SSH host keys that are missing, at the first boot")
        return True
    changes.warn("The SSH host keys were kept: nothing in the guest would make new ones")
    return False
