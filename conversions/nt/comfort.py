"""What keeps a Windows from starting well on other hardware although its disk driver is there.

A stop that stays on the screen, disks that come online, no power management for a processor that is gone,
and no filters of a hypervisor that is gone. Sources: virt-v2v (disable_prl_drivers, AutoReboot,
RealTimeIsUniversal), Microsoft KB 953356 (intelppm), VDS_SAN_POLICY, and the hive of a Windows 10 with
VMware's tools.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from conversions.nt.identify import number_of, text_of, texts_of
from conversions.nt.registry import Readable, dword, multi_sz
from conversions.nt.work import WindowsWork
from p2v.model import Clock, Removal

DISABLED = 4
"""SERVICE_DISABLED, winnt.h."""
ONLINE_ALL = 1
"""VDS_SAN_POLICY, vds.h; servers come with 2: disks on a bus that others may share stay offline."""
FILTERS = ("UpperFilters", "LowerFilters")
CLASSES, INSTANCES = 2048, 20_000
PROCESSOR_SERVICES = ("intelppm", "Processor")
HAL_KEYS = (r"Enum\Root\ACPI_HAL\0000", r"Enum\Root\PCI_HAL\0000")


@dataclass(frozen=True, slots=True)
class Tools:
    """Drivers and services that only make sense on one kind of hypervisor; `platform` begins its targets.

    `blocks` says that a start elsewhere fails while they are on.
    """

    title: str
    platform: str
    services: tuple[str, ...]
    blocks: bool = False


TOOLS = (
    Tools(
        "Parallels Tools",
        "parallels",
        (
            *("prl_boot", "prl_dd", "prl_eth5", "prl_fs", "prl_memdev", "prl_mouf", "prl_pv32", "prl_pv64"),
            *("prl_scsi", "prl_sound", "prl_strg", "prl_tg", "prl_time", "prl_uprof", "prl_va", "prl_vid"),
            *("Parallels Coherence Service", "Parallels Tools Service", "prl_tools_service"),
        ),
        blocks=True,
    ),
    Tools(
        "VMware Tools",
        "vmware",
        (
            *("vmci", "vsock", "vmhgfs", "VMMemCtl", "vmrawdsk", "VMTools", "VGAuthService", "vmvss"),
            *("vmmouse", "vmusbmouse", "vmxnet", "vmware-gsc", "VMUpgradeHelper", "TPAutoConnSvc"),
        ),
    ),
    Tools(
        "Xen's drivers and agents",
        "xen",
        (
            *("xenbus", "xenfilt", "xeniface", "xenvbd", "xenvif", "xennet", "xendisk", "xencrsh", "xenvkbd"),
            *(
                "xenhid",
                "xencons",
                "xenagent",
                "xensvc",
                "xenlite",
                "xenpci",
                "xenusb",
                "rhelscsi",
                "rhelnet",
            ),
            *("xen_agent", "XenInstall", "AWSLiteAgent"),
        ),
    ),
    Tools(
        "VirtualBox Guest Additions",
        "virtualbox",
        ("VBoxGuest", "VBoxMouse", "VBoxService", "VBoxSF", "VBoxVideo", "VBoxWddm"),
    ),
    Tools(
        "QEMU's guest agents", "", ("QEMU-GA", "QEMU Guest Agent VSS Provider", "spice-agent", "vdservice")
    ),
)
QEMU_TARGETS = ("libvirt", "kubevirt", "openstack", "proxmox", "virtualserver", "raw")


def step(work: WindowsWork) -> None:
    """All of it, in every control set. Raises GuestError where the hive is damaged."""
    for control_set in work.control_sets:
        _stay_on_stops(work, control_set)
        _bring_disks_online(work, control_set)
        _rest_processor_drivers(work, control_set)
        _stop_tools(work, control_set)
    _check_hal(work)


def clock(system: Readable, control_set: str) -> Clock:
    """What this Windows takes the hardware clock for."""
    key = f"{control_set}\\Control\\TimeZoneInformation"
    return Clock.UTC if number_of(system, key, "RealTimeIsUniversal") == 1 else Clock.LOCAL


def _stay_on_stops(work: WindowsWork, control_set: str) -> None:
    key = f"{control_set}\\Control\\CrashControl"
    if number_of(work.system, key, "AutoReboot") != 0:
        work.system.set(key, dword("AutoReboot", 0), "a stop (blue screen) stays, so that it can be read")


def _bring_disks_online(work: WindowsWork, control_set: str) -> None:
    partition_manager = f"{control_set}\\Services\\partmgr"
    if work.windows.major >= 6 and work.system.has(partition_manager):
        reason = "disks come online on the new bus, too"
        work.system.set(f"{partition_manager}\\Parameters", dword("SanPolicy", ONLINE_ALL), reason)


def _rest_processor_drivers(work: WindowsWork, control_set: str) -> None:
    """XP and 2003 stop (0x7E) where such a driver finds a processor that it cannot manage."""
    if work.windows.major < 6:
        for name in PROCESSOR_SERVICES:
            _disable(
                work, control_set, name, "stops XP and 2003 on a processor that it does not know (KB 953356)"
            )


def _stop_tools(work: WindowsWork, control_set: str) -> None:
    removed: set[str] = set()
    found = False
    for tools in TOOLS:
        wanted = tools.blocks or Removal.GUEST_TOOLS in work.request.clean_up.remove
        if wanted and not _at_home(tools, work.request.platform.name):
            reason = f"of no use without its hypervisor: {tools.title}"
            stopped = [name for name in tools.services if _disable(work, control_set, name, reason)]
            removed |= {name.lower() for name in tools.services}
            found = found or bool(stopped)
            if stopped:
                work.warn(f"{tools.title} start no more; uninstall them in Windows when it suits")
    for key in _classes(work, control_set) if removed else ():
        _remove_filters(work, key, removed)
    for key in islice(_instances(work, f"{control_set}\\Enum"), INSTANCES) if found else ():
        _remove_filters(work, key, removed)


def _at_home(tools: Tools, platform: str) -> bool:
    if not tools.platform:
        return platform in QEMU_TARGETS
    vmware = tools.platform == "vmware" and platform == "vsphere"
    return vmware or platform.startswith(tools.platform)


def _disable(work: WindowsWork, control_set: str, service: str, reason: str) -> bool:
    """Whether the service is there; its key stays, for its uninstaller."""
    key = f"{control_set}\\Services\\{service}"
    if work.system.value(key, "Start") is None:
        return False
    work.system.set(key, dword("Start", DISABLED), reason)
    return True


def _classes(work: WindowsWork, control_set: str) -> list[str]:
    classes = f"{control_set}\\Control\\Class"
    return [f"{classes}\\{name}" for name in work.system.keys(classes)[:CLASSES]]


def _instances(work: WindowsWork, key: str) -> Iterator[str]:
    for enumerator in work.system.keys(key):
        for device in work.system.keys(f"{key}\\{enumerator}"):
            for instance in work.system.keys(f"{key}\\{enumerator}\\{device}"):
                yield f"{key}\\{enumerator}\\{device}\\{instance}"


def _remove_filters(work: WindowsWork, key: str, names: set[str]) -> None:
    reason = "a filter of a hypervisor that is gone: with it, the device does not start"
    for value in FILTERS:
        found = texts_of(work.system, key, value)
        kept = [name for name in found if name.lower() not in names]
        if len(kept) == len(found):
            continue
        if kept:
            work.system.set(key, multi_sz(value, kept), reason)
        else:
            work.system.remove_value(key, value, reason)


def _check_hal(work: WindowsWork) -> None:
    """XP and 2003 choose their HAL at setup; one that is not for ACPI does not start on a machine with it."""
    if work.windows.major >= 6:
        return
    first = work.control_sets[0]
    acpi, other = (work.system.has(f"{first}\\{key}") for key in HAL_KEYS)
    name = text_of(work.system, f"{first}\\{HAL_KEYS[0]}", "HardwareID")
    if other and not acpi:
        work.warn(
            "This Windows was set up for a PC without ACPI (HAL), and virtual machines have it: it may stop"
            " with 0x79 or 0x7B; choose 'ACPI PC' in the source's device manager before the capture, or run a"
            " repair installation on the virtual machine"
        )
    elif name.lower().endswith("_up") and work.request.machine.cpus > 1:
        work.warn(f"This Windows has the HAL for one processor ({name}): it uses one of the machine's")
