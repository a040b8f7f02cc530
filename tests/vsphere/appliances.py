"""A small machine to import: a descriptor that the product has not written, and disks of random bytes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

from p2v.model import (
    DiskBus,
    Firmware,
    GiB,
    ImageFormat,
    MiB,
    NicModel,
    VirtualDisk,
    VirtualMachine,
    VirtualNic,
)
from p2v.vsphere.settings import Appliance, DiskFile

MACS = ("52:54:00:ab:cd:01", "52:54:00:ab:cd:02")
UUID = "4c4c4544-0042-3010-8044-b7c04f313332"
SIZES = (3 * MiB + 517, 700_001)
CAPACITIES = (8 * GiB, 20 * GiB)

DESCRIPTOR = """<?xml version="1.0" encoding="UTF-8"?>
<ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
  xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"
  xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"
  xmlns:vmw="http://www.vmware.com/schema/ovf">
  <ovf:References>
    <ovf:File ovf:href="web01-disk0.vmdk" ovf:id="file0" ovf:size="{size0}"/>
    <ovf:File ovf:href="web01-disk1.vmdk" ovf:id="file1" ovf:size="{size1}"/>
  </ovf:References>
  <ovf:DiskSection><ovf:Info>Disks</ovf:Info>
    <ovf:Disk ovf:capacity="8" ovf:capacityAllocationUnits="byte * 2^30" ovf:diskId="d0" ovf:fileRef="file0"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
    <ovf:Disk ovf:capacity="20480" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="d1"
    ovf:fileRef="file1"
      ovf:populatedSize="5368709120"
      ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/>
  </ovf:DiskSection>
  <ovf:NetworkSection><ovf:Info>Networks</ovf:Info>
    <ovf:Network ovf:name="front"/><ovf:Network ovf:name="back"/>
  </ovf:NetworkSection>
  <ovf:VirtualSystem ovf:id="web01"><ovf:Info>A machine</ovf:Info><ovf:Name>web01</ovf:Name>
    <ovf:OperatingSystemSection ovf:id="96" vmw:osType="debian12_64Guest"><ovf:Info>OS</ovf:Info>
    </ovf:OperatingSystemSection>
    <ovf:VirtualHardwareSection><ovf:Info>Hardware</ovf:Info>
      <ovf:System><vssd:ElementName>Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></ovf:System>
      <ovf:Item><rasd:ElementName>CPUs</rasd:ElementName><rasd:InstanceID>1</rasd:InstanceID>
        <rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>4</rasd:VirtualQuantity></ovf:Item>
      <ovf:Item><rasd:AllocationUnits>byte *
      2^20</rasd:AllocationUnits><rasd:ElementName>RAM</rasd:ElementName>
        <rasd:InstanceID>2</rasd:InstanceID><rasd:ResourceType>4</rasd:ResourceType>
        <rasd:VirtualQuantity>6144</rasd:VirtualQuantity></ovf:Item>
      <ovf:Item><rasd:Address>0</rasd:Address><rasd:ElementName>SCSI</rasd:ElementName>
        <rasd:InstanceID>3</rasd:InstanceID><rasd:ResourceSubType>VirtualSCSI</rasd:ResourceSubType>
        <rasd:ResourceType>6</rasd:ResourceType></ovf:Item>
      <ovf:Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>Disk 1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/d0</rasd:HostResource><rasd:InstanceID>4</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></ovf:Item>
      <ovf:Item><rasd:AddressOnParent>1</rasd:AddressOnParent><rasd:ElementName>Disk 2</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:InstanceID>5</rasd:InstanceID>
        <rasd:Parent>3</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></ovf:Item>
      <ovf:Item><rasd:Connection>front</rasd:Connection><rasd:ElementName>NIC 1</rasd:ElementName>
        <rasd:InstanceID>6</rasd:InstanceID><rasd:ResourceSubType>VmxNet3</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType></ovf:Item>
      <ovf:Item><rasd:Connection>back</rasd:Connection><rasd:ElementName>NIC 2</rasd:ElementName>
        <rasd:InstanceID>7</rasd:InstanceID><rasd:ResourceSubType>E1000</rasd:ResourceSubType>
        <rasd:ResourceType>10</rasd:ResourceType></ovf:Item>
      <vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="efi"/>
    </ovf:VirtualHardwareSection>
  </ovf:VirtualSystem>
</ovf:Envelope>
"""

MACHINE = VirtualMachine(
    name="web01",
    uuid=UUID,
    cpus=4,
    memory=6 * GiB,
    firmware=Firmware.UEFI,
    disks=tuple(
        VirtualDisk(f"web01-disk{index}.vmdk", ImageFormat.VMDK, size, DiskBus.PVSCSI)
        for index, size in enumerate(CAPACITIES)
    ),
    nics=(VirtualNic(MACS[0], NicModel.VMXNET3), VirtualNic(MACS[1], NicModel.E1000)),
)


def make_appliance(folder: Path, *, name: str = "web01", sizes: tuple[int, int] = SIZES) -> Appliance:
    """The machine above with new random disks of these sizes in bytes."""
    files = []
    for index, size in enumerate(sizes):
        path = folder / f"web01-disk{index}.vmdk"
        path.write_bytes(os.urandom(size))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        files.append(DiskFile(f"file{index}", path, digest))
    text = DESCRIPTOR.format(size0=sizes[0], size1=sizes[1])
    return Appliance(replace(MACHINE, name=name), text, tuple(files))
