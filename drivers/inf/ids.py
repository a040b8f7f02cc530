"""The ids that Windows' PCI bus driver gives its devices, the most specific first."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.inf.model import DeviceIds, Windows

TEN = (10, 0)
"""Since this version ids without subsystem or class are compatible ids, no longer hardware ids."""


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A PCI function by the fields of its configuration space; `class_code` is base, sub and interface.

    `express` is the device/port type of a PCI Express capability (0 for an endpoint), None without one.
    """

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    revision: int
    class_code: int  # 24 bits: 0x010802 is NVMe
    express: int | None = None

    def ids(self, windows: Windows | None = None) -> DeviceIds:
        """As pci.sys reports them, of Windows 10 and later where no other Windows is given.

        The order is that of "Identifiers for PCI Devices" (windows-driver-docs), and of the devices that the
        registry of a Windows 10 records: there a bridge without subsystem has its ids as they were before.
        """
        model = f"PCI\\VEN_{self.vendor:04X}&DEV_{self.device:04X}"
        board = f"{model}&SUBSYS_{self.subsystem:04X}{self.subsystem_vendor:04X}"
        plain = (f"{model}&REV_{self.revision:02X}", model)
        classes = tuple(f"{model}&{each}" for each in self._classes)
        own = (f"{board}&REV_{self.revision:02X}", board)
        before = windows is not None and (windows.major, windows.minor) < TEN
        if before or not (self.subsystem_vendor or self.subsystem):
            return DeviceIds((*own, *plain, *classes), self._generic)
        return DeviceIds((*own, *classes), (*plain, *self._generic))

    @property
    def _classes(self) -> tuple[str, str]:
        return f"CC_{self.class_code:06X}", f"CC_{self.class_code >> 8:04X}"

    @property
    def _generic(self) -> tuple[str, ...]:
        vendor = f"PCI\\VEN_{self.vendor:04X}"
        own = (*(f"{vendor}&{each}" for each in self._classes), vendor)
        if self.express is None:
            return (*own, *(f"PCI\\{each}" for each in self._classes))
        port = f"&DT_{self.express:X}"
        return (*own, *(f"PCI\\{each}{suffix}" for each in self._classes for suffix in (port, "")))
