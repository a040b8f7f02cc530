"""Verdicts from recorded and from written texts. A wrong pass here sells a machine that does not boot."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v.model import Verdict
from p2v.proof.verdict import EVIDENCE_LIMIT, Judgement, Seen, clean, judge, judge_timeout

RECORDED = Path(__file__).parent / "recorded"

SYSTEMD = (
    "[\x1b[0;32m  OK  \x1b[0m] Started \x1b[0;1;39mssh.service\x1b[0m - OpenBSD Secure Shell server.\r\n"
    "[   14.2] systemd-logind[412]: New seat seat0.\r\n"
)
FAILED_UNIT = (
    "[\x1b[0;1;31mFAILED\x1b[0m] Failed to start \x1b[0;1;39mnginx.service\x1b[0m - A fast server.\r\n"
    "See 'systemctl status nginx.service' for details.\r\n"
)
OLD_FAILED_UNIT = "[FAILED] Failed to start LSB: exim Mail Transport Agent.\r\n"
PROMPT = "\r\nDebian GNU/Linux 12 metal12 ttyS0\r\n\r\nmetal12 login: "


def recorded(name: str) -> str:
    return (RECORDED / name).read_text(errors="replace")


def on_serial(text: str) -> Judgement:
    judgement = judge(Seen(serial=text))
    assert judgement is not None
    return judgement


def on_screen(text: str) -> Judgement:
    judgement = judge(Seen(screen=text))
    assert judgement is not None
    return judgement


def test_kernel_without_root_panicked() -> None:
    judgement = on_serial(recorded("kernel-panic.serial.txt"))
    assert judgement.verdict is Verdict.KERNEL_PANIC
    assert "VFS: Unable to mount root fs" in judgement.evidence


def test_ovmf_without_system_found_no_boot_device() -> None:
    judgement = on_serial(recorded("ovmf-no-system.serial.txt"))
    assert judgement.verdict is Verdict.NO_BOOT_DEVICE


@pytest.mark.parametrize("show", [on_serial, on_screen])
def test_login_prompt(show: object) -> None:
    judgement = on_serial(SYSTEMD + PROMPT) if show is on_serial else on_screen(clean(SYSTEMD + PROMPT))
    assert (judgement.verdict, judgement.hostname, judgement.failed_units) == (Verdict.BOOTED, "metal12", ())


def test_failed_units_degrade() -> None:
    judgement = on_serial(FAILED_UNIT + OLD_FAILED_UNIT + SYSTEMD + FAILED_UNIT + PROMPT)
    assert judgement.verdict is Verdict.DEGRADED
    assert judgement.failed_units == ("nginx.service", "LSB: exim Mail Transport Agent")


def test_unit_that_fails_after_the_prompt_counts() -> None:
    assert on_serial(PROMPT + "\r\n" + FAILED_UNIT).verdict is Verdict.DEGRADED


def test_kernel_may_speak_behind_the_prompt() -> None:
    assert on_serial(PROMPT + "[   21.034512] random: crng init done\r\n").verdict is Verdict.BOOTED


@pytest.mark.parametrize(
    "text",
    [
        SYSTEMD,
        "[   12.1] sshd: metal12 login: attempt\r\n",
        "Nov 23 metal12 login: bad\r\n",
        "Please login:\r\n",
        "metal12 login: with your company account\r\n",
        "Last login: Mon Nov 23 05:00:01 on tty1\r\n",
        "login: ",
        "-bad- login: ",
        f"{'a' * 80} login: ",
        "GNU GRUB  version 2.06\r\n*Debian GNU/Linux\r\n",
        "error: no such device: 1234.\r\n\r\nPress any key to continue...\r\nLoading Linux 6.1.0\r\n",
        'BdsDxe: failed to load Boot0001 "Misc" from PciRoot: Not Found\r\nBdsDxe: starting Boot2 "HD"\r\n',
        "Boot failed: not a bootable disk\r\nBooting from Hard Disk...\r\n",
        "dracut-initqueue[301]: Warning: dracut-initqueue timeout - starting timeout scripts\r\n",
        "echo 'You are in emergency mode'\r\n",
        "",
    ],
)
def test_undecided(text: str) -> None:
    assert judge(Seen(serial=text)) is None
    assert judge(Seen(screen=clean(text))) is None


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        (
            "Gave up waiting for root file system device.  Common problems:\r\n - Boot args\r\n"
            "ALERT!  /dev/sda1 does not exist.  Dropping to a shell!\r\n\r\n(initramfs) ",
            "/dev/sda1",
        ),
        ("ALERT!  UUID=77-a does not exist.  Dropping to a shell!\r\n", "UUID=77-a"),
        (
            "[  191.2] dracut-initqueue[301]: Warning: Could not boot.\r\n"
            "Warning: /dev/mapper/rl-root does not exist\r\n\r\n"
            'Generating "/run/initramfs/rdsosreport.txt"\r\n\r\n'
            "Entering emergency mode. Exit the shell to continue.\r\n"
            "Give root password for maintenance\r\n(or press Control-D to continue): ",
            "rl-root",
        ),
        ("dracut:/# ", "dracut"),
        ("[rootfs ]# ", "rootfs"),
    ],
)
def test_initramfs_shells(text: str, evidence: str) -> None:
    for judgement in (on_serial(text), on_screen(clean(text))):
        assert judgement.verdict is Verdict.INITRAMFS_SHELL
        assert evidence in judgement.evidence


@pytest.mark.parametrize(
    "text",
    [
        'You are in emergency mode. After logging in, type "journalctl -xb" to view\r\n',
        "Welcome to emergency mode! After logging in\r\n",
        "Give root password for maintenance\r\n(or press Control-D to continue): ",
        "Cannot open access to console, the root account is locked.\r\n",
    ],
)
def test_emergency(text: str) -> None:
    failed = "[FAILED] Failed to mount /data.\r\n"
    judgement = on_serial(failed + text)
    assert (judgement.verdict, judgement.failed_units) == (Verdict.EMERGENCY, ("/data",))


@pytest.mark.parametrize(
    "text",
    [
        "[    0.61] Oops: int3: 0000 [#1] PREEMPT SMP NOPTI\r\n",
        "[    3.1] BUG: unable to handle page fault for address: ffffffff\r\n",
        "[    3.1] BUG: kernel NULL pointer dereference, address: 0000000000000008\r\n"
        "[    3.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\r\n",
    ],
)
def test_crash_is_not_a_missing_disk(text: str) -> None:
    assert on_serial(text).verdict is Verdict.GUEST_CRASHED


def test_crash_that_was_survived() -> None:
    assert on_serial("[    3.1] BUG: unable to handle page fault\r\n" + PROMPT).verdict is Verdict.BOOTED


def test_panic_after_the_prompt() -> None:
    text = PROMPT + "\r\n[   30.1] Kernel panic - not syncing: Fatal hardware error\r\n"
    assert on_serial(text).verdict is Verdict.KERNEL_PANIC


@pytest.mark.parametrize(
    ("text", "evidence"),
    [
        ("error: no such device: 8f2c.\r\nEntering rescue mode...\r\ngrub rescue> ", "no such device: 8f2c"),
        ("   Minimal BASH-like line editing is supported.\r\n\r\ngrub> ", "grub>"),
        ("No DEFAULT or UI configuration directive found!\r\nboot: ", "No DEFAULT"),
        ("Booting from Hard Disk...\r\nMissing operating system", "Missing operating system"),
        ("BOOTMGR is missing\r\nPress Ctrl+Alt+Del to restart\r\n", "BOOTMGR is missing"),
    ],
)
def test_boot_loader(text: str, evidence: str) -> None:
    for judgement in (on_serial(text), on_screen(clean(text))):
        assert judgement.verdict is Verdict.BOOTLOADER
        assert evidence in judgement.evidence


def test_seabios_log() -> None:
    log = "Booting from Hard Disk...\nBoot failed: not a bootable disk\n\nNo bootable device.\n"
    judgement = judge(Seen(firmware=log))
    assert judgement is not None
    assert judgement.verdict is Verdict.NO_BOOT_DEVICE


@pytest.mark.parametrize(
    "text",
    ["BdsDxe: No bootable option or device was found.\r\n", ">>Start PXE over IPv4.", "Shell> "],
)
def test_uefi_without_system(text: str) -> None:
    assert on_serial(text).verdict is Verdict.NO_BOOT_DEVICE


def test_emulator_that_ended() -> None:
    judgement = judge(
        Seen(serial=PROMPT, status="gone", said="qemu: warning: x\nqemu: no such device nvme9\n")
    )
    assert judgement == Judgement(Verdict.EMULATOR_FAILED, "qemu: no such device nvme9")


def test_full_host_disk_is_the_hosts_fault() -> None:
    judgement = judge(Seen(serial=PROMPT, status="io-error"))
    assert judgement is not None
    assert judgement.verdict is Verdict.EMULATOR_FAILED


def test_internal_error_of_the_emulator() -> None:
    judgement = judge(Seen(serial="Linux version 6.1\r\n", status="internal-error"))
    assert judgement is not None
    assert judgement.verdict is Verdict.GUEST_CRASHED


def test_timeout_tells_the_last_line() -> None:
    judgement = judge_timeout(Seen(serial="Loading Linux\r\nA start job is running\r\n \r\n"), 60)
    assert judgement.verdict is Verdict.TIMEOUT
    assert judgement.evidence == "no verdict within 60 s; last line: A start job is running"
    assert "nothing" in judge_timeout(Seen(), 60).evidence


def test_hostile_text_stays_short_and_plain() -> None:
    text = "Kernel panic - not syncing: \x1b]0;title\x07\x1b[31m" + "x" * 10_000 + "\x00\x9b31m\n"
    judgement = on_serial(text)
    assert len(judgement.evidence) <= EVIDENCE_LIMIT
    assert judgement.evidence.isprintable()


def test_many_failed_units_are_bounded() -> None:
    text = "".join(f"[FAILED] Failed to start unit{number}.service\n" for number in range(500))
    assert len(on_serial(text + PROMPT).failed_units) == 50


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece", ["\x1b[", "\x1b]", " ", "[ ", "a", "[FAILED] Failed to start ", "ALERT! ", "a login: ", "."]
)
def test_no_text_takes_long(piece: str) -> None:
    judge(Seen(serial=piece * (2 * 1024 * 1024 // len(piece))))
