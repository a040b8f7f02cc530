"""Microsoft Hyper-V: VHDX or VHD disks, and a PowerShell script that makes the machine of them.

Generation 1 is a PC with a BIOS that boots from IDE, generation 2 has UEFI and boots from SCSI; it follows
from the machine's firmware. Limits are those of "Plan for Hyper-V scalability" for Windows Server 2016.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from p2v.errors import TargetError
from p2v.model import (
    DiskBus,
    Finding,
    Firmware,
    GiB,
    ImageFormat,
    MiB,
    NicModel,
    Plan,
    Platform,
    TiB,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.targets.base import (
    AUTO,
    ConfigFile,
    Option,
    Target,
    blocker,
    choose_devices,
    file_name,
    misfits,
    one_line,
    setting,
)
from p2v.targets.powershell import comment, quote, script
from p2v.ui import human_size

GENERATION = Option("generation", (AUTO, "1", "2"), "1 for BIOS, 2 for UEFI; by default as the machine is")
FORMAT = Option("format", (ImageFormat.VHDX, "vhd"), "the kind of disk; VHD for Windows Server 2008")
SUBFORMAT = Option("subformat", ("dynamic", "fixed"), "whether a disk grows or takes its space at once")
NIC = Option("nic", (AUTO, NicModel.NETVSC, NicModel.TULIP), "the network card; tulip is the legacy one")

IDE_DISKS = 4
SCSI_DISKS = 4 * 64
MAX_VHD = 2040 * GiB
MAX_IDE_BOOT = 2 * TiB
MEMORY_STEP = 2 * MiB
GENERATION_1_CPUS, GENERATION_2_CPUS = 64, 240
LEGACY_NICS = 4
NICS = 8

_BASE = Platform(
    name="hyperv",
    title="Microsoft Hyper-V",
    disk_bus=DiskBus.IDE,
    nic_model=NicModel.NETVSC,
    image_format=ImageFormat.VHDX,
    driver_pack="hyperv",
    max_nics=NICS,
)


def shape(platform: Platform) -> Platform:
    """The platform for its settings."""
    generation = setting(platform, GENERATION)
    is_vhd = setting(platform, FORMAT) == "vhd"
    platform = replace(
        platform,
        image_format=ImageFormat.VHD if is_vhd else ImageFormat.VHDX,
        subformat=setting(platform, SUBFORMAT),
        max_disk_size=MAX_VHD if is_vhd else 64 * TiB,
    )
    firmwares = _BASE.firmwares
    if generation != AUTO or is_vhd:
        firmwares = (Firmware.UEFI,) if generation == "2" else (Firmware.BIOS,)
    return fit(replace(platform, firmwares=firmwares), firmwares[0])


def fit(platform: Platform, firmware: Firmware) -> Platform:
    """The generation that has the machine's firmware, where the settings leave a choice."""
    second = firmware is Firmware.UEFI and firmware in platform.firmwares
    platform = replace(
        platform,
        title=f"Microsoft Hyper-V, generation {2 if second else 1}",
        disk_bus=DiskBus.HYPERV_SCSI if second else DiskBus.IDE,
        driver_pack="hyperv-gen2" if second else "hyperv",
        max_disks=SCSI_DISKS if second else IDE_DISKS + SCSI_DISKS,
        max_cpus=GENERATION_2_CPUS if second else GENERATION_1_CPUS,
        max_memory=12 * TiB if second else TiB,
    )
    return choose_devices(platform, nic=NIC)


PLATFORM = shape(_BASE)


def check(plan: Plan) -> tuple[Finding, ...]:
    """What of the plan does not fit on the generation."""
    return tuple(_findings(plan))


def _findings(plan: Plan) -> Iterator[Finding]:
    yield from misfits(plan, name=machine_name)
    if plan.firmware is Firmware.UEFI and plan.platform.image_format is ImageFormat.VHD:
        yield blocker("Generation 2 of Hyper-V has no VHD disks", "Use format=vhdx")
    boot = plan.disks[0].disk if plan.disks else None
    if boot and plan.firmware is Firmware.BIOS and boot.size > MAX_IDE_BOOT:
        yield blocker(
            f"{boot.path} has {human_size(boot.size)}: generation 1 of Hyper-V boots from disks of up to"
            f" {human_size(MAX_IDE_BOOT)}"
        )
    if plan.platform.nic_model is NicModel.TULIP and len(plan.nics) > LEGACY_NICS:
        yield blocker(
            f"{len(plan.nics)} network cards: Hyper-V has {LEGACY_NICS} legacy ones", "Use nic=auto"
        )


def machine_name(name: str) -> str:
    """The nearest name that can also be the folder of the machine on Windows."""
    return re.sub(r'[\\/:*?"<>|]', "-", one_line(name)).strip(" .")[:100] or "machine"


def generation_of(vm: VirtualMachine) -> int:
    return 2 if vm.firmware is Firmware.UEFI else 1


