"""What the user chose to change in the guest, on small trees."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from conversions.changes import Changes
from conversions.clean_up import clean_up
from conversions.clean_up.first_boot import LOG, RUNNER
from p2v.model import Choice, CleanUp, Nic, Removal
from tests.conversions.machines import MACHINE
from tests.conversions.network.guests import guest, request, text
from tests.tree_guest import TreeGuest

SYSTEMD = {"/usr/lib/systemd/systemd": "", "/usr/sbin/init": "", "/usr/local/sbin/x": ""}
UNIT = "/usr/lib/systemd/system/{name}.service"
WANTS = "etc/systemd/system/multi-user.target.wants"
ID = "e6ad8ce822f559e8899402a5b2d647fb"
KEYS = {"/etc/ssh/ssh_host_rsa_key": "secret", "/etc/ssh/ssh_host_rsa_key.pub": "ssh-rsa AAAA old"}
SCRIPT = b"#!/bin/sh\necho hello from the script\nexit 3\n"


def enabled(made: TreeGuest, name: str, *, folder: str = WANTS) -> Path:
    """Enable a unit as systemctl does: a link to the unit of its package."""
    made.mkdir("/usr/lib/systemd/system")
    made.write(UNIT.format(name=name), b"[Service]\n")
    link = made.root / folder / f"{name}.service"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(UNIT.format(name=name))
    return link


def cleaned(made: TreeGuest, chosen: CleanUp, *, script: bytes = b"", hostname: str = "metal12") -> Changes:
    """What was changed; a second time changes nothing."""
    machine = replace(MACHINE, hostname=hostname, nics=(Nic("eth0", "", addresses=("10.0.0.5/24",)),))
    asked = replace(request(()), machine=machine, clean_up=chosen, first_boot=script)
    changes, again = Changes(made), Changes(made)
    clean_up(changes, asked)
    clean_up(again, asked)
    assert again.changes == ()
    return changes


def test_by_default_everything_stays(tmp_path: Path) -> None:
    made = guest(tmp_path, {**SYSTEMD, **KEYS, "/etc/machine-id": f"{ID}\n"})
    link = enabled(made, "vmtoolsd")
    assert cleaned(made, CleanUp()).changes == ()
    assert link.is_symlink()


def test_hardware_agents_start_no_more_and_the_command_that_removes_them_is_said(tmp_path: Path) -> None:
    made = guest(tmp_path, {**SYSTEMD, "/usr/bin/dnf": ""})
    agent, other = enabled(made, "hp-health"), enabled(made, "sshd")
    changes = cleaned(made, CleanUp(remove=(Removal.HW_AGENTS,)))
    assert not agent.is_symlink()
    assert made.exists(UNIT.format(name="hp-health"))
    assert other.is_symlink()
    assert [change.path for change in changes.changes] == [f"/{WANTS}/hp-health.service"]
    assert any("dnf remove hp-health" in warning for warning in changes.warnings)


def test_tools_of_other_platforms_go_and_the_guest_agent_of_this_one_stays(tmp_path: Path) -> None:
    made = guest(tmp_path, {**SYSTEMD, "/usr/bin/vmware-uninstall-tools.pl": ""})
    tools, ours = enabled(made, "vmtoolsd"), enabled(made, "qemu-guest-agent")
    changes = cleaned(made, CleanUp(remove=(Removal.GUEST_TOOLS,)))
    assert not tools.is_symlink()
    assert ours.is_symlink()
    assert any("/usr/bin/vmware-uninstall-tools.pl" in warning for warning in changes.warnings)


def test_tools_of_the_target_stay(tmp_path: Path) -> None:
    made = guest(tmp_path, SYSTEMD)
    link = enabled(made, "vmtoolsd")
    asked = request(())
    asked = replace(asked, platform=replace(asked.platform, name="vmware"))
    clean_up(Changes(made), replace(asked, clean_up=CleanUp(remove=(Removal.GUEST_TOOLS,))))
    assert link.is_symlink()


def test_a_unit_that_its_package_starts_is_masked(tmp_path: Path) -> None:
    made = guest(tmp_path, SYSTEMD)
    enabled(made, "mcelog", folder="usr/lib/systemd/system/multi-user.target.wants")
    cleaned(made, CleanUp(remove=(Removal.HW_AGENTS,)))
    assert made.read("/etc/systemd/system/mcelog.service") == b""


@pytest.mark.parametrize("folder", ["etc/rc3.d", "etc/rc.d/rc3.d", "etc/init.d/rc3.d"])
def test_an_rc_script_loses_its_start_and_keeps_its_stop(tmp_path: Path, folder: str) -> None:
    made = guest(tmp_path, {"/etc/init.d/legacy": "#!/bin/sh\n"})
    (made.root / folder).mkdir(parents=True)
    for name in ("S20legacy", "K80legacy", "S20legacy-not"):
        (made.root / folder / name).symlink_to("/etc/init.d/legacy")
    cleaned(made, CleanUp(disable=("legacy",)))
    assert sorted(path.name for path in (made.root / folder).iterdir()) == ["K80legacy", "S20legacy-not"]


def test_services_of_openrc_and_upstart(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/etc/init.d/old": "", "/etc/init/old.conf": "start on runlevel 2\n"})
    (made.root / "etc/runlevels/default").mkdir(parents=True)
    (made.root / "etc/runlevels/default/old").symlink_to("/etc/init.d/old")
    cleaned(made, CleanUp(disable=("old",)))
    assert not list((made.root / "etc/runlevels/default").iterdir())
    assert text(made, "/etc/init/old.override") == "manual\n"


def test_a_service_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    changes = cleaned(guest(tmp_path, SYSTEMD), CleanUp(disable=("nothing", "../../etc/passwd", "*")))
    assert changes.changes == ()
    assert len(changes.warnings) == 3


def test_a_new_identity_is_left_to_the_guest_s_own_boot(tmp_path: Path) -> None:
    files = {**SYSTEMD, **KEYS, "/etc/machine-id": f"{ID}\n", "/var/lib/dbus/machine-id": f"{ID}\n"}
    files |= {
        "/var/lib/systemd/random-seed": "xxxx",
        "/usr/bin/ssh-keygen": "",
        "/etc/ssh/sshd_config": "kept",
    }
    made = guest(tmp_path, files)
    cleaned(made, CleanUp(identity=Choice.NEW))
    assert made.read("/etc/machine-id") == b""
    assert not any(map(made.exists, ("/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed", *KEYS)))
    assert made.exists("/etc/ssh/sshd_config")
    unit = text(made, "/etc/systemd/system/p2v-host-keys.service")
    assert "ExecStart=/usr/bin/ssh-keygen -A" in unit
    wants = text(made, "/etc/systemd/system/multi-user.target.d/p2v-host-keys.conf")
    assert "Wants=p2v-host-keys.service" in wants


@pytest.mark.parametrize(
    "maker",
    [
        {"/usr/lib/systemd/system/sshd-keygen@.service": "", **SYSTEMD},
        {"/usr/lib/systemd/system/sshd.service": "ExecStartPre=/usr/sbin/sshd-gen-keys-start\n", **SYSTEMD},
        {"/etc/init.d/sshd": "ssh-keygen -A\n"},
    ],
)
def test_host_keys_are_left_to_the_guest_where_it_makes_them(
    tmp_path: Path, maker: Mapping[str, str]
) -> None:
    made = guest(tmp_path, {**maker, **KEYS})
    cleaned(made, CleanUp(identity=Choice.NEW))
    assert not any(map(made.exists, KEYS))
    assert not made.exists("/etc/systemd/system/p2v-host-keys.service")


def test_host_keys_stay_where_nothing_would_make_new_ones(tmp_path: Path) -> None:
    made = guest(tmp_path, {**KEYS, "/etc/init.d/ssh": "start-stop-daemon sshd\n"})
    changes = cleaned(made, CleanUp(identity=Choice.NEW))
    assert all(map(made.exists, KEYS))
    assert any("host keys were kept" in warning for warning in changes.warnings)


def test_without_systemd_the_machine_id_goes_as_dbus_wants_it(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/etc/machine-id": ID, "/var/lib/dbus/machine-id": ID})
    cleaned(made, CleanUp(identity=Choice.NEW))
    assert not made.exists("/etc/machine-id")
    assert not made.exists("/var/lib/dbus/machine-id")


def test_boot_entries_named_after_the_machine_id_are_a_warning(tmp_path: Path) -> None:
    files = {**SYSTEMD, "/etc/machine-id": f"{ID}\n", f"/boot/loader/entries/{ID}-5.14.0.conf": "title x\n"}
    changes = cleaned(guest(tmp_path, files), CleanUp(identity=Choice.NEW))
    assert any("machine-id" in warning for warning in changes.warnings)


@pytest.mark.parametrize(
    ("files", "after"),
    [
        ({"/etc/hostname": "metal12\n"}, {"/etc/hostname": "web01\n"}),
        ({"/etc/HOSTNAME": "metal12.example.org\n"}, {"/etc/HOSTNAME": "web01\n"}),
        (
            {"/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=metal12.example.org\nGATEWAY=10.0.0.1\n"},
            {"/etc/sysconfig/network": "NETWORKING=yes\nHOSTNAME=web01\nGATEWAY=10.0.0.1\n"},
        ),
        ({"/etc/conf.d/hostname": 'hostname="metal12"\n'}, {"/etc/conf.d/hostname": 'hostname="web01"\n'}),
        ({}, {"/etc/hostname": "web01\n"}),
    ],
)
def test_a_host_name_goes_where_the_guest_keeps_it(
    tmp_path: Path, files: Mapping[str, str], after: Mapping[str, str]
) -> None:
    made = guest(tmp_path, {"/etc/passwd": "", **files})
    cleaned(made, CleanUp(hostname="web01"))
    assert {path: text(made, path) for path in after} == after


def test_in_hosts_only_the_guest_s_own_lines_change(tmp_path: Path) -> None:
    before = (
        "127.0.0.1\tlocalhost\n127.0.1.1\tmetal12.example.org metal12  # metal12\n"
        "10.0.0.5 metal12 metal12-db\n10.0.0.6 metal12\n# 127.0.0.1 metal12\n::1 localhost metal12\n"
    )
    made = guest(tmp_path, {"/etc/hostname": "metal12\n", "/etc/hosts": before})
    cleaned(made, CleanUp(hostname="web01"))
    assert text(made, "/etc/hosts") == (
        "127.0.0.1\tlocalhost\n127.0.1.1\tweb01.example.org web01  # metal12\n"
        "10.0.0.5 web01 metal12-db\n10.0.0.6 metal12\n# 127.0.0.1 metal12\n::1 localhost web01\n"
    )


def test_a_script_for_the_first_boot_is_installed_for_systemd(tmp_path: Path) -> None:
    made = guest(tmp_path, SYSTEMD)
    cleaned(made, CleanUp(), script=SCRIPT)
    assert made.read("/usr/local/sbin/p2v-first-boot") == SCRIPT
    assert made.host("/usr/local/sbin/p2v-first-boot").stat().st_mode & 0o777 == 0o700
    assert "ExecStart=/bin/sh /usr/local/sbin/p2v-first-boot-runner" in text(
        made, "/etc/systemd/system/p2v-first-boot.service"
    )


def test_without_systemd_the_local_start_file_runs_it_above_its_exit(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/usr/sbin/x": "", "/etc/rc.local": "#!/bin/sh -e\ntrue\nexit 0\n"})
    cleaned(made, CleanUp(), script=SCRIPT)
    first, kept, line, end = text(made, "/etc/rc.local").splitlines()
    assert (first, kept, end) == ("#!/bin/sh -e", "true", "exit 0")
    assert line.endswith("/bin/sh /usr/sbin/p2v-first-boot-runner")


def test_openrc_runs_it_from_its_own_folder(tmp_path: Path) -> None:
    made = guest(tmp_path, {"/usr/sbin/x": "", "/etc/local.d/README": ""})
    changes = cleaned(made, CleanUp(), script=SCRIPT)
    assert made.exists("/etc/local.d/p2v-first-boot.start")
    assert any("rc-update add local" in warning for warning in changes.warnings)


def test_the_runner_runs_it_once_keeps_the_log_and_leaves_nothing(tmp_path: Path) -> None:
    """The runner is run here, by this machine's sh, in a folder: it is ours, not the guest's."""
    script, runner = tmp_path / "script", tmp_path / "runner"
    unit, start, log = tmp_path / "unit", tmp_path / "rc.local", tmp_path / "log"
    start.write_text(f"#!/bin/sh\n[ ! -f {runner} ] || /bin/sh {runner}\nexit 0\n")
    script.write_bytes(SCRIPT)
    unit.write_text("")
    unhook = f"sed -i '/{runner.name}/d' {start}"
    runner.write_text(
        RUNNER.format(script=script, runner=runner, files=unit, unhook=unhook, log=log).replace(LOG, str(log))
    )
    done = subprocess.run(["/bin/sh", runner], check=False, timeout=30)
    assert done.returncode == 3
    assert "hello from the script\np2v: the script ended with 3\n" in log.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "rc.local"]
    assert start.read_text() == "#!/bin/sh\nexit 0\n"
