"""What is mounted of a guest, by an fstab that may say anything, and what stays closed."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversions.devices import device_names
from conversions.fstab import mounts
from p2v import probe
from p2v.accelerator import Accelerator
from p2v.errors import GuestError
from p2v.guest import Array
from p2v.guest_inspect import find_roots, mount_root
from p2v.guest_mounts import mapping, mount_own, own_mounts, resolve
from p2v.guest_unlock import Keys, unlock
from p2v.model import Disk, Filesystem, Firmware, GiB, Machine, OperatingSystem, Partition, Severity
from tests.conversions.trees import NAMES
from tests.fake_guest import Device, FakeGuest

ROOT, BOOT = "11111111-aaaa", "22222222-bbbb"
RELEASE = {"/usr/lib/os-release": "ID=debian\nPRETTY_NAME=Debian\n"}
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"


def root_with(fstab: str, **files: str | bytes) -> Device:
    own = {"/etc/fstab": fstab, "/boot/keep": "", **{f"/{name}": text for name, text in files.items()}}
    return Device("/dev/sda1", uuid=ROOT, files={**RELEASE, **own})


def machine(*partitions: Partition, firmware: Firmware = Firmware.BIOS) -> Machine:
    disk = Disk("/dev/sda", GiB, serial="S1", names=("/dev/sda",), partitions=partitions)
    return Machine("m", firmware, 1, GiB, (disk,))


def partition(number: int, kind: str, uuid: str = "", *, at: str = "", type_id: str = "83") -> Partition:
    return Partition(number, 0, GiB, type_id, f"0000-{number}", Filesystem(kind, GiB, uuid=uuid), at)


def opened(folder: Path, *devices: Device, arrays: tuple[Array, ...] = ()) -> FakeGuest:
    guest = FakeGuest(folder, *devices, arrays=arrays)
    guest.mount("/dev/sda1", "/")
    guest.mounted.clear()
    return guest


def mounted(guest: FakeGuest, of: Machine | None = None) -> list[tuple[str, str, str]]:
    mount_own(guest.as_guest(), of, device_names(of) if of else NAMES)
    return guest.mounted


def test_parents_come_first_whatever_the_order_of_the_lines(tmp_path: Path) -> None:
    fstab = (
        f"LABEL=esp /boot/efi vfat\nUUID={BOOT} /boot/ ext4\nUUID={ROOT} / ext4\n/dev/metal/var /var xfs\n"
        "/dev/sdz9 /home ext4\nPARTLABEL=usr /usr ext4\nproc /proc proc\n"
    )
    devices = (
        *(Device("/dev/sda2", uuid=BOOT), Device("/dev/sda3", "vfat", label="esp")),
        *(Device("/dev/metal/var", "xfs"), Device("/dev/sda4", label="usr")),
    )
    assert mounted(opened(tmp_path, root_with(fstab), *devices)) == [
        *(("/dev/sda4", "/usr", ""), ("/dev/metal/var", "/var", "")),
        *(("/dev/sda2", "/boot", ""), ("/dev/sda3", "/boot/efi", "")),
    ]


@pytest.mark.parametrize(
    "spec",
    [
        *("/etc/shadow", "/dev/sda", "/dev/vda1", "/dev/../etc/passwd", "//server/share", "server:/export"),
        *("UUID=", "UUID=$(reboot)", "UUID=a\\000b", "LABEL=" + "x" * 9000, "PARTUUID=\\377", "ID=x"),
        *("/dev/mapper/../../etc/shadow", "/dev/md/../x", "/dev/./sda", "/dev/vg/..", "\\000", "=", "UUID"),
    ],
)
def test_what_is_no_device_of_this_run_is_never_mounted(tmp_path: Path, spec: str) -> None:
    guest = opened(tmp_path, root_with(f"{spec} /boot ext4 defaults 0 2\n"))
    with pytest.raises(GuestError, match="/boot of the guest") as error:
        mounted(guest)
    assert "p2v scan" in error.value.hint
    assert guest.mounted == []
    with pytest.raises(GuestError):
        resolve(guest.as_guest(), mounts(f"{spec} /boot ext4\n")[0].spec, None, NAMES)


def test_what_a_boot_does_not_wait_for_may_be_missing(tmp_path: Path) -> None:
    fstab = "UUID=gone /var ext4 defaults,nofail 0 2\n/dev/sdq1 /boot ext4 noauto 0 0\n"
    assert mounted(opened(tmp_path, root_with(fstab))) == []


def test_only_the_subvolume_is_taken_of_the_options(tmp_path: Path) -> None:
    options = "exec,loop,offset=0,subvol=@var,context=system_u:object_r:x:s0,helper=/evil,ro"
    guest = opened(
        tmp_path, root_with(f"UUID={BOOT} /var btrfs {options}\n"), Device("/dev/sda2", "btrfs", BOOT)
    )
    assert mounted(guest) == [("/dev/sda2", "/var", "subvol=@var")]


def test_a_mount_point_that_leads_elsewhere_is_none_of_ours(tmp_path: Path) -> None:
    fstab = f"UUID={BOOT} /boot/../../../etc ext4\nUUID={BOOT} /usr/local ext4\nUUID={BOOT} //boot ext4\n"
    guest = opened(tmp_path, root_with(fstab), Device("/dev/sda2", uuid=BOOT))
    assert mounted(guest) == []


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_fstab_mounts_known_places_only_or_is_an_error_of_the_guest(text: str) -> None:
    guest = FakeGuest(Path("/nonexistent"))
    guest.exists = lambda path: path == "/etc/fstab"  # type: ignore[method-assign]
    guest.read = lambda path, *, limit=0: text.encode("utf-8", "replace")  # type: ignore[method-assign]
    for mount in own_mounts(guest.as_guest()):
        with pytest.raises(GuestError):
            resolve(guest.as_guest(), mount.spec, None, NAMES)


def test_an_fstab_of_hundreds_of_megabytes_is_refused_and_not_read(tmp_path: Path) -> None:
    guest = opened(tmp_path, root_with(""))
    with guest.host("/etc/fstab").open("r+b") as file:
        file.truncate(300 * 1024**2)
    with pytest.raises(GuestError, match="large"):
        mounted(guest)


def test_an_esp_that_fstab_does_not_know_is_mounted_where_its_place_is_empty(tmp_path: Path) -> None:
    esp = partition(2, "vfat", "AAAA-BBBB", type_id=ESP_TYPE)
    uefi = machine(esp, firmware=Firmware.UEFI)
    devices = (Device("/dev/sda2", "vfat", "AAAA-BBBB"),)
    guest = opened(tmp_path / "a", root_with(""), *devices)
    guest.mkdir("/efi")
    assert mounted(guest, uefi) == [("/dev/sda2", "/efi", "")]
    taken = opened(tmp_path / "b", root_with("", **{"boot/efi/EFI/debian/grubx64.efi": b""}), *devices)
    taken.mkdir("/efi")
    assert mounted(taken, uefi) == []
    assert mounted(opened(tmp_path / "c", root_with(""), *devices), machine(esp)) == []


def test_an_array_is_found_by_its_own_name_or_its_uuid(tmp_path: Path) -> None:
    arrays = (Array("/dev/md127", "host:boot", "aa:1"), Array("/dev/md126", "host:3", "0badcafe:00000001"))
    conf = "# comment\nARRAY /dev/md7 metadata=1.2 UUID=0bad:cafe:0000:0001\nARRAY\n"
    guest = opened(tmp_path, root_with("", **{"etc/mdadm/mdadm.conf": conf}), arrays=arrays).as_guest()
    found = [resolve(guest, spec, None, NAMES) for spec in ("/dev/md/boot", "/dev/md7", "/dev/md126")]
    assert found == ["/dev/md127", "/dev/md126", "/dev/md126"]
    with pytest.raises(GuestError, match="could not be assembled"):
        resolve(guest, "/dev/md/other", None, NAMES)


CRYPTTAB = f"cryptvar UUID={BOOT} none luks\nbroken\n"


def encrypted(folder: Path) -> FakeGuest:
    """/var is in LUKS; its passphrase is `open`."""
    root = root_with("/dev/mapper/cryptvar /var ext4\n", **{"etc/crypttab": CRYPTTAB})
    place = f"/dev/mapper/{mapping('/dev/sda2')}"
    return opened(folder, root, Device("/dev/sda2", "crypto_LUKS", BOOT, label="open"), Device(place))


def test_an_encrypted_var_is_mounted_under_the_name_that_it_was_opened_with(tmp_path: Path) -> None:
    guest = encrypted(tmp_path)
    assert unlock(guest.as_guest(), ("wrong", "open")) == ()
    assert mounted(guest) == [("/dev/mapper/p2v_sda2", "/var", "")]


def test_an_encrypted_var_without_its_key_is_said_before_anything_is_changed(tmp_path: Path) -> None:
    guest = encrypted(tmp_path)
    assert unlock(guest.as_guest(), ("wrong",)) == ("/dev/sda2",)
    with pytest.raises(GuestError, match=r"/var of the guest .*LUKS.*no key"):
        mounted(guest)


def test_luks_that_is_not_the_root_is_left_with_a_warning(tmp_path: Path) -> None:
    seen = machine(partition(1, "ext4", ROOT, at="/"), partition(2, "crypto_LUKS", BOOT))
    devices = (root_with(""), Device("/dev/sda2", "crypto_LUKS", BOOT, label="open"))
    found = mount_root(FakeGuest(tmp_path / "a", *devices).as_guest(), machine=seen)
    assert [("/dev/sda2" in text, "left as it is" in text) for text in found.warnings] == [(True, True)]
    with_key = FakeGuest(tmp_path / "b", *devices).as_guest()
    assert mount_root(with_key, machine=seen, keys=Keys(("open",))).warnings == ()


def test_without_any_key_an_encrypted_root_names_the_option(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path, Device("/dev/sda1", "crypto_LUKS", ROOT))
    with pytest.raises(GuestError, match="encrypted") as error:
        mount_root(guest.as_guest(), machine=machine(partition(1, "crypto_LUKS", ROOT)))
    assert "--luks-key-file" in error.value.hint


def two_systems(folder: Path) -> FakeGuest:
    ids = {"/dev/sda1": "a" * 32, "/dev/sda2": "b" * 32}
    return FakeGuest(
        folder,
        *(
            Device(
                name,
                uuid=name[-1] * 8,
                files={
                    "/etc/os-release": f"ID=debian\nPRETTY_NAME=Debian {name[-1]}\n",
                    "/etc/machine-id": f"{identity}\n",
                    "/etc/fstab": "",
                    "/boot/keep": "",
                },
            )
            for name, identity in ids.items()
        ),
        Device("/dev/sda3", "swap"),
    )


def test_of_two_systems_that_which_ran_is_taken_and_none_is_guessed(tmp_path: Path) -> None:
    seen = machine(partition(1, "ext4", "1" * 8), partition(2, "ext4", "2" * 8), partition(3, "swap"))
    assert [root.title for root in find_roots(two_systems(tmp_path).as_guest())] == ["Debian 1", "Debian 2"]
    with pytest.raises(GuestError, match=r"several systems: /dev/sda1 \(Debian 1\), /dev/sda2 \(Debian 2\)"):
        mount_root(two_systems(tmp_path).as_guest(), machine=seen)
    ran = replace(seen, os=OperatingSystem("debian", "12", "Debian", "debian", machine_id="b" * 32))
    assert mount_root(two_systems(tmp_path).as_guest(), machine=ran).device == "/dev/sda2"


def test_filesystems_that_nobody_can_mount_are_named(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path, Device("/dev/sda1", "zfs_member"), Device("/dev/sda2", "reiserfs"))
    with pytest.raises(GuestError, match=r"No operating system .*sda1: zfs_member, /dev/sda2: reiserfs"):
        mount_root(guest.as_guest(), machine=machine())


def test_damage_is_refused_with_what_the_checker_found(tmp_path: Path) -> None:
    damaged = replace(root_with(""), damage="sda1: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY")
    seen = machine(partition(1, "ext4", ROOT, at="/"))
    with pytest.raises(GuestError, match=r"damaged.*UNEXPECTED INCONSISTENCY") as error:
        mount_root(FakeGuest(tmp_path, damaged).as_guest(), machine=seen)
    assert "fsck" in error.value.hint


class ReadOnly(FakeGuest):
    def write(self, path: str, content: bytes) -> None:
        raise GuestError(f"Cannot write {path}: Read-only file system")


def test_a_filesystem_that_cannot_be_written_is_refused_before_anything_is_changed(tmp_path: Path) -> None:
    guest = ReadOnly(tmp_path, root_with(""))
    with pytest.raises(GuestError, match=r"/ of the guest cannot be written: .*Read-only") as error:
        mount_root(guest.as_guest(), machine=machine(partition(1, "ext4", ROOT, at="/")))
    assert "fsck" in error.value.hint


def test_what_was_learned_from_an_image_is_said_before_the_capture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_path = "/dev/disk/by-path/pci-0000:00:1f.2-ata-1"
    fstab = f"{by_path}-part1 / ext4\n/dev/disk/by-id/ata-X-part3 none swap\n"
    guest = FakeGuest(
        tmp_path, root_with(fstab, **{"etc/hostname": "path12\x1b[2J\n"}), Device("/dev/sda2", "crypto_LUKS")
    )
    monkeypatch.setattr(probe, "open_guest", lambda images, **options: nullcontext(guest))
    parts = (partition(1, "ext4", ROOT), partition(2, "crypto_LUKS", BOOT), partition(3, "swap", "3333-3333"))
    image = Disk("/images/disk.img", GiB, names=("/dev/sda",), partitions=parts)
    seen = replace(machine(), disks=(image,))
    found = probe.look_into_image(seen, (), Accelerator.TCG)
    names = device_names(found)
    assert names.stable(f"{by_path}-part1") == f"UUID={ROOT}"
    assert names.stable("/dev/disk/by-id/ata-X-part3") == "UUID=3333-3333"
    assert found.hostname == "path12[2J"
    said = [finding.message for finding in found.findings if finding.severity is Severity.WARNING]
    assert ["ata-X" in text for text in said] == [True, False]
    assert "/dev/sda2 is encrypted" in said[1]
