"""What goes wrong on the way: a clear error each time, and an inventory that is as it was before."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.errors import P2VError, TargetError, VerifyError
from p2v.model import MiB
from p2v.ui import UI
from p2v.vsphere.api import Unreachable
from p2v.vsphere.credentials import Secret
from p2v.vsphere.importer import import_machine
from p2v.vsphere.settings import Appliance, Placement
from p2v.vsphere.trust import CertificateRefused, with_colons
from tests.vsphere.appliances import make_appliance
from tests.vsphere.simulator import LIMITS, PASSWORD, SECRET, Simulator, running

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

Failing = Callable[..., P2VError]


@pytest.fixture
def failing(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI, stderr: io.StringIO
) -> Iterator[Failing]:
    """Imports, expects an error, and that the server holds nothing of it afterwards."""
    before = vcenter.inventory()

    def attempt(error: type[P2VError] = TargetError, match: str | None = None, **changes: object) -> P2VError:
        values: dict[str, object] = {
            "server": vcenter.server(), "secret": SECRET, "wished": place, "appliance": appliance,
        }  # fmt: skip
        with pytest.raises(error, match=match) as caught:
            import_machine(**{**values, "ui": ui, "limits": LIMITS, **changes})  # type: ignore[arg-type]
        found: P2VError = caught.value
        assert vcenter.inventory() == before
        assert "left behind" not in stderr.getvalue()
        assert PASSWORD not in f"{found!r} {found} {stderr.getvalue()}"
        return found

    yield attempt
    assert "Traceback" not in stderr.getvalue()


def test_a_wrong_password(failing: Failing, vcenter: Simulator) -> None:
    error = failing(match="Wrong user or password", secret=Secret("not this"))
    assert "not this" not in str(error)
    assert vcenter.seen()["calls"].get("ImportVApp") is None


def test_a_wrong_user(failing: Failing, vcenter: Simulator) -> None:
    error = failing(match="Wrong user or password", server=vcenter.server(user="root"))
    assert "vsphere.local" in error.hint


def test_a_certificate_that_nobody_vouches_for(failing: Failing, vcenter: Simulator) -> None:
    error = failing(CertificateRefused, match="not trusted", server=vcenter.server(ca_file=None))
    assert with_colons(vcenter.sha256) in error.hint
    assert vcenter.seen()["users"] is None


def test_a_certificate_for_another_name(failing: Failing, vcenter: Simulator) -> None:
    error = failing(CertificateRefused, match="not trusted", server=vcenter.server(host="localhost"))
    assert "localhost" in error.message


def test_a_wrong_thumbprint_counts_even_where_the_ca_is_trusted(failing: Failing, vcenter: Simulator) -> None:
    error = failing(CertificateRefused, server=vcenter.server(thumbprint="ab" * 32))
    assert with_colons(vcenter.sha256) in error.hint
    assert vcenter.seen()["users"] is None


@pytest.mark.parametrize("kind", ["sha256", "sha1"])
def test_the_right_thumbprint_needs_no_ca(failing: Failing, vcenter: Simulator, kind: str) -> None:
    """It gets as far as the password, which is asked for behind the certificate."""
    server = vcenter.server(ca_file=None, thumbprint=getattr(vcenter, kind))
    failing(match="Wrong user or password", server=server, secret=Secret("not this"))


def test_an_upload_host_that_is_not_the_one_of_the_lease(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(SeparateHost=True, WrongThumbprint=True)
    failing(CertificateRefused, match="AB:AB")
    assert vcenter.seen()["uploads"] is None


def test_a_datastore_that_fills_up(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(FullAfter=MiB)
    error = failing(match="not enough space on the datastore")
    assert "NoDiskSpace" in error.message
    assert vcenter.seen()["aborted"] >= 1


def test_an_upload_that_is_refused(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(RefuseAfter=MiB)
    failing(match="did not take web01-disk0.vmdk: 500")


def test_a_lease_that_an_administrator_ends_half_way(
    failing: Failing, vcenter: Simulator, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    vcenter.behave(AbortAfter=MiB, BytesPerSecond=8 * MiB)
    large = make_appliance(tmp_path, name=request.node.name[:70], sizes=(24 * MiB, 1))
    error = failing(match="canceled by a user", appliance=large)
    assert "RequestCanceled" in error.message
    upload = vcenter.first_upload()
    assert not upload["Whole"]
    assert MiB <= upload["Size"] < 20 * MiB


def test_a_line_that_breaks_and_comes_back(failing: Failing, vcenter: Simulator) -> None:
    """The machine is removed once the server can be reached again."""
    vcenter.behave(DropAfter=MiB, DownMillis=1500)
    failing(Unreachable, match="failed")
    assert vcenter.seen()["calls"]["Destroy_Task"] == 1


def test_an_answer_that_got_lost(failing: Failing, vcenter: Simulator) -> None:
    """The server has begun a machine of which we have no lease: it is found by its UUID."""
    vcenter.behave(LoseAnswer={"ImportVApp": True})
    failing(Unreachable)
    assert vcenter.seen()["calls"]["FindByUuid"] >= 1
    assert vcenter.seen()["calls"]["Destroy_Task"] == 1


def test_a_server_that_does_not_answer(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(HangMillis={"ImportVApp": 1500})
    failing(Unreachable, match="in time", limits=replace(LIMITS, call=0.5))


def test_a_machine_that_appears_after_we_gave_up(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(LateMillis={"ImportVApp": 1200})
    failing(Unreachable, match="in time", limits=replace(LIMITS, call=0.5))
    time.sleep(0.3)
    assert vcenter.seen()["calls"]["Destroy_Task"] == 1


def test_a_lease_that_is_never_ready(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(ReadyMillis=60_000)
    failing(match="within 1 s", limits=replace(LIMITS, ready=1))


def test_a_host_that_is_silent_after_the_last_byte(failing: Failing, vcenter: Simulator) -> None:
    vcenter.behave(BytesPerSecond=1_000_000)
    failing(Unreachable, match="in time", limits=replace(LIMITS, answer=0.3))


@pytest.mark.parametrize(
    ("method", "fault", "match"),
    [
        ("CreateImportSpec", "NotSupported", "read the OVF descriptor"),
        ("ImportVApp", "NoPermission", "privilege"),
        ("ImportVApp", "DuplicateName", "DuplicateName"),
        ("ImportVApp", "InsufficientResourcesFault", "InsufficientResources"),
        ("HttpNfcLeaseComplete", "InvalidState", "complete the import"),
        ("CreateContainerView", "RestrictedVersion", "license of this host"),
    ],
)
def test_a_refusal_of_each_step(
    failing: Failing, vcenter: Simulator, method: str, fault: str, match: str
) -> None:
    vcenter.behave(Faults={method: fault})
    failing(match=match)


def test_a_disk_that_is_not_the_one_that_was_written(failing: Failing, appliance: Appliance) -> None:
    other = replace(appliance.files[1], sha256="0" * 64)
    failing(VerifyError, appliance=replace(appliance, files=(appliance.files[0], other)))


def test_a_disk_that_shrinks_while_it_is_sent(
    failing: Failing, vcenter: Simulator, appliance: Appliance
) -> None:
    def shrink(_size: int) -> None:
        os.truncate(appliance.files[0].path, MiB)

    failing(match="became shorter", throttle=shrink)


def test_a_descriptor_that_makes_no_machine(failing: Failing, appliance: Appliance) -> None:
    broken = appliance.descriptor.replace("VirtualSCSI", "NoSuchController")
    error = failing(
        match="does not accept the OVF descriptor", appliance=replace(appliance, descriptor=broken)
    )
    assert "SCSI" in error.message


def test_ctrl_c_in_the_middle(
    vcenter: Simulator, appliance: Appliance, place: Placement, ui: UI, stderr: io.StringIO
) -> None:
    before = vcenter.inventory()
    vcenter.behave(BytesPerSecond=200_000)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        import_machine(vcenter.server(), SECRET, place, appliance, ui, limits=LIMITS)
    vcenter.behave()
    assert vcenter.inventory() == before
    assert "Removing" in stderr.getvalue()
    assert vcenter.seen()["aborted"] >= 1


def test_a_server_that_dies_is_told_and_what_may_be_left(
    tmp_path_factory: pytest.TempPathFactory,
    appliance: Appliance,
    place: Placement,
    ui: UI,
    stderr: io.StringIO,
) -> None:
    with running(tmp_path_factory.mktemp("dying")) as simulator:
        simulator.behave(ExitAfter=MiB)
        start = time.monotonic()
        with pytest.raises(Unreachable):
            import_machine(
                simulator.server(), SECRET, place, appliance, ui, limits=replace(LIMITS, cleanup=2)
            )
        assert time.monotonic() - start < 15
    assert "may have been left behind" in stderr.getvalue()
    assert appliance.machine.name in stderr.getvalue()


def test_a_port_where_no_vsphere_is(
    appliance: Appliance, place: Placement, ui: UI, vcenter: Simulator
) -> None:
    with pytest.raises(Unreachable, match="no vSphere server"):
        import_machine(
            vcenter.server(port=int(vcenter.host.rpartition(":")[2]), thumbprint=host_thumbprint(vcenter)),
            SECRET, place, appliance, ui, limits=LIMITS,
        )  # fmt: skip
    with pytest.raises(Unreachable, match="failed"):
        import_machine(vcenter.server(port=1), SECRET, place, appliance, ui, limits=LIMITS)


def host_thumbprint(vcenter: Simulator) -> str:
    """That of the second address, as OpenSSL sees it."""
    from p2v import command

    shown = command.run(
        ["openssl", "s_client", "-connect", vcenter.host], timeout=10, input_text=""
    ).stdout  # fmt: skip
    said = command.check(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256"],
        reason="read a certificate", timeout=10, input_text=shown,
    )  # fmt: skip
    return said.partition("=")[2].strip()
