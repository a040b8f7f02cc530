package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

func control(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var order struct {
			Behaviour   *Behaviour
			FreeSpace   map[string]int64
			LargestFile int64    // bytes, of every datastore; by default 62 TiB
			Maintain    []string // hosts to put into maintenance
			Reset       bool
		}
		if err := json.NewDecoder(r.Body).Decode(&order); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		obey(order.Behaviour, order.FreeSpace, order.LargestFile, order.Maintain, order.Reset)
	}
	seen.Lock()
	defer seen.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]interface{}{
		"uploads": seen.uploads, "progress": seen.progress, "calls": seen.calls, "users": seen.users,
		"aborted": seen.aborted, "objects": objects(), "machines": machines(), "files": files(),
		"sessions": sessions(),
	})
}

func obey(b *Behaviour, free map[string]int64, largest int64, maintain []string, reset bool) {
	seen.Lock()
	defer seen.Unlock()
	if reset {
		seen.round++
		seen.uploads, seen.progress, seen.users, seen.aborted = nil, nil, nil, 0
		seen.calls, seen.leases = map[string]int{}, map[string]*simulator.HttpNfcLease{}
		seen.downUntil = time.Time{}
	}
	if b != nil {
		seen.behaviour = *b
	}
	for _, entity := range simulator.Map.All("Datastore") {
		store := entity.(*simulator.Datastore)
		// The simulator takes the free space of the machine that it runs on.
		store.Info.GetDatastoreInfo().MaxFileSize = 62 << 40
		if largest > 0 {
			store.Info.GetDatastoreInfo().MaxFileSize = largest
		}
		if size, ok := free[store.Name]; ok {
			store.Summary.FreeSpace = size
		}
	}
	for _, entity := range simulator.Map.All("HostSystem") {
		host := entity.(*simulator.HostSystem)
		host.Runtime.InMaintenanceMode = false
		for _, name := range maintain {
			host.Runtime.InMaintenanceMode = host.Runtime.InMaintenanceMode || host.Name == name
		}
	}
}

// sessions counts the users that are logged in.
func sessions() int {
	return len(simulator.Map.SessionManager().SessionList)
}

func objects() []string {
	names := []string{}
	for _, entity := range simulator.Map.All("") {
		names = append(names, entity.Reference().String())
	}
	sort.Strings(names)
	return names
}

// files lists what is in the folders behind the datastores.
func files() []string {
	names := []string{}
	for _, entity := range simulator.Map.All("Datastore") {
		root := entity.(*simulator.Datastore).Info.GetDatastoreInfo().Url
		_ = filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
			if err == nil && path != root {
				names = append(names, strings.TrimPrefix(path, root))
			}
			return nil
		})
	}
	sort.Strings(names)
	return names
}

type machine struct {
	Name, Ref, Firmware, Power, Folder, Host, Pool, Uuid, InstanceUuid, Version string
	CPUs, MemoryMB                                                              int32
	Disks                                                                       []map[string]interface{}
	Cards                                                                       []map[string]string
}

func machines() []machine {
	found := []machine{}
	for _, entity := range simulator.Map.All("VirtualMachine") {
		vm := entity.(*simulator.VirtualMachine)
		m := machine{
			Name: vm.Name, Ref: vm.Self.Value, Firmware: vm.Config.Firmware, Power: string(vm.Runtime.PowerState),
			Folder: nameOf(vm.Parent), Host: nameOf(vm.Runtime.Host), Pool: nameOf(vm.ResourcePool),
			Uuid: vm.Config.Uuid, InstanceUuid: vm.Config.InstanceUuid, Version: vm.Config.Version,
			CPUs: vm.Config.Hardware.NumCPU, MemoryMB: vm.Config.Hardware.MemoryMB,
		}
		controllers := map[int32]string{}
		for _, device := range vm.Config.Hardware.Device {
			controllers[device.GetVirtualDevice().Key] = strings.TrimPrefix(fmt.Sprintf("%T", device), "*types.")
		}
		for _, device := range vm.Config.Hardware.Device {
			switch d := device.(type) {
			case *types.VirtualDisk:
				flat, _ := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo)
				m.Disks = append(m.Disks, map[string]interface{}{
					"KB": d.CapacityInKB, "Controller": controllers[d.ControllerKey],
					"Thin": flat != nil && flat.ThinProvisioned != nil && *flat.ThinProvisioned,
				})
			case types.BaseVirtualEthernetCard:
				m.Cards = append(m.Cards, card(d))
			}
		}
		found = append(found, m)
	}
	return found
}

func card(device types.BaseVirtualEthernetCard) map[string]string {
	c := device.GetVirtualEthernetCard()
	network := ""
	switch b := c.Backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		network = b.DeviceName
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		network = nameOf(&types.ManagedObjectReference{Type: "DistributedVirtualPortgroup", Value: b.Port.PortgroupKey})
	}
	return map[string]string{
		"Mac": c.MacAddress, "Network": network, "Model": strings.TrimPrefix(fmt.Sprintf("%T", device), "*types."),
	}
}

func nameOf(ref *types.ManagedObjectReference) string {
	if ref == nil {
		return ""
	}
	entity, ok := simulator.Map.Get(*ref).(mo.Entity)
	if !ok {
		return ""
	}
	return entity.Entity().Name
}
