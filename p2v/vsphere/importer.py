"""The import itself: log in, find the place, make the machine, upload its disks, look at what came of it."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from p2v.errors import P2VError, TargetError
from p2v.model import VirtualMachine
from p2v.ui import UI
from p2v.vsphere.api import asking, fault_text, vim, vmodl
from p2v.vsphere.checks import check
from p2v.vsphere.credentials import Ask, Secret, read_password
from p2v.vsphere.descriptor import Contents, Part, read_appliance
from p2v.vsphere.inventory import find_machine, quoted
from p2v.vsphere.lease import KeepAlive, Lease
from p2v.vsphere.placement import Place, find_place
from p2v.vsphere.readback import differences
from p2v.vsphere.removal import Begun, clean, remove_leftover
from p2v.vsphere.session import Session, open_session
from p2v.vsphere.settings import Appliance, Imported, Limits, Location, Needs, Placement, Server, Uploaded
from p2v.vsphere.spec import adjust
from p2v.vsphere.tasks import wait_for
from p2v.vsphere.upload import Address, send

LIMITS = Limits()

Throttle = Callable[[int], None]
"""`RateLimit.take`: waits until that many bytes may go."""


def password_of(server: Server, ask: Ask | None) -> Secret:
    """The password by its reference. Register its `value` with the log before it is used. UsageError."""
    return read_password(server.password, f"{server.user} on {server.host}", ask)


def check_placement(
    server: Server, secret: Secret, wished: Placement, needs: Needs, *, limits: Limits = LIMITS
) -> Location:
    """Whether a machine can be put there, before it is captured; nothing is changed on the server.

    Raises UsageError (CA file, thumbprint), PlanRefused (names, room), TargetError (certificate, login,
    server).
    """
    with open_session(server, secret, limits) as session:
        return check(session, find_place(session, wished, needs.networks), needs, wished)


def is_there(server: Server, secret: Secret, instance_uuid: str, *, limits: Limits = LIMITS) -> bool:
    """Whether a machine that was imported is still in the inventory. Raises UsageError, TargetError."""
    with open_session(server, secret, limits) as session:
        return find_machine(session, instance_uuid) is not None


def import_machine(
    server: Server,
    secret: Secret,
    wished: Placement,
    appliance: Appliance,
    ui: UI,
    *,
    throttle: Throttle | None = None,
    limits: Limits = LIMITS,
    instance_uuid: str = "",
) -> Imported:
    """Make the machine on the server and upload its disks; whatever interrupts that leaves nothing behind.

    With an `instance_uuid` the machine gets that one, and what an earlier, killed import with it has left is
    removed first.

    Raises as `check_placement` before the first byte, later TargetError and VerifyError. A machine that is
    complete stays: that it cannot be powered on, or differs from what was asked, is a warning.
    """
    contents = read_appliance(appliance)
    contents = replace(contents, needs=replace(contents.needs, own=instance_uuid))
    with open_session(server, secret, limits) as session:
        place = find_place(session, wished, contents.needs.networks)
        location = check(session, place, contents.needs, wished)
        ui.say(
            f"{session.product}: {appliance.machine.name} goes to {location.folder}, host {location.host}, "
            f"datastore {location.datastore}"
        )
        job = _Import(
            session=session,
            place=place,
            location=location,
            wished=wished,
            appliance=appliance,
            contents=contents,
            ui=ui,
            throttle=throttle,
            warnings=list(location.warnings),
            instance_uuid=instance_uuid or str(uuid.uuid4()),
        )
        return job.run()


@dataclass(slots=True, kw_only=True)
class _Import:
    """What the steps of one import share; `run` is the table of contents."""

    session: Session
    place: Place
    location: Location
    wished: Placement
    appliance: Appliance
    contents: Contents
    ui: UI
    throttle: Throttle | None
    instance_uuid: str
    warnings: list[str] = field(default_factory=list)

    @property
    def machine(self) -> VirtualMachine:
        return self.appliance.machine

    def run(self) -> Imported:
        remove_leftover(self.session, self.instance_uuid, self.ui)
        spec = self._make_spec()
        with self._removed_on_failure() as begun:
            lease = self._start(spec, begun)
            files = self._upload(lease, spec)
            lease.complete()
            powered_on = self.wished.power_on and self._power_on(lease.entity)
            self._compare(lease.entity)
        return Imported(
            name=self.machine.name,
            server=self.session.server.host,
            reference=str(lease.entity._moId),
            instance_uuid=self.instance_uuid,
            location=self.location,
            files=files,
            powered_on=powered_on,
            warnings=tuple(self.warnings),
        )

    def _make_spec(self) -> Any:
        """The server's reading of the descriptor. Raises TargetError where it does not accept it."""
        params = vim.OvfManager.CreateImportSpecParams(
            locale="",
            deploymentOption="",
            entityName=quoted(self.machine.name),
            hostSystem=self.place.host.ref,
            diskProvisioning=str(self.wished.provisioning),
            networkMapping=[
                vim.OvfManager.NetworkMapping(name=link.source, network=link.network.ref)
                for link in self.place.links
            ],
        )
        with asking("read the OVF descriptor"):
            spec = self.session.content.ovfManager.CreateImportSpec(
                self.appliance.descriptor, self.place.pool.ref, self.place.datastore.ref, params
            )
        if spec.error or not isinstance(spec.importSpec, vim.vm.VmImportSpec):
            said = "; ".join(fault_text(fault) for fault in spec.error) or "it makes no machine of it"
            raise TargetError(f"vSphere does not accept the OVF descriptor: {said}")
        self.warnings += [f"vSphere says of the OVF descriptor: {fault_text(item)}" for item in spec.warning]
        self.warnings += adjust(spec.importSpec.configSpec, self.machine, self.instance_uuid)
        return spec

    @contextlib.contextmanager
    def _removed_on_failure(self) -> Iterator[Begun]:
        """Whatever ends the block early, Ctrl-C too, removes the machine; the value holds its lease."""
        begun = Begun()
        try:
            yield begun
        except BaseException:
            what = f"{self.machine.name} in {self.location.folder} on {self.session.server.host}"
            self.ui.say(f"Removing what was begun of {what}")
            clean(self.session, begun, self.instance_uuid, self.ui, what)
            raise

    def _start(self, spec: Any, begun: Begun) -> Lease:
        begun.unsure = True
        with asking("begin the import"), _certain_about_faults(begun):
            ref = self.place.pool.ref.ImportVApp(spec.importSpec, self.place.folder.ref, self.place.host.ref)
        lease = Lease(self.session, ref)
        begun.lease, begun.unsure = lease, False
        lease.wait()
        return lease

    def _upload(self, lease: Lease, spec: Any) -> tuple[Uploaded, ...]:
        addresses = lease.addresses(spec.fileItem)
        parts = self.contents.parts
        for part in parts:
            if part.href not in addresses:
                raise TargetError(f"vSphere has no place for the disk {part.href} of the OVF descriptor")
        total = sum(part.size for part in parts)
        sent = _Counter(total)
        with (
            self.ui.phase("upload", total) as phase,
            KeepAlive(lease, sent.percent, self.session.limits.keep_alive) as alive,
        ):

            def took(size: int) -> None:
                alive.check()
                if self.throttle is not None:
                    self.throttle(size)
                sent.add(size)
                phase.advance(size)

            return tuple(self._send(part, addresses[part.href], lease, alive, took) for part in parts)

    def _send(
        self, part: Part, to: Address, lease: Lease, alive: KeepAlive, took: Callable[[int], None]
    ) -> Uploaded:
        """One disk. What the server says about the lease explains a failure better than the broken line."""
        try:
            return send(part, to, self.session.context, self.session.limits, took)
        except TargetError as error:
            alive.check()
            reason = lease.reason()
            if reason and reason not in error.message:
                raise TargetError(f"{reason} ({error.message})", hint=error.hint) from error
            raise

    def _power_on(self, entity: Any) -> bool:
        """A machine that took hours to upload is not thrown away because nothing can run it now."""
        try:
            with asking("power the machine on"):
                wait_for(self.session, entity.PowerOnVM_Task(None), "power the machine on")
        except TargetError as error:
            self.warnings.append(f"the machine is complete, but not powered on: {error.message}")
            return False
        return True

    def _compare(self, entity: Any) -> None:
        try:
            self.warnings += differences(
                self.session,
                entity,
                self.machine,
                needs=self.contents.needs,
                place=self.place,
                wished=self.wished,
            )
        except P2VError as error:
            self.warnings.append(f"the machine is complete, but could not be looked at: {error.message}")


@contextlib.contextmanager
def _certain_about_faults(begun: Begun) -> Iterator[None]:
    """A server that refuses has begun nothing; only a lost answer leaves that open."""
    try:
        yield
    except vmodl.MethodFault:
        begun.unsure = False
        raise


class _Counter:
    """Bytes sent so far, for two threads."""

    def __init__(self, total: int) -> None:
        self._total = max(total, 1)
        self._sent = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        with self._lock:
            self._sent += size

    def percent(self) -> int:
        """0 to 99: a lease at 100 looks as if it were done."""
        with self._lock:
            return min(99, self._sent * 100 // self._total)
