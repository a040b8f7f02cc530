"""The libvirt target against golden files, libvirt's own schema, and libvirt itself."""

from __future__ import annotations

import dataclasses
import os
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from p2v import command
from p2v.accelerator import Accelerator, find_accelerator
from p2v.errors import TargetError
from p2v.model import (
    Clock,
    DiskBus,
    Firmware,
    GiB,
    ImageFormat,
    NicModel,
    OperatingSystem,
    Plan,
    PlannedDisk,
    ProductType,
    Severity,
    TiB,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
    WindowsSystem,
)
from p2v.targets import find_target
from p2v.targets.counting import letters
from p2v.targets.libvirt import LIBVIRT_BUS, PLATFORM, check, render
from tests.conftest import need_tools
from tests.plans import make_plan

GOLDEN = Path(__file__).parents[2] / "fixtures/configs/libvirt"
IMAGES = Path("/var/lib/libvirt/images/web01")
MAC = "52:54:00:12:34:56"
NOBODY = 65534


def disk(index: int, bus: DiskBus = DiskBus.VIRTIO_BLK, serial: str = "") -> VirtualDisk:
    return VirtualDisk(f"disk{index}.qcow2", ImageFormat.QCOW2, 4 * GiB, bus, serial)


BIOS = VirtualMachine(
    name="web01",
    uuid="4C4C4544-0042-3010-8044-B7C04F313332",
    cpus=2,
    memory=2 * GiB,
    firmware=Firmware.BIOS,
    disks=(disk(0, serial="S3R1AL"),),
    nics=(VirtualNic(MAC, NicModel.VIRTIO),),
)
UEFI = dataclasses.replace(
    BIOS,
    firmware=Firmware.UEFI,
    disks=(disk(0, DiskBus.VIRTIO_SCSI), disk(1, DiskBus.VIRTIO_SCSI)),
    nics=(VirtualNic(MAC, NicModel.VIRTIO), VirtualNic("52:54:00:12:34:57", NicModel.E1000E)),
)
OLD = dataclasses.replace(
    BIOS, disks=(disk(0, DiskBus.IDE), disk(1, DiskBus.SATA)), nics=(VirtualNic(MAC, NicModel.E1000),)
)
HOSTILE = dataclasses.replace(
    BIOS,
    name="../a<b>&\"c' \x01\ud800é/\n",
    title="]]><script>\n\ttwo lines\x00",
    uuid="no uuid",
    disks=(dataclasses.replace(disk(0), file="a&b<c>.qcow2", serial="a&b <c>" + "9" * 50),),
)
WINDOWS = dataclasses.replace(
    UEFI,
    disks=(disk(0, DiskBus.SATA),),
    nics=(VirtualNic(MAC, NicModel.E1000E),),
    clock=Clock.LOCAL,
    serial_console=False,
    os=OperatingSystem(
        "windows", "10.0.26100", "Windows Server 2025 Standard", "windows",
        windows=WindowsSystem(10, 0, 26100, ProductType.SERVER),
    ),
)  # fmt: skip
MACHINES = {"bios": BIOS, "uefi-scsi": UEFI, "old-ide": OLD, "hostile": HOSTILE, "windows": WINDOWS}


def domain(vm: VirtualMachine, image_dir: Path = IMAGES) -> ET.Element:
    return ET.fromstring(render(vm, image_dir)[0].text)


@pytest.mark.parametrize("name", MACHINES)
def test_golden(name: str, regenerate: bool) -> None:
    golden = GOLDEN / f"{name}.xml"
    text = render(MACHINES[name], IMAGES)[0].text
    if regenerate:
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.tools
@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("bus", list(LIBVIRT_BUS))
def test_libvirts_schema_accepts_it(name: str, bus: DiskBus, tmp_path: Path) -> None:
    need_tools("virt-xml-validate", "xmllint")
    vm = MACHINES[name]
    if name != "old-ide":
        vm = dataclasses.replace(vm, disks=tuple(dataclasses.replace(each, bus=bus) for each in vm.disks))
    path = tmp_path / "domain.xml"
    path.write_text(render(vm, IMAGES)[0].text)
    command.check(["virt-xml-validate", path, "domain"], timeout=60, reason="accept the domain")


