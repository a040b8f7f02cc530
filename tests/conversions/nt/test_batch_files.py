"""The batch files of the first boot, run by a cmd.exe that nobody here wrote: that of Wine.

Programs that Wine lacks, or that would do something, are stand-ins which say what they were asked.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conversions.nt import first_boot
from conversions.nt.first_boot_scripts import NAME
from p2v import command
from p2v.model import CleanUp, PlannedNic, Script
from tests.conftest import need_tools
from tests.conversions.nt.memory_hives import machine, work_on
from tests.conversions.nt.test_first_boot import GUID, MAC, NIC, SETS, disks, system

pytestmark = [pytest.mark.tools, pytest.mark.slow, pytest.mark.timeout(300)]

INTERFACES = "HKLM\\SYSTEM\\CurrentControlSet\\Services\\Tcpip\\Parameters\\Interfaces"
HERE = "{AAAA9669-AB3E-4D0E-8FDE-69579925A20F}"
"""The adapter of the new card."""
ECHO = "echo {} %*"


class Wine:
    """A drive C: of its own."""

    def __init__(self, folder: Path) -> None:
        self.windows = folder / "drive_c" / "windows"
        self.home = self.windows / NAME
        self.log = self.windows / f"{NAME}.log"
        self._env = {"WINEPREFIX": str(folder), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}

    def run(self, *words: str, cwd: Path | None = None) -> command.Result:
        tool = command.need_tool("wine", reason="run a batch file", package="wine")
        return command.run([tool, *words], timeout=120, env=self._env, cwd=cwd)

    def close(self) -> None:
        command.run(["wineserver", "-k"], timeout=60, env=self._env)

    def stand_in(self, name: str, *lines: str) -> None:
        (self.windows / "fake").mkdir(exist_ok=True)
        place = self.windows / "fake" / f"{name}.cmd"
        place.write_text("\r\n".join(("@echo off", *lines, "")), newline="")

    def boot(self) -> None:
        self.run("cmd", "/d", "/c", f"C:\\windows\\{NAME}\\run.cmd")


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    need_tools("wine", "wineserver")
    drive = Wine(tmp_path_factory.mktemp("wine"))
    assert drive.run("cmd", "/c", "echo ready").stdout.strip() == "ready"
    yield drive
    drive.close()


@pytest.fixture
def installed(wine: Wine, tmp_path: Path) -> Wine:
    """What a Windows 7 gets: drivers, an address, two disks, a script; nothing has run yet."""
    wine.log.unlink(missing_ok=True)
    shutil.rmtree(wine.home, ignore_errors=True)
    chosen = CleanUp(first_boot=Script("/x/moved.cmd", "0"))
    of = replace(disks("b3eba8f1", "b3eba8f2"), nics=(NIC,))
    nics, script = (PlannedNic(MAC, "Ethernet0"),), b"@echo off\necho moved to %OS%\nexit 7\n"
    work = work_on(
        tmp_path,
        system(),
        version="7",
        of=of,
        nics=nics,
        control_sets=SETS,
        clean_up=chosen,
        first_boot=script,
    )
    for name, kind in (("netkvm", "Net"), ("viostor", "SCSIAdapter")):
        for folder in (str(tmp_path / "guest" / "Windows"), str(wine.windows)):
            place = Path(folder) / "Drivers" / "p2v" / name
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{name}.inf").write_text(f"[Version]\nClass={kind}\n")
    first_boot.step(work)
    shutil.copytree(tmp_path / "guest" / "Windows" / NAME, wine.home)
    for name in ("pnputil", "diskpart", "shutdown"):
        wine.stand_in(name, ECHO.format(name))
        replaced(
            wine.home / "run.cmd",
            f'"%SystemRoot%\\System32\\{name}.exe"',
            f"cmd /c C:\\windows\\fake\\{name}.cmd",
        )
    return wine


def replaced(path: Path, old: str, new: str) -> None:
    content = path.read_bytes()
    assert old.encode() in content
    path.write_bytes(content.replace(old.encode(), new.encode()))


def network_ends_with(wine: Wine, code: int) -> None:
    (wine.home / "network.cmd").write_bytes(b"@exit /b %d\r\n" % code)


def gone(folder: Path) -> bool:
    end = time.monotonic() + 30
    while folder.exists() and time.monotonic() < end:
        time.sleep(0.2)
    return not folder.exists()


def test_when_all_goes_well_one_boot_is_enough(installed: Wine) -> None:
    network_ends_with(installed, 0)
    services = [f"HKLM\\SYSTEM\\{one}\\Services\\{NAME}" for one in SETS]
    for key in services:
        installed.run("reg", "add", key, "/v", "Start", "/t", "REG_DWORD", "/d", "2", "/f")
    installed.boot()
    assert gone(installed.home)
    said = [line.strip() for line in installed.log.read_text("latin-1").splitlines() if line.strip()]
    assert [line for line in said if line.startswith("pnputil")] == [
        f'pnputil -i -a "C:\\windows\\Drivers\\p2v\\{name}\\{name}.inf"' for name in ("viostor", "netkvm")
    ]
    for line in ("diskpart /s disks.txt", "moved to Windows_NT", "p2v: the script ended with 7", "p2v: done"):
        assert said.count(line) == 1
    assert not any("shutdown" in line for line in said)
    assert [installed.run("reg", "query", key).code for key in services] == [1, 1]


def test_what_fails_is_tried_again_and_then_given_up(installed: Wine) -> None:
    network_ends_with(installed, 9)
    installed.stand_in("pnputil", "exit /b 5")
    for _ in range(4):
        assert installed.home.exists()
        installed.boot()
    assert gone(installed.home)
    said = installed.log.read_text("latin-1")
    assert [f"attempt {number} of 4" in said for number in range(1, 6)] == [True] * 4 + [False]
    assert said.count("shutdown -r -f -t 30") == 3
    assert said.count("p2v: it ended with 5") == 8
    assert said.count("moved to Windows_NT") == 1
    assert "gave up" in said


@pytest.mark.parametrize(("version", "found"), [("7", "12"), ("xp", "LAN & Co = 1")])
def test_the_address_goes_to_the_new_card_and_leaves_the_old_one(
    wine: Wine, tmp_path: Path, version: str, found: str
) -> None:
    work = work_on(
        tmp_path,
        system(),
        version=version,
        of=replace(machine(), nics=(NIC,)),
        nics=(PlannedNic(MAC, "Ethernet0"),),
    )
    first_boot.step(work)
    script = tmp_path / "network.cmd"
    script.write_bytes(work.guest.read(work.in_windows(NAME, "network.cmd")))
    replaced(script, "\r\nnetsh ", "\r\ncall C:\\windows\\fake\\netsh.cmd ")
    replaced(script, "'wmic ", "'C:\\windows\\fake\\wmic.cmd ")
    name = "InterfaceIndex" if version == "7" else "NetConnectionID"
    shown = found.replace("&", "^&")
    wine.stand_in("netsh", ECHO.format("netsh"))
    wine.stand_in(
        "wmic",
        "echo.",
        f"if %1==nicconfig echo SettingID={HERE}",
        *(f"if %1==nic echo {name}={value}" for value in ("", shown)),
        "echo.",
    )
    for guid in (GUID, HERE):
        for value in ("IPAddress", "NameServer"):
            text = "192.0.2.7 192.0.2.8 192.0.2.53 192.0.2.54"
            wine.run("reg", "add", f"{INTERFACES}\\{guid}", "/v", value, "/d", text, "/f")
    result = wine.run("cmd", "/d", "/c", "network.cmd", cwd=tmp_path)
    lines = [line.strip() for line in result.stdout.splitlines() if line.startswith("netsh")]
    assert result.code == 0
    assert lines[0] == f'netsh interface ip set address "{found}" static 192.0.2.7 255.255.255.0 192.0.2.1 1'
    assert len(lines) == 5
    assert "192.0.2.7" in wine.run("reg", "query", f"{INTERFACES}\\{HERE}").stdout
    old = wine.run("reg", "query", f"{INTERFACES}\\{GUID}").stdout
    assert "192.0.2" not in old
    assert "0x1" in old
