"""The scripts for administrators, read by other people's grammars, and run against stand-ins.

A stand-in answers like the tool that it replaces and notes how it was called, so what is checked is what a
real shell made of the script.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tree_sitter_powershell
from hypothesis import given
from hypothesis import strategies as st
from tree_sitter import Language, Node, Parser

from p2v import command
from p2v.errors import TargetError
from p2v.model import Firmware
from p2v.targets.powershell import BYTE_ORDER_MARK, comment, quote
from tests.targets.machines import HOSTILE_NAME, IMAGES, hostile, large, machine, plain, target_for

POWERSHELL = Language(tree_sitter_powershell.language())

CMDLETS = {
    "New-VM", "Set-VM", "Set-VMProcessor", "Set-VMMemory", "Set-VMBios", "Set-VMFirmware", "Set-StrictMode",
    "Add-VMHardDiskDrive", "Add-VMScsiController", "Get-VMHardDiskDrive", "Add-VMNetworkAdapter",
    "Get-VMNetworkAdapter", "Remove-VMNetworkAdapter", "Connect-VMNetworkAdapter", "Join-Path", "Out-Null",
    "fsutil",
}  # fmt: skip


def parse(text: str) -> Node:
    return Parser(POWERSHELL).parse(text.removeprefix(BYTE_ORDER_MARK).encode()).root_node


def nodes(node: Node, kind: str) -> list[Node]:
    found = [node] if node.type == kind else []
    return found + [each for child in node.children for each in nodes(child, kind)]


def text_of(node: Node) -> str:
    return (node.text or b"").decode()


def script(words: str, kind: str) -> str:
    target, vm = {"plain": plain, "large": large, "hostile": hostile}[kind](words)
    return target.render(vm, IMAGES)[0].text


@pytest.mark.parametrize("kind", ["plain", "large", "hostile"])
@pytest.mark.parametrize("words", ["hyperv", "hyperv:vhd", "hyperv:tulip,generation=1"])
def test_powershell_understands_it(words: str, kind: str) -> None:
    text = script(words, kind)
    root = parse(text)
    assert not root.has_error
    assert {text_of(node) for node in nodes(root, "command_name")} <= CMDLETS
    assert text.startswith(BYTE_ORDER_MARK)
    assert "\n" not in text.replace("\r\n", "")


@given(st.text(max_size=60))
def test_no_name_becomes_code(name: str) -> None:
    """One literal string, whatever is in it; the grammar knows the plain quote, we the typographic ones."""
    quoted = quote(name)
    straight = quoted.translate({ord(each): "'" for each in "\u2018\u2019\u201a\u201b"})
    root = parse(f"$a = {straight}")
    assert not root.has_error
    assert len(nodes(root, "verbatim_string_characters")) == 1
    assert not nodes(root, "command")
    assert len(comment(name).splitlines()) == 1


def test_the_grammar_would_see_code() -> None:
    """That the check above can fail: without our quoting, the name is run."""
    assert nodes(parse("$a = 'x'; Remove-Item 'y'"), "command")


def test_generations() -> None:
    first, second = script("hyperv", "plain"), script("hyperv", "large")
    assert "-Generation 1 " in first
    assert "-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0" in first
    assert "-Generation 2 " in second
    assert "-EnableSecureBoot Off" in second
    assert "IDE" not in second
    assert second.count("-StaticMacAddress") == 3


def test_disks_beyond_ide_go_to_scsi() -> None:
    target = target_for("hyperv")
    text = target.render(machine(target, disks=70), IMAGES)[0].text
    assert text.count("-ControllerType IDE") == 4
    assert "-ControllerType SCSI -ControllerNumber 0 -ControllerLocation 0" in text
    assert "-ControllerType SCSI -ControllerNumber 1 -ControllerLocation 1" in text
    assert text.count("Add-VMScsiController") == 1


STAND_IN = """#!/usr/bin/python3
import json, sys
from pathlib import Path
with Path(__file__).with_suffix(".log").open("a") as log:
    log.write(json.dumps(sys.argv[1:]) + "\\n")
if "show" in sys.argv:
    print("available" if "status" in sys.argv else "id-of-" + sys.argv[-1])
