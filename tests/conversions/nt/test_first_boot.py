"""The service of the first boot, its scripts, and what each Windows is given to run."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tree_sitter_powershell
from tree_sitter import Language, Parser

from conversions.nt import first_boot
from conversions.nt.first_boot_network import batch, powershell
from conversions.nt.first_boot_scripts import ATTEMPTS, NAME
from conversions.nt.registry import dword, multi_sz, sz
from conversions.nt.static_addresses import Adapter, Assignment
from conversions.nt.work import WindowsWork
from p2v.errors import GuestError
from p2v.model import CleanUp, Disk, GiB, Machine, Nic, PlannedNic, Script, TableKind
from tests.conversions.nt.memory_hives import MemoryHive, machine, work_on

GUID = "{c43669b3-ab3e-4d0e-8fde-69579925a20f}"
MAC = "00:0c:29:66:1a:a2"
SETS = ("ControlSet001", "ControlSet002")
NIC = Nic("Ethernet0", MAC, addresses=("192.0.2.7/24",))
POWERSHELL = Language(tree_sitter_powershell.language())


def system() -> MemoryHive:
    return MemoryHive().put(
        f"ControlSet001\\Services\\Tcpip\\Parameters\\Interfaces\\{GUID}",
        dword("EnableDHCP", 0),
        multi_sz("IPAddress", ["192.0.2.7", "192.0.2.8"]),
        multi_sz("SubnetMask", ["255.255.255.0", "255.255.255.128"]),
        multi_sz("DefaultGateway", ["192.0.2.1", "192.0.2.2"]),
        sz("NameServer", "192.0.2.53,192.0.2.54"),
        sz("Domain", "example.org"),
    )


def static_work(folder: Path, hive: MemoryHive | None = None, *, version: str = "10") -> WindowsWork:
    of = replace(machine(), nics=(NIC,))
    nics = (PlannedNic(MAC, "Ethernet0"),)
    return work_on(folder, hive or system(), version=version, of=of, nics=nics, control_sets=SETS)


def text(work: WindowsWork, name: str) -> str:
    """A script as it is in the guest: ASCII, and every line ends as Windows wants it."""
    content = work.guest.read(work.in_windows(NAME, name))
    assert content.count(b"\n") == content.count(b"\r\n") > 0
    return content.decode("ascii")


def assert_parses(script: str) -> None:
    assert not Parser(POWERSHELL).parse(script.encode()).root_node.has_error


def assert_sound(batch_file: str) -> None:
    """Every label that is jumped to is there, once, and nothing was left to fill in."""
    labels = re.findall(r"^:(\w+)", batch_file, re.MULTILINE)
    assert len(labels) == len(set(labels))
    assert set(re.findall(r"(?:goto|call) :(\w+)", batch_file)) <= {*labels, "eof"}
    assert not re.search(r"@[A-Z_]+@", batch_file)
    assert batch_file.count('"') % 2 == 0


def test_a_service_is_installed_in_every_control_set(tmp_path: Path) -> None:
    work = static_work(tmp_path)
    first_boot.step(work)
    for control_set in SETS:
        key = f"{control_set}\\Services\\{NAME}"
        numbers = [work.system.number(key, name) for name in ("Type", "Start", "ErrorControl")]
        assert numbers == [0x10, 2, 0]
        assert work.system.text(key, "ObjectName") == "LocalSystem"
        assert work.system.text(key, "ImagePath") == (
            '"%SystemRoot%\\System32\\cmd.exe" /d /c start "p2v" /b'
            f' "%SystemRoot%\\System32\\cmd.exe" /d /c "%SystemRoot%\\{NAME}\\run.cmd"'
        )
    runner = text(work, "run.cmd")
    assert f'sc.exe" delete {NAME}' in runner
    assert "for %%S in (ControlSet001 ControlSet002) do (" in runner


def test_doing_it_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    hive = system()
    first_boot.step(static_work(tmp_path, hive))
    writes, again = hive.writes, static_work(tmp_path, hive)
    first_boot.step(again)
    assert hive.writes == writes
    assert (again.changes.changes, again.record.changes) == ((), ())


def test_a_machine_with_nothing_to_do_gets_no_service(tmp_path: Path) -> None:
    hive = MemoryHive()
    work = work_on(tmp_path, hive)
    first_boot.step(work)
    assert (hive.writes, work.changes.changes, work.changes.warnings) == (0, (), ())


@pytest.mark.parametrize(("version", "file"), [("xp", "cmd"), ("7", "cmd"), ("10", "ps1"), ("2025", "ps1")])
def test_every_windows_gets_scripts_that_it_can_read(tmp_path: Path, version: str, file: str) -> None:
    work = static_work(tmp_path, version=version)
    first_boot.step(work)
    assert_sound(text(work, "run.cmd"))
    network = text(work, f"network.{file}")
    assert not re.search(r"\b[A-Za-z]:\\", text(work, "run.cmd") + network), "Windows may be on any drive"
    assert f"network.{file}" in text(work, "run.cmd")
    if file == "ps1":
        assert_parses(network)
    else:
        assert_sound(network)
    assert {change.path for change in work.changes.changes} == {
        work.in_windows(NAME, name) for name in ("run.cmd", f"network.{file}")
    }


def test_all_settings_are_in_the_script_for_powershell(tmp_path: Path) -> None:
    work = static_work(tmp_path)
    first_boot.step(work)
    assert (
        f"    @{{ Mac = '000C29661AA2'; Old = @('{GUID}'); Addresses = @('192.0.2.7/24', '192.0.2.8/25');"
        " Gateways = @('192.0.2.1', '192.0.2.2'); Dns = @('192.0.2.53', '192.0.2.54');"
        " Suffix = 'example.org' }"
    ) in text(work, "network.ps1").splitlines()


def test_all_settings_are_in_the_script_for_netsh(tmp_path: Path) -> None:
    work = static_work(tmp_path, version="7")
    first_boot.step(work)
    lines = text(work, "network.cmd").splitlines()
    start = lines.index(":adapter1")
    assert lines[start : lines.index("goto :eof", start)] == [
        ":adapter1",
        "call :find 00:0C:29:66:1A:A2",
        "if not defined NAME goto :eof",
        f'call :forget "{GUID}"',
        'netsh interface ip set address "%NAME%" static 192.0.2.7 255.255.255.0 192.0.2.1 1',
        'netsh interface ip add address "%NAME%" 192.0.2.8 255.255.255.128',
        'netsh interface ip add address "%NAME%" gateway=192.0.2.2 gwmetric=2',
        "call :check IPAddress 192.0.2.7",
        "call :check IPAddress 192.0.2.8",
        'netsh interface ip set dns "%NAME%" static 192.0.2.53',
        'netsh interface ip add dns "%NAME%" 192.0.2.54',
        "call :check NameServer 192.0.2.53",
        "call :check NameServer 192.0.2.54",
        "echo p2v: the adapter 00:0c:29:66:1a:a2 is done",
    ]


def test_interfaces_are_named_by_number_where_windows_counts_them() -> None:
    one = Assignment(MAC, Adapter(GUID, dns=("2001:db8::53",)), (GUID,))
    assert " get InterfaceIndex " in batch([one], (6, 1))
    assert 'ipv6 add dnsserver "%NAME%" 2001:db8::53' in batch([one], (6, 1))
    assert " get NetConnectionID " in batch([one], (5, 2))
    assert "ipv6" not in batch([one], (5, 2))


def test_several_adapters_parse() -> None:
    many = [
        Assignment(f"00:0c:29:00:00:{n:02x}", Adapter(GUID, dns=("192.0.2.53",)), (GUID, GUID))
        for n in range(9)
    ]
    assert_parses(powershell(many))
    assert_sound(batch(many, (6, 1)))


@pytest.mark.parametrize(
    ("version", "command"),
    [("7", "-i -a %1"), ("10", "/add-driver %1 /install"), ("2025", "/add-driver %1 /install")],
)
def test_drivers_are_installed_buses_first(tmp_path: Path, version: str, command: str) -> None:
    work = work_on(tmp_path, version=version)
    for name, kind in (
        ("balloon", "System"),
        ("aaa", "Mouse"),
        ("netkvm", "Net"),
        ("viostor", "SCSIAdapter"),
    ):
        folder = work.in_windows("Drivers", "p2v", name)
        work.guest.mkdir(folder)
        inf = f'[Version]\nSignature="$Windows NT$"\nClass = "{kind}"\nClassGUID = {GUID}\n'
        work.guest.write(f"{folder}/{name}.INF", inf.encode("utf-16"))
    first_boot.step(work)
    runner = text(work, "run.cmd")
    order = re.findall(r'^call :folder "(\w+)"', runner, re.MULTILINE)
    assert order == ["balloon", "viostor", "netkvm", "aaa"]
    assert f'pnputil.exe" {command}' in runner


def test_a_folder_that_no_batch_file_could_name_is_left_to_the_user(tmp_path: Path) -> None:
    work = work_on(tmp_path)
    for name in ("Драйвер", 'a"&calc', "%PATH%"):
        work.guest.mkdir(f"/Windows/Drivers/p2v/{name}")
        work.guest.write(f"/Windows/Drivers/p2v/{name}/x.inf", b"[Version]")
    first_boot.step(work)
    assert len(work.changes.warnings) == 3
    assert not work.guest.exists(f"/Windows/{NAME}/run.cmd")


def disks(*names: str) -> Machine:
    found = tuple(
        Disk(f"/dev/sd{n}", GiB, table=TableKind.GPT if "-" in name else TableKind.MBR, table_id=name)
        for n, name in enumerate(names)
    )
    return replace(machine(), disks=found)


def test_captured_disks_come_online_and_no_others(tmp_path: Path) -> None:
    guid = "addc0d43-17a9-4e26-a16c-dc71e67393f7"
    work = work_on(tmp_path, of=disks(guid, "b3eba8f1", "no'; calc", "-'; calc"))
    first_boot.step(work)
    script = text(work, "disks.ps1")
    assert_parses(script)
    assert f"$guids = @('{{{guid}}}')\r\n" in script
    assert "$signatures = @(3018565873)\r\n" in script
    assert_sound(text(work, "run.cmd"))


def test_diskpart_brings_them_online_where_powershell_cannot(tmp_path: Path) -> None:
    work = work_on(tmp_path, of=disks("b3eba8f1", "b3eba8f2"), version="7")
    first_boot.step(work)
    each = "select disk {}\r\nonline disk noerr\r\nattributes disk clear readonly noerr\r\n"
    assert text(work, "disks.txt") == each.format(0) + each.format(1)
    assert 'diskpart.exe" /s disks.txt' in text(work, "run.cmd")


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("nach dem Umzug.CMD", b"echo Gr\x81\xe1e\n", b"echo Gr\x81\xe1e\r\n"),
        ("x.bat", b"@echo off\r\n", b"@echo off\r\n"),
        ("x.ps1", "Write-Output 'Привет'\n".encode(), "Write-Output 'Привет'\n".encode("utf-8-sig")),
        ("x.ps1", b"Write-Output '\xcf\xf0'\n", b"Write-Output '\xcf\xf0'\n"),
        ("x.ps1", b"Write-Output 1\n", b"Write-Output 1\n"),
    ],
)
def test_the_script_of_the_job_runs_once(tmp_path: Path, name: str, content: bytes, kept: bytes) -> None:
    chosen = CleanUp(first_boot=Script(f"/home/вася/{name}", "0" * 64))
    work = work_on(tmp_path, clean_up=chosen, first_boot=content)
    first_boot.step(work)
    suffix = name.rpartition(".")[2].lower()
    assert work.guest.read(work.in_windows(NAME, f"script.{suffix}")) == kept
    runner = text(work, "run.cmd")
    assert_sound(runner)
    assert runner.index(f"ren script.{suffix} once.{suffix}") < runner.index(
        f"once.{suffix}", runner.index("echo p2v: the")
    )


def test_a_script_for_another_system_is_refused(tmp_path: Path) -> None:
    chosen = CleanUp(first_boot=Script("/home/x/first.sh", "0" * 64))
    work = work_on(tmp_path, clean_up=chosen, first_boot=b"#!/bin/sh\n")
    with pytest.raises(GuestError, match=r"first\.sh is not a script that Windows runs") as caught:
        first_boot.step(work)
    assert ".cmd" in caught.value.hint


def test_settings_without_a_card_are_told(tmp_path: Path) -> None:
    hive = system()
    hive.put("ControlSet001\\Control\\Nsi\\{eb004a01-9b1a-11d4-9123-0050047759bc}\\10", sz("x", ""))
    two = (PlannedNic("52:54:00:00:00:01"), PlannedNic("52:54:00:00:00:02"))
    work = work_on(tmp_path, hive, nics=two)
    first_boot.step(work)
    settings, ipv6 = work.changes.warnings
    assert "192.0.2.7/24" in settings
    assert "IPv6" in ipv6


def test_restarts_are_bounded(tmp_path: Path) -> None:
    """The one restart of the batch file stands behind the test of the attempts, which grow before it."""
    work = static_work(tmp_path)
    first_boot.step(work)
    lines = text(work, "run.cmd").splitlines()
    (restart,) = [number for number, line in enumerate(lines) if "shutdown.exe" in line]
    assert lines[:restart].index("set /a ATTEMPT+=1") < lines[:restart].index(
        f"if %ATTEMPT% GEQ {ATTEMPTS} goto :finish"
    )
