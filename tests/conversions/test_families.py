"""Which family serves a system, by what systems of ten and more years say of themselves."""

from __future__ import annotations

import pytest

from conversions import family_of
from conversions.os_release import OS_RELEASE, RELEASE_FILES, identify
from p2v.transports import remote_inventory


@pytest.mark.parametrize(
    ("os_id", "like", "family"),
    [
        ("debian", "", "debian"),
        ("linuxmint", "ubuntu debian", "debian"),
        ("rocky", "rhel centos fedora", "redhat"),
        ("amzn", "fedora", "redhat"),
        ("ol", "fedora", "redhat"),
        ("sles", "suse", "suse"),
        ("opensuse-tumbleweed", "opensuse suse", "suse"),
        ("sles_sap", "", "suse"),
        ("manjaro", "arch", "arch"),
        ("alpine", "", "alpine"),
        ("void", "", "generic"),
        ("photon", "", "generic"),
        ("FreeBSD", "", ""),
        ("opnsense", "freebsd", ""),
        ("", "", ""),
    ],
)
def test_family_by_os_release(os_id: str, like: str, family: str) -> None:
    assert family_of(os_id, like) == family


@pytest.mark.parametrize(
    ("files", "os_id", "version", "family"),
    [
        ({"/etc/redhat-release": "CentOS release 6.10 (Final)\n"}, "centos", "6.10", "redhat"),
        (
            {"/etc/redhat-release": "Red Hat Enterprise Linux Server release 5.11 (Tikanga)\n"},
            "rhel",
            "5.11",
            "redhat",
        ),
        (
            {
                "/etc/oracle-release": "Oracle Linux Server release 6.9\n",
                "/etc/redhat-release": "Red Hat Enterprise Linux Server release 6.9 (Santiago)\n",
            },
            "ol",
            "6.9",
            "redhat",
        ),
        ({"/etc/system-release": "Amazon Linux AMI release 2013.03\n"}, "amzn", "2013.03", "redhat"),
        (
            {"/etc/SuSE-release": "SUSE Linux Enterprise Server 11 (x86_64)\nVERSION = 11\n"},
            "suse",
            "11",
            "suse",
        ),
        ({"/etc/debian_version": "6.0.10\n"}, "debian", "6.0.10", "debian"),
        ({"/etc/debian_version": "squeeze/sid\n"}, "debian", "", "debian"),
        (
            {
                "/etc/debian_version": "squeeze/sid\n",
                "/etc/lsb-release": "DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=10.04\n"
                'DISTRIB_DESCRIPTION="Ubuntu 10.04.4 LTS"\n',
            },
            "ubuntu",
            "10.04",
            "debian",
        ),
        ({"/etc/alpine-release": "3.4.6\n"}, "alpine", "3.4.6", "alpine"),
        ({"/etc/slackware-version": "Slackware 13.37.0\n"}, "slackware", "13.37.0", "generic"),
        (
            {"/usr/lib/os-release": "ID=arch\n", "/etc/debian_version": "7.1\n"},
            "arch",
            "",
            "arch",
        ),
    ],
)
def test_systems_without_os_release(files: dict[str, str], os_id: str, version: str, family: str) -> None:
    assert set(files) <= set(RELEASE_FILES)
    system = identify(lambda path: files.get(path, ""), architecture="x86_64", machine_id="")
    assert system is not None
    assert (system.id, system.version, system.family) == (os_id, version, family)
    assert len(system.name.split()) > 1 or os_id == "arch"


@pytest.mark.parametrize("content", ["", "\n\n", "\x1b[2J\n", "\0" * 10])
def test_a_system_that_says_nothing_is_none(content: str) -> None:
    files = {"/etc/redhat-release": content, "/etc/os-release": content}
    system = identify(lambda path: files.get(path, ""), architecture="x86_64", machine_id="")
    assert system is None or "\x1b" not in system.name


def test_a_title_is_bounded_and_printable() -> None:
    system = identify(
        lambda path: "CentOS \x1b]0;evil\x07" + "x" * 9000 if path == "/etc/redhat-release" else "",
        architecture="x86_64",
        machine_id="",
    )
    assert system is not None
    assert len(system.name) <= 200
    assert system.name.isprintable()


def test_a_running_machine_is_asked_for_the_same_files() -> None:
    assert set(remote_inventory.OLD_RELEASES) == set(RELEASE_FILES) - set(OS_RELEASE)


def test_a_card_without_an_address_of_its_own_has_none() -> None:
    assert remote_inventory.own_address("lo") == ""
    assert remote_inventory.own_address("p2v-no-such") == ""