"""


def run_script(text: str, folder: Path, tool: str, *arguments: str) -> list[list[str]]:
    """Run a shell script with a stand-in for its tool; how that was called."""
    stand_in = folder / "bin" / tool
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    place = folder / "a run's folder"
    place.mkdir()
    (place / "script.sh").write_text(text)
    path = f"{stand_in.parent}:/usr/bin:/bin"
    command.check(
        ["sh", place / "script.sh", *arguments], timeout=30, reason="run the script", env={"PATH": path}
    )
    log = stand_in.with_suffix(".log").read_text()
    assert {path.name for path in folder.iterdir()} == {"bin", "a run's folder"}
    assert [path.name for path in place.iterdir()] == ["script.sh"]
    return [json.loads(line) for line in log.splitlines()]


def test_proxmox_imports(tmp_path: Path) -> None:
    target, vm = large("proxmox")
    calls = run_script(target.render(vm, IMAGES)[0].text, tmp_path, "qm", "120", "local-lvm")
    create = calls[0]
    options = dict(zip(create[2::2], create[3::2], strict=True))
    assert create[:2] == ["create", "120"]
    assert options["--name"] == "web01"
    assert (options["--bios"], options["--machine"], options["--scsihw"]) == (
        "ovmf",
        "q35",
        "virtio-scsi-pci",
    )
    assert options["--smbios1"] == f"uuid={vm.uuid.lower()}"
    settings = {call[2]: call[3] for call in calls[1:]}
    place = tmp_path / "a run's folder"
    assert settings["--scsi0"] == f"local-lvm:0,import-from={place}/disk0.qcow2,discard=on,serial=S3R1AL"
    assert settings["--net1"] == "virtio=00:1B:21:3A:4F:16,bridge=vmbr0"
    assert settings["--efidisk0"] == "local-lvm:1,efitype=4m,pre-enrolled-keys=0"
    assert settings["--boot"] == "order=scsi0"


def test_proxmox_takes_no_order_from_a_name(tmp_path: Path) -> None:
    target, vm = hostile("proxmox")
    calls = run_script(target.render(vm, IMAGES)[0].text, tmp_path, "qm", "120", "local", "vmbr7")
    assert calls[0][calls[0].index("--name") + 1] == "a-b-c-id--x"
    assert calls[-2][2:] == ["--net0", "virtio=00:1B:21:3A:4F:15,bridge=vmbr7"]


def test_proxmox_configuration_is_that_of_qm() -> None:
    """`key: value` lines; the same settings as the script gives."""
    target, vm = large("proxmox")
    lines = target.render(vm, IMAGES)[1].text.splitlines()
    found = dict(line.split(": ", 1) for line in lines if not line.startswith("#"))
    assert found["scsi1"] == f"{IMAGES}/disk1.qcow2,discard=on"
    assert (found["ostype"], found["memory"], found["cores"]) == ("l26", "2048", "2")
    assert found["net0"] == "virtio=00:1B:21:3A:4F:15,bridge=vmbr0"


def test_proxmox_has_no_seventh_sata_disk() -> None:
    target = target_for("proxmox:sata")
    with pytest.raises(TargetError, match="disk6"):
        target.render(machine(target, disks=7), IMAGES)


def test_openstack_uploads(tmp_path: Path) -> None:
    target, vm = large("openstack")
    script_text, document = (config.text for config in target.render(vm, IMAGES))
    calls = run_script(script_text, tmp_path, "openstack", "internal", "m1.large")
    created = [call for call in calls if call[:2] == ["image", "create"]]
    assert [call[-1] for call in created] == [f"web01-disk{index}" for index in range(5)]
    given = {word for word in created[0] if "=" in word}
    assert given == {f"{key}={value}" for key, value in json.loads(document).items()}
    assert json.loads(document)["hw_firmware_type"] == "uefi"
    assert json.loads(document)["hw_scsi_model"] == "virtio-scsi"
    assert not [word for word in created[1] if word == "--property"]
    server = calls[-1]
    assert server[:4] == ["server", "create", "--flavor", "m1.large"]
    assert server[server.index("--volume") + 1] == "id-of-web01-disk0"
    assert "source_type=volume,uuid=id-of-web01-disk4,destination_type=volume" in server
    assert server.count("--port") == 3
    ports = [call for call in calls if call[:2] == ["port", "create"]]
    assert ports[2][-3:] == ["--mac-address", "00:1b:21:3a:4f:17", "web01-port2"]


def test_openstack_takes_no_order_from_a_name(tmp_path: Path) -> None:
    target, vm = hostile("openstack")
    calls = run_script(target.render(vm, IMAGES)[0].text, tmp_path, "openstack", "internal")
    assert calls[0][:2] == ["flavor", "create"]
    expected = "".join(char for char in HOSTILE_NAME if char.isprintable() or char == "\n").replace("\n", " ")
    assert calls[-1][-1] == expected


def test_bios_is_said() -> None:
    target, vm = plain("openstack")
    assert vm.firmware is Firmware.BIOS
    assert json.loads(target.render(vm, IMAGES)[1].text)["hw_firmware_type"] == "bios"
