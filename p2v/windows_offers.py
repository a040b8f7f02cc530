"""What a target offers a Windows: the devices that it has drivers for, known before a byte is copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import drivers
from drivers.inf.index import DriverIndex
from drivers.windows import NoDriver, WindowsChoice, choose
from p2v.errors import P2VError
from p2v.model import DiskBus, Finding, OperatingSystem, Plan, Platform, Setting, Severity
from p2v.targets import Target

BUS, NIC = "bus", "nic"
"""Options of targets with which a user names a device."""
NO_PROOF = Finding(
    Severity.BLOCKER,
    "Whether a Windows has started cannot be told here: it says so on a screen, to a person, and nowhere",
    "Leave out --prove, and look at the first start on the target",
)


@dataclass(frozen=True, slots=True)
class WindowsOffer:
    """A platform with the devices that this Windows gets on it, what is wrong with that, and what to know."""

    platform: Platform
    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()

    def checked(self, check: Callable[[Plan], tuple[Finding, ...]]) -> Callable[[Plan], tuple[Finding, ...]]:
        """The look of the target at a plan, and these findings."""

        def found(plan: Plan) -> tuple[Finding, ...]:
            proof = (NO_PROOF,) if plan.prove else ()
            return (*self.findings, *check(plan), *proof)

        return found


def offer(target: Target, platform: Platform, os: OperatingSystem, index: DriverIndex | None) -> WindowsOffer:
    """What `target` gives a Windows; `index` holds the drivers that came with it."""
    system = os.windows
    if system is None:
        return WindowsOffer(platform)
    chosen = choose(drivers.pack(platform.driver_pack), platform, system, os.architecture, index)
    if isinstance(chosen, NoDriver):
        message = f"{os.name} does not start on {platform.title}: {'; '.join(chosen.reasons)}"
        return WindowsOffer(platform, (Finding(Severity.BLOCKER, message, chosen.hint),))
    refused = tuple(_refused(platform, os, chosen))
    fitted = _with_devices(target, platform, chosen)
    return WindowsOffer(fitted, refused, chosen.warnings if not refused else ())


def _refused(platform: Platform, os: OperatingSystem, chosen: WindowsChoice) -> Iterator[Finding]:
    """A device that the user named is not exchanged for another one."""
    asked = {setting.key: setting.value for setting in platform.settings}
    if asked.get(BUS, "auto") != "auto" and chosen.disk_bus is not platform.disk_bus:
        yield _no_driver(os, f"{platform.disk_bus} disks", f"{BUS}={chosen.disk_bus}", platform)
    if asked.get(NIC, "auto") != "auto" and chosen.nic_model is not platform.nic_model:
        yield _no_driver(os, f"the network card {platform.nic_model}", f"{NIC}={chosen.nic_model}", platform)


def _no_driver(os: OperatingSystem, what: str, instead: str, platform: Platform) -> Finding:
    return Finding(
        Severity.BLOCKER,
        f"{os.name} brings no driver for {what}, and none that is given fits",
        f"Give its driver: --drivers DIR; or take a device that it drives: --to {platform.name}:{instead}",
    )


def _with_devices(target: Target, platform: Platform, chosen: WindowsChoice) -> Platform:
    """The platform with these devices, and the limits that come with the disks."""
    fitted = replace(platform, disk_bus=chosen.disk_bus, nic_model=chosen.nic_model)
    if chosen.disk_bus is platform.disk_bus or BUS not in {option.key for option in target.options}:
        return fitted
    return replace(fitted, max_disks=_disks_on(target, platform, chosen.disk_bus))


def _disks_on(target: Target, platform: Platform, bus: DiskBus) -> int:
    others = tuple(setting for setting in platform.settings if setting.key != BUS)
    try:
        return target.shape(replace(platform, settings=(*others, Setting(BUS, bus)))).max_disks
    except P2VError:  # not a bus that can be asked for by name
        return platform.max_disks
