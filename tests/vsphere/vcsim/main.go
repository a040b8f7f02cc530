// Starts the simulator of govmomi with TLS, and does what it leaves out or cannot be told to do:
// keep what is uploaded, fail in the middle, be slow, change what was asked for, be gone for a while.
//
// The first line on stdout is JSON with the addresses and the certificates. GET /control tells what was seen
// and what is in the inventory, POST /control sets the behaviour; both are on the port of the API.
package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// Behaviour is what a test asks for; the zero value is a server without trouble.
type Behaviour struct {
	RefuseAfter     int64             // bytes of an upload after which it is answered with 500
	FullAfter       int64             // the same, and the lease tells that the datastore is full
	DropAfter       int64             // bytes after which the line is cut
	ExitAfter       int64             // bytes after which the whole server is gone
	AbortAfter      int64             // bytes after which the lease is ended, as by an administrator
	DownMillis      int               // for so long nothing answers after DropAfter
	BytesPerSecond  int64             // of an upload
	ReadyMillis     int               // until a lease is ready
	SeparateHost    bool              // uploads go to the "ESXi host", which has its own certificate
	WrongThumbprint bool              // the lease tells another thumbprint than the host's
	NoThumbprint    bool              // the lease tells none
	Faults          map[string]string // method: type of the fault it answers with
	HangMillis      map[string]int    // method: pause before the answer, after the work
	LateMillis      map[string]int    // method: pause before the work
	LoseAnswer      map[string]bool   // method: does its work, and the line breaks before the answer
	CPUs            int32             // what the server makes of the machine, instead of what was asked
	Firmware        string
	NoNetwork       bool
}

// Upload is one file that arrived.
type Upload struct {
	Name, Method, Type, Sha256, Host string
	Size, Promised                   int64
	Whole                            bool
}

type state struct {
	sync.Mutex
	behaviour Behaviour
	uploads   []Upload
	progress  []int32
	calls     map[string]int
	users     []string
	aborted   int
	round     int // of the tests: what an earlier one has left running does not count
	downUntil time.Time
	session   *simulator.Session
	leases    map[string]*simulator.HttpNfcLease
}

var (
	seen        = &state{calls: map[string]int{}, leases: map[string]*simulator.HttpNfcLease{}}
	methodName  = regexp.MustCompile(`<[A-Za-z]*:?Body>\s*<(?:[A-Za-z0-9]+:)?([A-Za-z_]+)`)
	leaseName   = regexp.MustCompile(`<returnval type="HttpNfcLease">([^<]+)<`)
	percentSaid = regexp.MustCompile(`<percent[^>]*>(\d+)</percent>`)
	firmwareSet = regexp.MustCompile(`vmw:key="firmware"\s+vmw:value="([a-z]+)"`)
	userSaid    = regexp.MustCompile(`<userName[^>]*>([^<]*)</userName>`)
)

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// Manager reads two things of a descriptor that govmomi 0.24 leaves out and a real server does not:
// the firmware, and thin disks. It also remembers the session, in which leases live.
type Manager struct {
	simulator.OvfManager
}

func (m *Manager) CreateImportSpec(ctx *simulator.Context, req *types.CreateImportSpec) soap.HasFault {
	seen.Lock()
	seen.session = ctx.Session
	seen.Unlock()
	body := m.OvfManager.CreateImportSpec(ctx, req)
	if body.Fault() != nil {
		return body
	}
	spec, ok := body.(*methods.CreateImportSpecBody).Res.Returnval.ImportSpec.(*types.VirtualMachineImportSpec)
	if !ok {
		return body
	}
	if found := firmwareSet.FindStringSubmatch(req.OvfDescriptor); found != nil {
		spec.ConfigSpec.Firmware = found[1]
	}
	for _, change := range spec.ConfigSpec.DeviceChange {
		disk, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		if flat, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			flat.ThinProvisioned = types.NewBool(req.Cisp.DiskProvisioning == "thin")
		}
	}
	return body
}

type server struct {
	mux       http.Handler
	hostAddr  string
	hostThumb string
	ownThumb  string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/control":
		control(w, r)
	case isDown():
		cut(w)
	case strings.HasPrefix(r.URL.Path, "/nfc/"):
		receive(w, r)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, "/sdk"):
		s.call(w, r)
	default:
		s.mux.ServeHTTP(w, r)
	}
}

func isDown() bool {
	seen.Lock()
	defer seen.Unlock()
	return time.Now().Before(seen.downUntil)
}

// cut ends the connection without an answer.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func behaviour() Behaviour {
	seen.Lock()
	defer seen.Unlock()
	return seen.behaviour
}