def render(vm: VirtualMachine, image_dir: Path) -> tuple[ConfigFile, ...]:
    """The script, to be run in the folder where it lies with the disks. Raises TargetError."""
    lines = [*_head(vm), *_disk_lines(vm), *_network(vm), *_firmware(vm), "$vm"]
    return (ConfigFile(file_name(vm.name, ".ps1"), script(lines)),)


def _head(vm: VirtualMachine) -> list[str]:
    name, memory = quote(machine_name(vm.name)), -(-vm.memory // MEMORY_STEP) * MEMORY_STEP
    return [
        comment(f"Makes the virtual machine {vm.name}. {vm.title}"),
        "#Requires -Modules Hyper-V",
        "#Requires -RunAsAdministrator",
        "param(",
        "    # The virtual switch that the network cards are connected to; none by default.",
        "    [string] $SwitchName = '',",
        "    # Where the configuration of the machine goes; the disks stay where they are.",
        "    [string] $Path = $PSScriptRoot",
        ")",
        "Set-StrictMode -Version Latest",
        "$ErrorActionPreference = 'Stop'",
        f"$name = {name}",
        f"$vm = New-VM -Name $name -Generation {generation_of(vm)} -MemoryStartupBytes {memory} -NoVHD"
        " -Path $Path",
        f"Set-VMProcessor -VM $vm -Count {vm.cpus}",
        "Set-VMMemory -VM $vm -DynamicMemoryEnabled $false",
        f"Set-VM -VM $vm -Notes {quote(vm.title)}",
    ]


def _disk_lines(vm: VirtualMachine) -> list[str]:
    lines = []
    for index, disk in enumerate(vm.disks):
        controller, number, location = place(disk, index)
        if controller == "SCSI" and location == 0 and number > 0:
            lines.append("Add-VMScsiController -VM $vm")
        lines += [
            f"$disk = Join-Path $PSScriptRoot {quote(disk.file)}",
            "# Copied from a sparse file, it may be marked as one, which Hyper-V refuses.",
            "fsutil sparse setflag $disk 0 | Out-Null",
            f"Add-VMHardDiskDrive -VM $vm -ControllerType {controller} -ControllerNumber {number}"
            f" -ControllerLocation {location} -Path $disk",
        ]
    return lines


def place(disk: VirtualDisk, index: int) -> tuple[str, int, int]:
    """Controller, its number and the place on it: the first four disks of generation 1 are on IDE."""
    if disk.bus is DiskBus.IDE and index < IDE_DISKS:
        return "IDE", *divmod(index, 2)
    if disk.bus in (DiskBus.IDE, DiskBus.HYPERV_SCSI):
        return "SCSI", *divmod(index - (IDE_DISKS if disk.bus is DiskBus.IDE else 0), 64)
    raise TargetError(f"Hyper-V has no {disk.bus} disk for {disk.file}")


def _network(vm: VirtualMachine) -> list[str]:
    lines = ["Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter"]
    for index, nic in enumerate(vm.nics):
        lines.append(_add_card(nic, f"Network {index + 1}"))
    if vm.nics:
        lines.append(
            "if ($SwitchName) { Get-VMNetworkAdapter -VM $vm | Connect-VMNetworkAdapter"
            " -SwitchName $SwitchName }"
        )
    return lines


def _add_card(nic: VirtualNic, title: str) -> str:
    if nic.model not in (NicModel.NETVSC, NicModel.TULIP):
        raise TargetError(f"Hyper-V has no {nic.model} network card")
    legacy = " -IsLegacy $true" if nic.model is NicModel.TULIP else ""
    address = quote(nic.mac.replace(":", "").upper())
    return f"Add-VMNetworkAdapter -VM $vm -Name {quote(title)} -StaticMacAddress {address}{legacy}"


def _firmware(vm: VirtualMachine) -> list[str]:
    if generation_of(vm) == 1:
        return ["Set-VMBios -VM $vm -StartupOrder @('IDE', 'CD', 'LegacyNetworkAdapter', 'Floppy')"]
    return [
        "# The keys that the physical machine trusted are not known, so its boot loader may not be either.",
        "$first = Get-VMHardDiskDrive -VM $vm -ControllerType SCSI -ControllerNumber 0 -ControllerLocation 0",
        "Set-VMFirmware -VM $vm -EnableSecureBoot Off -FirstBootDevice $first",
    ]


def start(vm: VirtualMachine, image_dir: Path) -> str:
    """In PowerShell on the host, in the folder of the disks."""
    path = quote(".\\" + file_name(vm.name, ".ps1"))
    return f"& {path} -SwitchName 'SWITCH'; Start-VM -Name {quote(machine_name(vm.name))}"


TARGET = Target(
    replace(PLATFORM, title="Microsoft Hyper-V"),
    check,
    render,
    "PowerShell script",
    start,
    options=(GENERATION, FORMAT, SUBFORMAT, NIC),
    shape=shape,
    fit=fit,
)
