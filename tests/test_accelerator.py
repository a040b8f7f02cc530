"""The answer about KVM: a wrong "kvm" hangs every boot, a wrong "tcg" makes it ten times slower."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from p2v.accelerator import Accelerator, HostPaths, find_accelerator, newest_kernel
from p2v.errors import UsageError
from tests.conftest import need_tools

WORKING = "echo '[ 0.0] Linux version 6.1.0'; echo '[ 1.2] Kernel panic - not syncing: VFS'"
ONLY_FIRMWARE = "echo 'SeaBIOS (version 1.16)'; echo 'Booting from ROM...'; exec sleep 60"
STUCK_KERNEL = "echo '[ 0.0] Linux version 6.1.0'; exec sleep 60"
REFUSED = "echo 'qemu: failed to initialize kvm: Operation not permitted' >&2; exit 1"


@pytest.fixture(autouse=True)
def no_override(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("P2V_ACCEL", raising=False)


@pytest.fixture
def host(tmp_path: Path) -> HostPaths:
    """A host with a KVM device that may be used, and a kernel."""
    paths = HostPaths(device=tmp_path / "kvm", boot=tmp_path / "boot", boot_id=tmp_path / "boot_id")
    paths.device.touch()
    paths.boot.mkdir()
    (paths.boot / "vmlinuz-6.1.0").touch()
    paths.boot_id.write_text("first\n")
    return paths


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on PATH; `put_qemu` puts a stand-in for QEMU there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def put_qemu(folder: Path, script: str) -> Path:
    """Stand-in that also notes each start and its arguments in `starts`."""
    program = folder / "qemu-system-x86_64"
    program.write_text(f'#!/bin/sh\necho "$*" >> {folder}/starts\n{script}\n')
    program.chmod(0o755)
    return program


def starts(folder: Path) -> list[str]:
    log = folder / "starts"
    return log.read_text().splitlines() if log.exists() else []


def test_working_kvm_is_used_and_remembered(tmp_path: Path, host: HostPaths, install: Path) -> None:
    put_qemu(install, WORKING)
    first = find_accelerator(tmp_path / "cache", host=host)
    assert first.accelerator is Accelerator.KVM
    assert find_accelerator(tmp_path / "cache", host=host) == first
    assert len(starts(install)) == 1
    assert "-accel kvm" in starts(install)[0]


@pytest.mark.parametrize("script", [ONLY_FIRMWARE, STUCK_KERNEL])
def test_kvm_that_hangs_is_not_used(tmp_path: Path, host: HostPaths, install: Path, script: str) -> None:
    put_qemu(install, script)
    answer = find_accelerator(tmp_path / "cache", host=host, seconds=0.6)
    assert answer.accelerator is Accelerator.TCG
    assert "did not start" in answer.reason


def test_refusal_names_what_qemu_said(tmp_path: Path, host: HostPaths, install: Path) -> None:
    put_qemu(install, REFUSED)
    answer = find_accelerator(tmp_path / "cache", host=host)
    assert answer.accelerator is Accelerator.TCG
    assert "Operation not permitted" in answer.reason


def test_no_device_no_probe(tmp_path: Path, host: HostPaths, install: Path) -> None:
    put_qemu(install, WORKING)
    host.device.unlink()
    answer = find_accelerator(tmp_path / "cache", host=host)
    assert (answer.accelerator, starts(install)) == (Accelerator.TCG, [])
    assert str(host.device) in answer.reason


def test_no_kernel_no_probe(tmp_path: Path, host: HostPaths, install: Path) -> None:
    put_qemu(install, WORKING)
    (host.boot / "vmlinuz-6.1.0").unlink()
    answer = find_accelerator(tmp_path / "cache", host=host)
    assert (answer.accelerator, starts(install)) == (Accelerator.TCG, [])


def test_restarted_host_and_new_qemu_are_asked_again(tmp_path: Path, host: HostPaths, install: Path) -> None:
    program = put_qemu(install, REFUSED)
    assert find_accelerator(tmp_path / "cache", host=host).accelerator is Accelerator.TCG
    put_qemu(install, WORKING)
    os.utime(program, (1, 1))
    assert find_accelerator(tmp_path / "cache", host=host).accelerator is Accelerator.KVM
    put_qemu(install, WORKING)
    os.utime(program, (1, 1))
    host.boot_id.write_text("second\n")
    find_accelerator(tmp_path / "cache", host=host)
    assert len(starts(install)) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": 1}', "[" * 50_000, "\xff"])
def test_broken_cache_is_no_cache(tmp_path: Path, host: HostPaths, install: Path, content: str) -> None:
    put_qemu(install, WORKING)
    (tmp_path / "accelerator.json").write_bytes(content.encode("latin-1"))
    assert find_accelerator(tmp_path, host=host).accelerator is Accelerator.KVM
    assert json.loads((tmp_path / "accelerator.json").read_text())["accelerator"] == "kvm"


def test_unwritable_cache_is_no_failure(tmp_path: Path, host: HostPaths, install: Path) -> None:
    put_qemu(install, WORKING)
    (tmp_path / "file").touch()
    assert find_accelerator(tmp_path / "file", host=host).accelerator is Accelerator.KVM


@pytest.mark.parametrize("value", ["kvm", "TCG"])
def test_override(tmp_path: Path, host: HostPaths, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    host.device.unlink()
    monkeypatch.setenv("P2V_ACCEL", value)
    assert find_accelerator(tmp_path, host=host).accelerator.value == value.lower()


def test_bad_override_is_the_users_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("P2V_ACCEL", "yes")
    with pytest.raises(UsageError, match="kvm or tcg"):
        find_accelerator(tmp_path)


def test_newest_kernel_by_number_not_by_letter(tmp_path: Path) -> None:
    for name in ("vmlinuz-6.1.0-9-amd64", "vmlinuz-6.1.0-56-amd64", "vmlinuz-5.10.0-99", "config-7.0"):
        (tmp_path / name).touch()
    assert newest_kernel(tmp_path) == tmp_path / "vmlinuz-6.1.0-56-amd64"


@pytest.mark.boot
@pytest.mark.timeout(120)
def test_this_host_gets_an_answer_in_time(tmp_path: Path) -> None:
    need_tools("qemu-system-x86_64")
    answer = find_accelerator(tmp_path)
    assert answer.reason
    assert find_accelerator(tmp_path) == answer
