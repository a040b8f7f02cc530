"""vSphere: the machine as VMware's importer takes it, an OVF in pieces; the import itself is live."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

from p2v.model import Platform, Setting, VirtualMachine
from p2v.targets import ova, ovf, vmware
from p2v.targets.base import Option, Target, file_name, no_configuration, setting
from p2v.targets.packages import Package
from p2v.targets.vmware_products import PRODUCTS

NAME = "vsphere"
PRODUCT = Option(
    "product",
    tuple(name for name, product in PRODUCTS.items() if product.is_modern and not product.hosted),
    "the oldest host that it runs on",
)


def shape(platform: Platform) -> Platform:
    """The platform of the product, as VMware's target has it for an OVF. Raises UsageError."""
    as_ovf = (*platform.settings, Setting(vmware.CONFIG.key, "ovf"))
    shaped = vmware.shape(replace(platform, settings=as_ovf))
    return replace(shaped, title="VMware vSphere", settings=platform.settings)


PLATFORM = shape(replace(vmware.PLATFORM, name=NAME))


def hardware(platform: Platform | VirtualMachine) -> int:
    """The version of the virtual hardware: 14 for `vmx-14`."""
    return PRODUCTS[setting(platform, PRODUCT)].hardware


def networks_of(cards: Sequence[str]) -> tuple[str, ...]:
    """The networks of a descriptor, one for each card: under the card's name on the source, `eth0`."""
    named = all(cards) and len(set(cards)) == len(cards)
    return tuple(cards) if named else tuple(f"nic{index}" for index in range(len(cards)))


def descriptor_path(vm: VirtualMachine, folder: Path) -> Path:
    return folder / file_name(vm.name, ".ovf")


def begin(vm: VirtualMachine, folder: Path) -> AbstractContextManager[Package]:
    """Compressed disks, descriptor and manifest, ready to be uploaded."""
    dialect = ovf.Dialect.vmware(hardware(vm))
    describe = partial(ovf.render, vm, dialect, networks=networks_of([nic.name for nic in vm.nics]))
    return ova.begin_package(vm, folder, describe, one_file=False)


def start(vm: VirtualMachine, image_dir: Path) -> str:
    return f"govc vm.power -on {shlex.quote(vmware.machine_name(vm.name))}"


TARGET = Target(
    PLATFORM,
    vmware.check,
    no_configuration,
    "live import",
    start,
    options=(PRODUCT, vmware.BUS, vmware.NIC),
    shape=shape,
    begin=begin,
)