def test_hostile_names_stay_data() -> None:
    config = render(HOSTILE, IMAGES)[0]
    assert "/" not in config.name
    assert not config.name.startswith((".", "-"))
    root = ET.fromstring(config.text)
    assert root.findtext("name") == "..-a<b>&\"c' --é--"
    assert root.findtext("title") == "]]><script> two lines"
    assert root.find("uuid") is None
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == "/var/lib/libvirt/images/web01/a&b<c>.qcow2"


def test_paths_are_absolute() -> None:
    source = domain(BIOS, Path("run/vm")).find("devices/disk/source")
    assert source is not None
    assert source.get("file") == str(Path.cwd() / "run/vm/disk0.qcow2")


def test_only_the_first_disk_boots() -> None:
    disks = domain(UEFI).findall("devices/disk")
    assert [each.find("boot") is not None for each in disks] == [True, False]


def test_cards_keep_their_addresses_and_models() -> None:
    interfaces = domain(UEFI).findall("devices/interface")
    addresses = [each.find("mac") for each in interfaces]
    models = [each.find("model") for each in interfaces]
    assert [each.get("address") for each in addresses if each is not None] == [MAC, "52:54:00:12:34:57"]
    assert [each.get("type") for each in models if each is not None] == ["virtio", "e1000e"]


@pytest.mark.parametrize(
    ("number", "name"), [(0, "a"), (25, "z"), (26, "aa"), (51, "az"), (52, "ba"), (702, "aaa")]
)
def test_disks_are_counted_as_linux_does(number: int, name: str) -> None:
    assert letters(number) == name


def test_what_libvirt_has_not_is_refused() -> None:
    with pytest.raises(TargetError, match="nvme"):
        render(dataclasses.replace(BIOS, disks=(disk(0, DiskBus.NVME),)), IMAGES)
    mixed = (disk(0, DiskBus.PVSCSI), disk(1, DiskBus.LSI_SAS))
    with pytest.raises(TargetError, match="mixes"):
        render(dataclasses.replace(BIOS, disks=mixed), IMAGES)


def plan_with(**changes: object) -> Plan:
    return dataclasses.replace(make_plan(), platform=PLATFORM, **changes)  # type: ignore[arg-type]


def test_a_fitting_plan_has_no_findings() -> None:
    assert check(plan_with()) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "no machine named"),
        ({"name": ""}, "no machine named"),
        ({"cpus": 256}, "256 processors"),
        ({"cpus": 0}, "0 processors"),
        ({"disks": make_plan().disks * 27}, "27 disks"),
    ],
)
def test_refusals(changes: dict[str, object], message: str) -> None:
    findings = check(plan_with(**changes))
    assert [message in finding.message for finding in findings] == [True]
    assert findings[0].severity is Severity.BLOCKER


@pytest.mark.parametrize(("field", "value"), [("size", 65 * TiB), ("sector_size", 4096)])
def test_disks_that_do_not_fit(field: str, value: int) -> None:
    seen = dataclasses.replace(make_plan().machine.disks[0], **{field: value})  # type: ignore[arg-type]
    findings = check(plan_with(disks=(PlannedDisk(0, seen, GiB),)))
    assert ["/dev/sda" in finding.message for finding in findings] == [True]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), (ImageFormat.QCOW2, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)),
        (("raw",), (ImageFormat.RAW, DiskBus.VIRTIO_BLK, NicModel.VIRTIO)),
        (("virtio-scsi",), (ImageFormat.QCOW2, DiskBus.VIRTIO_SCSI, NicModel.VIRTIO)),
        (("bus=sata", "nic=e1000e"), (ImageFormat.QCOW2, DiskBus.SATA, NicModel.E1000E)),
    ],
)
def test_on_request(words: tuple[str, ...], expected: tuple[ImageFormat, DiskBus, NicModel]) -> None:
    platform = find_target("libvirt", words).platform
    assert (platform.image_format, platform.disk_bus, platform.nic_model) == expected


