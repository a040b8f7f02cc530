"""What belongs to the root of a guest: /usr, /var, /boot and the EFI system partition, wherever they are.

The lines of fstab(5) are hostile text, and name devices in ways that mean nothing in the appliance: by UUID,
label, partition, volume, array, or by names of the source, which the probe knows.
"""

from __future__ import annotations

import re

from conversions.devices import DeviceNames
from conversions.fstab import Mount, encrypted, mounts
from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.model import Firmware, Machine

OWN_MOUNTS = ("/usr", "/var", "/boot", "/boot/efi", "/efi")
"""What a conversion touches, parents first."""
FSTAB = "/etc/fstab"
CRYPTTAB = "/etc/crypttab"
MDADM = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
TEXT_LIMIT = 1024 * 1024
SUBVOLUME = re.compile(r"subvol(?:id)?=[\w@./-]{1,200}")
VOLUME = re.compile(r"/dev/(?!\.+/)[\w+.-]+/(?!\.+$)[\w+.-]+")
ARRAY = re.compile(r"/dev/(?:md/?)(?P<name>[\w.:-]+)")
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
ESP_PLACES = ("/boot/efi", "/efi", "/boot")
MAPPER = "/dev/mapper/"


def mount_own(guest: Guest, machine: Machine | None, names: DeviceNames) -> None:
    """Mount what fstab says of `OWN_MOUNTS`. Raises GuestError where the boot would stop without it."""
    for mount in own_mounts(guest):
        _mount(guest, mount, machine, names)
    if machine and machine.firmware is Firmware.UEFI:
        _mount_esp(guest, machine)


def own_mounts(guest: Guest) -> tuple[Mount, ...]:
    """The lines of fstab for `OWN_MOUNTS`, parents first."""
    found = {mount.mountpoint.rstrip("/"): mount for mount in read_fstab(guest)}
    return tuple(found[path] for path in OWN_MOUNTS if path in found)


def read_fstab(guest: Guest) -> tuple[Mount, ...]:
    return mounts(_read(guest, FSTAB))


def read_crypttab(guest: Guest) -> tuple[Mount, ...]:
    return encrypted(_read(guest, CRYPTTAB))


def _read(guest: Guest, path: str) -> str:
    if not guest.exists(path):
        return ""
    return guest.read(path, limit=TEXT_LIMIT).decode("utf-8", "replace")


def _mount(guest: Guest, mount: Mount, machine: Machine | None, names: DeviceNames) -> None:
    try:
        device = resolve(guest, mount.spec, machine, names)
        options = ",".join(option for option in mount.options if SUBVOLUME.fullmatch(option))
        guest.mount(device, mount.mountpoint.rstrip("/"), options=options)
    except GuestError as error:
        if mount.waits:
            raise GuestError(
                f"{mount.mountpoint} of the guest ({mount.spec}) cannot be mounted: {error.message}",
                hint="If it is on a disk of its own, capture that disk too: p2v scan SOURCE shows the disks",
            ) from error


def _mount_esp(guest: Guest, machine: Machine) -> None:
    """systemd mounts an EFI system partition that fstab does not know; so do we, where its place is empty."""
    if any(guest.glob(f"{place}/[Ee][Ff][Ii]") for place in ESP_PLACES):
        return
    place = next((place for place in ESP_PLACES if guest.is_dir(place) and not guest.glob(f"{place}/*")), "")
    for index, disk in enumerate(machine.disks):
        for partition in disk.partitions:
            if partition.type_id == ESP_TYPE and place:
                guest.mount(guest.partition_device(index, partition.number), place)
                return


def resolve(guest: Guest, spec: str, machine: Machine | None, names: DeviceNames) -> str:
    """What the appliance calls the device of an fstab line. Raises GuestError where it has none."""
    stable = _as_tag(names.stable(spec) or spec)
    key, equals, value = stable.partition("=")
    if equals:
        return _by_tag(guest, key, value.strip("\"'")[:256], machine)
    if stable.startswith(MAPPER) and VOLUME.fullmatch(stable):
        return _by_mapping(guest, stable, machine, names)
    array = ARRAY.fullmatch(stable)
    if array:
        return _by_array(guest, stable, array["name"])
    if VOLUME.fullmatch(stable):
        return stable
    raise GuestError(f"{spec} is on no disk of this run")


def _as_tag(spec: str) -> str:
    """`/dev/disk/by-uuid/X` is `UUID=X`; other paths stay."""
    found = re.fullmatch(r"/dev/disk/by-(uuid|label|partuuid|partlabel)/(.+)", spec)
    if found:
        return f"{found[1].upper()}={found[2]}"
    return spec.replace("/dev/disk/by-id/dm-name-", MAPPER)


def _by_tag(guest: Guest, key: str, value: str, machine: Machine | None) -> str:
    match key.upper():
        case "UUID":
            return guest.find_uuid(value)
        case "LABEL":
            return guest.find_label(value)
        case "PARTUUID":
            return _partition_by_uuid(guest, value, machine)
        case "PARTLABEL":
            return guest.partition_label(value)
    raise GuestError(f"{key}={value} is on no disk of this run")


def _partition_by_uuid(guest: Guest, identifier: str, machine: Machine | None) -> str:
    for index, disk in enumerate(machine.disks if machine else ()):
        for partition in disk.partitions:
            if partition.uuid and partition.uuid.lower() == identifier.lower():
                return guest.partition_device(index, partition.number)
    raise GuestError(f"PARTUUID={identifier} is on no disk of this run")


def _by_mapping(guest: Guest, path: str, machine: Machine | None, names: DeviceNames) -> str:
    """An opened LUKS device has another name here than in the guest's crypttab."""
    name = path.removeprefix(MAPPER)
    for line in _read(guest, CRYPTTAB).splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] == name:
            return opened_name(guest, resolve(guest, fields[1], machine, names))
    return path


def opened_name(guest: Guest, device: str) -> str:
    """Where `p2v.guest_unlock` opens a LUKS device; raises GuestError where no key did."""
    path = f"{MAPPER}{mapping(device)}"
    if not guest.exists_device(path):
        raise GuestError(f"{device} is encrypted (LUKS), and no key that was given opens it")
    return path


def mapping(device: str) -> str:
    """The name under which a device is opened in the appliance."""
    return "p2v_" + re.sub(r"\W", "_", device.removeprefix("/dev/"))


def _by_array(guest: Guest, path: str, name: str) -> str:
    """The appliance numbers arrays by itself: the guest's name leads through its own, or its UUID."""
    arrays = guest.arrays()
    identifier = _array_uuid(guest, path)
    for array in arrays:
        own = array.name.rpartition(":")[2]
        if (identifier and _digits(array.uuid) == identifier) or (own and own == name):
            return array.device
    if any(array.device == path for array in arrays):
        return path
    raise GuestError(f"The array {path} could not be assembled from the disks of this run")


def _array_uuid(guest: Guest, path: str) -> str:
    for line in "\n".join(_read(guest, config) for config in MDADM).splitlines():
        words = line.split()
        if len(words) > 2 and words[0].upper() == "ARRAY" and words[1] == path:
            found = (word[5:] for word in words if word.lower().startswith("uuid="))
            return _digits(next(found, ""))
    return ""


def _digits(identifier: str) -> str:
    return re.sub(r"[^0-9a-f]", "", identifier.lower())
