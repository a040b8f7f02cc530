"""The ids that Windows' bus drivers give their devices, the most specific first."""

from __future__ import annotations

from dataclasses import dataclass

from drivers.inf.model import DeviceIds


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A PCI function by the fields of its configuration space; `class_code` is base, sub and interface."""

    vendor: int
    device: int
    subsystem_vendor: int
    subsystem: int
    revision: int
    class_code: int  # 24 bits: 0x010802 is NVMe

    def ids(self) -> DeviceIds:
        """As pci.sys reports them.

        The order is that of "Identifiers for PCI Devices" (windows-driver-docs), and of the devices that a
        registry of Windows 10 records.
        """
        model = f"PCI\\VEN_{self.vendor:04X}&DEV_{self.device:04X}"
        board = f"{model}&SUBSYS_{self.subsystem:04X}{self.subsystem_vendor:04X}"
        six, four = f"CC_{self.class_code:06X}", f"CC_{self.class_code >> 8:04X}"
        revision, vendor = f"REV_{self.revision:02X}", f"PCI\\VEN_{self.vendor:04X}"
        return DeviceIds(
            hardware=(f"{board}&{revision}", board, f"{model}&{six}", f"{model}&{four}"),
            compatible=(
                f"{model}&{revision}",
                model,
                f"{vendor}&{six}",
                f"{vendor}&{four}",
                vendor,
                f"PCI\\{six}&DT_0",
                f"PCI\\{six}",
                f"PCI\\{four}&DT_0",
                f"PCI\\{four}",
            ),
        )
