"""What may be chosen for the guest, decided before the first byte is copied."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from p2v.errors import PlanRefused, UsageError
from p2v.guest_wishes import clean_up, findings, nic_warnings, planned_nics, script_content, words
from p2v.job import Job, job_from_json, parse_removals
from p2v.journal import differences
from p2v.model import Choice, CleanUp, Nic, OperatingSystem, Plan, Removal, Script, Severity
from p2v.plan import Offer, Wishes, describe, make_plan
from p2v.targets import libvirt
from tests.conversions.machines import MACHINE

LINUX = replace(MACHINE, os=OperatingSystem("debian", "12", "Debian 12", "debian"))
WINDOWS = replace(MACHINE, os=OperatingSystem("windows", "10", "Windows Server 2019", "windows"))
A, B, C = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"


def chosen(script: Path | None = None, **changed: object) -> CleanUp:
    wishes = clean_up(remove=(), identity=Choice.KEEP, hostname="", first_boot=script, disable=())
    return replace(wishes, **changed)  # type: ignore[arg-type]


def test_cards_come_in_the_order_in_which_the_kernel_will_count_them() -> None:
    machine = replace(MACHINE, nics=(Nic("eth10", A), Nic("eth2", B), Nic("eth0", C)))
    assert [nic.source_name for nic in planned_nics(machine, Choice.KEEP)] == ["eth0", "eth2", "eth10"]
    assert [nic.mac for nic in planned_nics(machine, Choice.KEEP)] == [C, B, A]


def test_new_addresses_differ_from_the_old_and_are_the_same_each_time() -> None:
    machine = replace(MACHINE, nics=(Nic("eth0", A), Nic("eth1", B)))
    made = planned_nics(machine, Choice.NEW)
    assert made == planned_nics(machine, Choice.NEW)
    assert len({nic.mac for nic in made} | {A, B}) == 4
    assert all(nic.mac.startswith("52:54:00:") for nic in made)


def test_a_card_whose_address_nobody_knows_keeps_its_name() -> None:
    machine = replace(MACHINE, nics=(Nic("eth0", A), Nic("eth1", "")))
    first, second = planned_nics(machine, Choice.KEEP)
    assert (first.mac, second.source_name) == (A, "eth1")
    assert second.mac.startswith("52:54:00:")
    assert any("eth1" in warning for warning in nic_warnings(machine, Choice.KEEP))


def test_cards_of_one_address_are_a_warning_before_the_capture() -> None:
    machine = replace(MACHINE, nics=(Nic("eno1", A), Nic("eno2", A)))
    assert any("eno1, eno2" in warning for warning in nic_warnings(machine, Choice.KEEP))


def test_a_machine_without_known_cards_gets_one() -> None:
    machine = replace(MACHINE, nics=())
    assert len(planned_nics(machine, Choice.KEEP)) == 1
    assert list(nic_warnings(machine, Choice.KEEP))


@pytest.mark.parametrize("name", ["web 01", "-web", "web-", "a" * 64, "web_01", "../x", "web\nx", "a." * 130])
def test_a_host_name_that_is_none_is_refused(name: str) -> None:
    assert list(findings(MACHINE, chosen(hostname=name)))


@pytest.mark.parametrize("name", ["web01", "web-01.example.org", "a" * 63, "7"])
def test_a_host_name_is_taken(name: str) -> None:
    assert not list(findings(MACHINE, chosen(hostname=name)))


@pytest.mark.parametrize("service", ["dbus", "dbus.service", "systemd-udevd", "a b", "*", "../x", ""])
def test_a_service_that_makes_no_sense_is_refused(service: str) -> None:
    assert list(findings(MACHINE, chosen(disable=(service,))))


def test_choices_for_linux_are_refused_for_windows() -> None:
    machine = WINDOWS
    assert list(findings(machine, chosen(identity=Choice.NEW)))
    assert not list(findings(machine, chosen()))


def test_the_script_is_what_it_was_when_the_plan_was_made(tmp_path: Path) -> None:
    script = tmp_path / "first.sh"
    script.write_text("#!/bin/sh\ntrue\n")
    planned = chosen(script)
    assert script_content(planned) == b"#!/bin/sh\ntrue\n"
    script.write_text("#!/bin/sh\nfalse\n")
    with pytest.raises(PlanRefused, match="changed since"):
        script_content(planned)
    script.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        script_content(planned)


@pytest.mark.parametrize("content", [b"", b"echo no first line", b"#!/bin/sh\n" + b"#" * 300_000])
def test_a_script_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    script = tmp_path / "first.sh"
    script.write_bytes(content)
    with pytest.raises(UsageError, match="not a script"):
        chosen(script)


@pytest.mark.parametrize(
    "wishes",
    [
        CleanUp(remove=(Removal.HW_AGENTS,)),
        CleanUp(identity=Choice.NEW),
        CleanUp(hostname="web01"),
        CleanUp(disable=("smartd",)),
        CleanUp(first_boot=Script("/home/x/first.sh", "0")),
    ],
)
def test_what_a_windows_guest_cannot_be_given_is_refused(wishes: CleanUp) -> None:
    assert [finding.severity for finding in findings(WINDOWS, wishes)] == [Severity.BLOCKER]
    assert list(findings(LINUX, wishes)) == []


def test_tools_of_other_platforms_go_from_a_windows_guest_too() -> None:
    assert list(findings(WINDOWS, CleanUp(remove=(Removal.GUEST_TOOLS,)))) == []


def test_a_job_keeps_its_choices_in_the_journal(tmp_path: Path) -> None:
    job = Job(
        "ssh://x",
        ("libvirt",),
        tmp_path,
        mac=Choice.NEW,
        remove=(Removal.HW_AGENTS,),
        guest_identity=Choice.NEW,
        hostname="web01",
        first_boot=tmp_path / "x",
        disable_services=("smartd",),
    )
    assert job_from_json(job.to_json(), where=tmp_path) == job


def test_a_plan_says_what_was_chosen(tmp_path: Path) -> None:
    script = tmp_path / "first.sh"
    script.write_text("#!/bin/sh\n")
    wishes = chosen(script, remove=tuple(Removal), identity=Choice.NEW, hostname="web01", disable=("smartd",))
    lines = "\n".join(words(wishes))
    for part in ("old hardware", "other platforms", "machine-id", "web01", "first.sh", "smartd"):
        assert part in lines
    assert list(words(CleanUp())) == []


def test_removals_are_a_list_of_known_words() -> None:
    assert parse_removals("hw-agents, guest-tools") == (Removal.HW_AGENTS, Removal.GUEST_TOOLS)
    assert parse_removals("") == ()
    with pytest.raises(UsageError, match="everything"):
        parse_removals("everything")


def planned(**wishes: object) -> Plan:
    asked = Wishes("ssh://metal12", **wishes)  # type: ignore[arg-type]
    return make_plan(MACHINE, asked, [Offer(libvirt.PLATFORM, libvirt.check)], units=1)


def test_another_choice_is_another_plan() -> None:
    """A run is resumed with the plan that it was made with: a choice must be part of it."""
    plain = planned()
    assert plain.clean_up == CleanUp()
    for changed in (planned(clean_up=CleanUp(hostname="web01")), planned(macs=Choice.NEW)):
        assert differences(plain, changed)


def test_what_makes_no_sense_is_refused_before_anything_is_touched() -> None:
    with pytest.raises(PlanRefused, match=r"not a host name[\s\S]*does not boot"):
        planned(clean_up=CleanUp(hostname="no name", disable=("dbus",)))


def test_the_plan_is_printed_with_the_choices() -> None:
    assert "guest   host name web01" in describe(planned(clean_up=CleanUp(hostname="web01")), size="1 MiB")


def test_a_system_of_no_family_is_said_before_the_capture() -> None:
    void = replace(MACHINE, os=OperatingSystem("void", "", "Void Linux", "generic"))
    plan = make_plan(void, Wishes("ssh://x"), [Offer(libvirt.PLATFORM, libvirt.check)], units=1)
    assert any("Void Linux" in warning for warning in plan.warnings)