def as_startable(text: str, accelerator: Accelerator) -> str:
    """The domain with only that replaced which a host may lack: a network named default, a working KVM."""
    root = ET.fromstring(text)
    for interface in root.findall("devices/interface"):
        interface.set("type", "user")
        for source in interface.findall("source"):
            interface.remove(source)
    if accelerator is Accelerator.TCG:
        root.set("type", "qemu")
    return ET.tostring(root, encoding="unicode")


@pytest.fixture(scope="module")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> Accelerator:
    return find_accelerator(tmp_path_factory.mktemp("accelerator")).accelerator


@pytest.mark.tools
@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", ["bios", "uefi-scsi", "old-ide"])
def test_libvirt_starts_it(name: str, accelerator: Accelerator) -> None:
    """libvirt's QEMU driver inside virsh, in a folder of its own: no daemon, nothing of the host touched."""
    need_tools("virsh", "qemu-system-x86_64", "qemu-img", "setpriv")
    if not list(Path("/usr/lib").glob("**/libvirt_driver_qemu.so")):
        need_tools("libvirt_driver_qemu.so (apt install libvirt-daemon-driver-qemu)")
    # A socket's path has at most 107 bytes and other users must get in, so not the folder of the test.
    folder = Path(f"/tmp/p2v-libvirt-{os.getpid()}")
    folder.mkdir(mode=0o755)
    vm = MACHINES[name]
    try:
        for each in vm.disks:
            image = folder / each.file
            command.check(
                ["qemu-img", "create", "-f", "qcow2", image, "1M"], timeout=30, reason="make a disk"
            )
        start_in(folder, vm, accelerator)
    finally:
        shutil.rmtree(folder)


def start_in(folder: Path, vm: VirtualMachine, accelerator: Accelerator) -> None:
    """Have libvirt start `vm`, whose images are in `folder`, look at it, and end it."""
    text = render(vm, folder)[0].text
    (folder / "domain.xml").write_text(as_startable(text, accelerator))
    variables = {
        name: str(folder) for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")
    }
    script = (
        f"create --paused {folder}/domain.xml; dominfo {vm.name}; domblklist {vm.name}; destroy {vm.name}"
    )
    virsh = ["virsh", "-c", f"qemu:///embed?root={folder}/root", script]
    said = command.check([*as_nobody(folder), *virsh], timeout=120, reason="start the domain", env=variables)
    assert "paused" in said
    assert str(folder / vm.disks[-1].file) in said
    assert "destroyed" in said


def as_nobody(folder: Path) -> list[str]:
    """As root, libvirt wants an account of its own that only its daemon's package makes."""
    if os.getuid() != 0:
        return []
    for path in (folder, *folder.iterdir()):
        os.chown(path, NOBODY, NOBODY)
    device = Path("/dev/kvm")
    groups = f"--groups={device.stat().st_gid}" if device.exists() else "--clear-groups"
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", groups]


def test_a_windows_gets_no_device_that_it_has_no_driver_for() -> None:
    """The bus of its disk tells whether it has virtio's drivers; nobody else would have put them in."""
    plain = domain(WINDOWS)
    assert "virtio" not in ET.tostring(plain, encoding="unicode")
    assert [one.get("model") for one in plain.findall("devices/memballoon")] == ["none"]
    given = domain(dataclasses.replace(WINDOWS, disks=(disk(0, DiskBus.VIRTIO_BLK),)))
    assert [one.get("model") for one in given.findall("devices/memballoon")] == ["virtio"]
    assert plain.find("clock[@offset='localtime']/timer[@name='hypervclock'][@present='yes']") is not None
    assert domain(BIOS).find("features/hyperv") is None