// call passes one SOAP request on, and notes, replaces or follows it up.
func (s *server) call(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	must(err)
	method := ""
	if found := methodName.FindSubmatch(body); found != nil {
		method = string(found[1])
	}
	note(method, body)
	now := behaviour()
	if fault, ok := now.Faults[method]; ok {
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprintf(w, soapFault, "told to fail", fault, fault)
		return
	}
	time.Sleep(time.Duration(now.LateMillis[method]) * time.Millisecond)
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := httptest.NewRecorder()
	s.mux.ServeHTTP(answer, r)
	if method == "ImportVApp" {
		s.imported(answer.Body.String(), now)
	}
	time.Sleep(time.Duration(now.HangMillis[method]) * time.Millisecond)
	if now.LoseAnswer[method] {
		cut(w)
		return
	}
	for key, values := range answer.Header() {
		w.Header()[key] = values
	}
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

const soapFault = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"
 xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><soapenv:Body><soapenv:Fault>
<faultcode>ServerFaultCode</faultcode><faultstring>%s</faultstring><detail>
<%sFault xmlns="urn:vim25" xsi:type="%s"></%[2]sFault></detail></soapenv:Fault></soapenv:Body></soapenv:Envelope>`

func note(method string, body []byte) {
	seen.Lock()
	defer seen.Unlock()
	seen.calls[method]++
	switch method {
	case "HttpNfcLeaseProgress":
		if found := percentSaid.FindSubmatch(body); found != nil {
			var percent int32
			_, _ = fmt.Sscan(string(found[1]), &percent)
			seen.progress = append(seen.progress, percent)
		}
	case "HttpNfcLeaseAbort":
		seen.aborted++
	case "Login":
		if found := userSaid.FindSubmatch(body); found != nil {
			seen.users = append(seen.users, string(found[1]))
		}
	}
}

// imported finds the new lease and machine, and makes them what the test wants.
func (s *server) imported(answer string, now Behaviour) {
	found := leaseName.FindStringSubmatch(answer)
	if found == nil {
		return
	}
	ref := types.ManagedObjectReference{Type: "HttpNfcLease", Value: found[1]}
	seen.Lock()
	lease, ok := seen.session.Get(ref).(*simulator.HttpNfcLease)
	seen.leases[ref.Value] = lease
	seen.Unlock()
	if !ok {
		log.Fatalf("no lease %s", ref.Value)
	}
	for i := range lease.Info.DeviceUrl {
		device := &lease.Info.DeviceUrl[i]
		device.SslThumbprint = s.ownThumb
		if now.SeparateHost {
			device.Url = strings.Replace(device.Url, "*", s.hostAddr, 1)
			device.SslThumbprint = s.hostThumb
		}
		if now.NoThumbprint {
			device.SslThumbprint = ""
		}
		if now.WrongThumbprint {
			device.SslThumbprint = strings.Repeat("AB:", 19) + "AB"
		}
	}
	if now.ReadyMillis > 0 {
		lease.State = types.HttpNfcLeaseStateInitializing
		time.AfterFunc(time.Duration(now.ReadyMillis)*time.Millisecond, func() {
			lease.State = types.HttpNfcLeaseStateReady
		})
	}
	vm := simulator.Map.Get(lease.Info.Entity).(*simulator.VirtualMachine)
	if now.CPUs > 0 {
		vm.Config.Hardware.NumCPU = now.CPUs
	}
	if now.Firmware != "" {
		vm.Config.Firmware = now.Firmware
	}
	if now.NoNetwork {
		for _, device := range vm.Config.Hardware.Device {
			if card, ok := device.(types.BaseVirtualEthernetCard); ok {
				card.GetVirtualEthernetCard().Backing = &types.VirtualEthernetCardNetworkBackingInfo{
					VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "none"},
				}
			}
		}
	}
}

// end puts every lease into the error state.
func end(fault types.BaseMethodFault, message string) {
	seen.Lock()
	defer seen.Unlock()
	for _, lease := range seen.leases {
		lease.State = types.HttpNfcLeaseStateError
		lease.Error = &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: message}
	}
	seen.behaviour.Faults = map[string]string{"HttpNfcLeaseProgress": "InvalidState"}
}

// markUplinks tags the port groups of a switch's own uplinks as vCenter does.
func markUplinks() {
	for _, entity := range simulator.Map.All("DistributedVirtualPortgroup") {
		if group := entity.(*simulator.DistributedVirtualPortgroup); strings.Contains(group.Name, "DVUplinks") {
			group.Tag = []types.Tag{{Key: "SYSTEM/DVS.UPLINKPG"}}
		}
	}
}

func main() {
	log.SetOutput(io.Discard)
	kind, user, password := os.Args[1], os.Args[2], os.Getenv("VCSIM_PASSWORD")
	model := simulator.VPX()
	if kind == "esx" {
		model = simulator.ESX()
	} else {
		model.Datacenter, model.Datastore, model.Pool = 1, 2, 1
	}
	must(model.Create())
	defer model.Remove()
	authority := certificate("p2v test CA", nil)
	own, host := certificate("vcsim", &authority), certificate("esxi", nil)

	// A pointer of its own: for its default login the simulator takes any password.
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword(user, password)}
	inner := model.Service.NewServer() // plain HTTP on a port that nobody is told
	defer inner.Close()
	markUplinks()
	manager := simulator.Map.Get(*simulator.Map.Get(vim25.ServiceInstance).(*simulator.ServiceInstance).Content.OvfManager).(*simulator.OvfManager)
	simulator.Map.Put(&Manager{*manager})

	apiListener, hostListener := listen(own), listen(host)
	s := &server{
		mux: model.Service.ServeMux, hostAddr: hostListener.Addr().String(),
		hostThumb: sha1Of(host), ownThumb: sha1Of(own),
	}
	quiet := log.New(io.Discard, "", 0)
	go func() {
		must((&http.Server{Handler: http.HandlerFunc(receive), ErrorLog: quiet}).Serve(hostListener))
	}()
	must(json.NewEncoder(os.Stdout).Encode(map[string]string{
		"address": apiListener.Addr().String(), "host": hostListener.Addr().String(),
		"ca":     string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]})),
		"sha256": sha256Of(own), "sha1": sha1Of(own),
	}))
	// Whoever started it holds stdin: without him there is no reason to run.
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		model.Remove()
		os.Exit(0)
	}()
	must((&http.Server{Handler: s, ErrorLog: quiet}).Serve(apiListener))
}
