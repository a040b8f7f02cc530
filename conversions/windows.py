"""What is changed inside a Windows, from XP to Server 2025: read top to bottom.

Nothing of a Windows can be run here, so everything is a change to its registry and its files, and what only
Windows itself can do is left to its first start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from conversions.changes import Changes
from conversions.nt import boot_configuration, boot_sector, comfort, first_boot, loaders
from conversions.nt.control_sets import control_sets
from conversions.nt.disks import provide_disk_bus, staged_packages
from conversions.nt.edits import RegistryEdits, RegistryRecord
from conversions.nt.paths import WindowsPaths
from conversions.nt.services import need_room
from conversions.nt.staging import size_of, stage
from conversions.nt.work import HIVE_REASON, WindowsWork
from conversions.protocol import GuestFiles
from conversions.request import Request
from drivers.inf.model import Windows
from drivers.windows import choose_card
from p2v.errors import GuestError
from p2v.model import Conversion, DiskBus, NicModel, WindowsSystem

Step = Callable[[WindowsWork], None]

STEPS: tuple[Step, ...] = (
    boot_configuration.step,
    loaders.step,
    boot_sector.step,
    comfort.step,
    first_boot.step,
)
"""What follows the drivers."""
HIVES = "System32/config"


def convert(guest: GuestFiles, request: Request) -> Conversion:
    """Make a Windows start on the platform; doing it twice changes nothing the second time.

    Raises GuestError where its registry is damaged or where it has no driver for any of the platform's disks.
    """
    system, windows = _windows(request)
    changes, record = Changes(guest), RegistryRecord()
    with ExitStack() as stack:
        work = _open(stack, changes, record, request, system)
        bus, nic = provide_drivers(work, windows)
        for step in STEPS:
            step(work)
        clock = comfort.clock(work.system, work.control_sets[0])
    return Conversion(
        family="windows",
        changes=changes.changes,
        disk_bus=bus,
        nic_model=nic,
        serial_console=False,
        warnings=changes.warnings,
        registry=record.changes,
        clock=clock,
    )


def provide_drivers(work: WindowsWork, windows: Windows) -> tuple[DiskBus, NicModel]:
    """Drivers for the disks, to start from; for the network card and the rest, to be installed later."""
    request = work.request
    nic, cards, warnings = choose_card(request.pack, request.platform, windows, request.index)
    work.changes.warn_all(warnings)
    packages = staged_packages(work, windows, cards)
    if request.index and packages:
        need_room(work, 3 * size_of(request.index, packages))
    bus = provide_disk_bus(work, windows)
    if request.index and packages:
        stage(work, request.index, packages)
    return bus, nic


def _windows(request: Request) -> tuple[WindowsSystem, Windows]:
    """Which Windows it is, as the registry and as drivers say it."""
    system = request.machine.os
    if system is None or system.windows is None:
        raise GuestError("The version of this Windows is not known")
    windows = Windows.of(system.windows, system.architecture)
    if windows is None:
        raise GuestError(f"p2v cannot convert a Windows for {system.architecture}")
    return system.windows, windows


def _open(
    stack: ExitStack, changes: Changes, record: RegistryRecord, request: Request, system: WindowsSystem
) -> WindowsWork:
    """Both hives are written when the stack ends, or neither is where a step fails."""
    if request.hives is None:
        raise GuestError("The registry of this Windows cannot be opened")
    paths = WindowsPaths(changes.guest)
    edits = []
    for name in ("SOFTWARE", "SYSTEM"):
        path = paths.find(f"{system.root}/{HIVES}/{name}")
        stack.enter_context(changes.watching(path, HIVE_REASON))
        edits.append(RegistryEdits(stack.enter_context(request.hives.edit(path)), path, record))
    software, registry = edits
    sets = control_sets(registry)
    return WindowsWork(changes, request, system, paths, request.hives, record, registry, software, sets)
