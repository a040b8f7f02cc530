"""A small plan, journal and receipt, complete enough that every kind of value is in them."""

from __future__ import annotations

from p2v.journal import Journal
from p2v.model import (
    CaptureStats,
    Consistency,
    Conversion,
    Disk,
    DiskBus,
    Filesystem,
    Finding,
    Firmware,
    GiB,
    ImageFormat,
    LicenseUse,
    Machine,
    Nic,
    NicModel,
    OperatingSystem,
    Output,
    Partition,
    Plan,
    PlannedDisk,
    PlannedNic,
    Platform,
    Receipt,
    Severity,
    TableKind,
    VirtualMachine,
)

ORDER = ("capture", "convert", "write")


def make_machine() -> Machine:
    root = Partition(
        1, 1 << 20, 8 * GiB, "83", mountpoint="/", filesystem=Filesystem("ext4", 8 * GiB, used=GiB)
    )
    disk = Disk(
        path="/dev/sda",
        size=16 * GiB,
        serial="WD-1",
        names=("/dev/sda", "/dev/disk/by-id/ata-WD-1"),
        table=TableKind.GPT,
        table_id="abc",
        partitions=(root,),
    )
    return Machine(
        hostname="web01",
        firmware=Firmware.UEFI,
        cpus=4,
        memory=8 * GiB,
        disks=(disk,),
        nics=(Nic("eth0", "52:54:00:00:00:01", "igb", addresses=("192.0.2.7/24",)),),
        os=OperatingSystem("debian", "12", "Debian GNU/Linux 12", "debian"),
        uuid="4C4C4544-0000-1000-8000-000000000001",
        findings=(Finding(Severity.WARNING, "the clock is wrong"),),
    )


def make_plan() -> Plan:
    machine = make_machine()
    return Plan(
        name="web01",
        source="ssh://root@192.0.2.7",
        machine=machine,
        disks=(PlannedDisk(0, machine.disks[0], GiB),),
        nics=(PlannedNic("52:54:00:00:00:01", "eth0"),),
        platform=Platform(
            "libvirt", "KVM", DiskBus.VIRTIO_SCSI, NicModel.VIRTIO, ImageFormat.QCOW2, driver_pack="virtio"
        ),
        cpus=4,
        memory=8 * GiB,
        firmware=Firmware.UEFI,
        prove=True,
        units=1,
        consistency=Consistency.FROZEN,
    )


def make_journal() -> Journal:
    return Journal(1, "a" * 32, "web01", "2026-03-01T12:00:00+00:00", "0.1.0", {}, make_plan(), order=ORDER)


def make_output() -> Output:
    conversion = Conversion("debian", (), DiskBus.VIRTIO_SCSI, NicModel.VIRTIO, serial_console=True)
    vm = VirtualMachine("web01", "u", 4, 8 * GiB, Firmware.UEFI, (), ())
    return Output(make_plan().platform, conversion, vm, files=())


def make_receipt(run: str) -> Receipt:
    return Receipt(
        run=run,
        plan=make_plan(),
        images=(),
        capture=CaptureStats(seconds=1.5),
        outputs=(make_output(),),
        license=LicenseUse("committed", "evaluation", 1, 4),
        started="2026-03-01T12:00:00+00:00",
        finished="2026-03-01T13:00:00+00:00",
        steps=(),
    )
