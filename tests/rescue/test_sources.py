"""Which of a host's archives are Debian's own, in both forms that apt reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2v.errors import TargetError
from p2v.rescue.sources import Source, host_debian

BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_CODENAME=bookworm\nID=debian\n'
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DEB822 = f"""\
# The image's own
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
 bookworm-updates
Components: main non-free-firmware
Signed-By: {KEYRING}

Types: deb
URIs: http://deb.debian.org/debian-security
Suites: bookworm-security
Components: main
# a comment in between
Signed-By: {KEYRING}

Enabled: no
Types: deb
URIs: http://elsewhere/debian
Suites: bookworm
Components: main
"""
OTHERS = """\
Types: deb
URIs: https://apt.vendor.com
Suites: bookworm
Components: main
Signed-By: /usr/share/keyrings/vendor.gpg

Types: deb
URIs: https://deb.nodesource.com/node_20.x
Suites: nodistro
Components: main
"""
ONE_LINE = f"""\
# deb http://commented.out/debian bookworm main
deb [arch=amd64 signed-by={KEYRING}] http://ftp.de.debian.org/debian bookworm main contrib # nearby
deb http://security.debian.org/debian-security bookworm-security main
deb-src http://deb.debian.org/debian bookworm main
deb https://download.docker.com/linux/debian bookworm stable
deb cdrom:[Debian 12]/ bookworm main
"""


def host(root: Path, release: str = BOOKWORM, **files: str) -> Path:
    (root / "etc/apt/sources.list.d").mkdir(parents=True)
    (root / "etc/os-release").write_text(release)
    for name, text in files.items():
        (root / "etc/apt/sources.list.d" / name.replace("_", ".")).write_text(text)
    return root


def test_deb822(tmp_path: Path) -> None:
    found = host_debian(host(tmp_path, debian_sources=DEB822, vendor_sources=OTHERS))
    assert (found.codename, found.title) == ("bookworm", "Debian GNU/Linux 12 (bookworm)")
    parts = ("main", "non-free-firmware")
    assert found.sources == (
        Source("http://deb.debian.org/debian", "bookworm", parts, KEYRING),
        Source("http://deb.debian.org/debian", "bookworm-updates", parts, KEYRING),
        Source("http://deb.debian.org/debian-security", "bookworm-security", ("main",), KEYRING),
    )


def test_one_line(tmp_path: Path) -> None:
    found = host_debian(host(tmp_path, debian_list=ONE_LINE))
    assert [source.line() for source in found.sources] == [
        f"deb [signed-by={KEYRING}] http://ftp.de.debian.org/debian bookworm main contrib",
        "deb http://security.debian.org/debian-security bookworm-security main",
    ]


@pytest.mark.parametrize(
    "release",
    ['ID=ubuntu\nPRETTY_NAME="Ubuntu 24.04 LTS"\nVERSION_CODENAME=noble\n', "ID=debian\n", ""],
)
def test_another_host_is_told_where_it_can_be_built(tmp_path: Path, release: str) -> None:
    with pytest.raises(TargetError, match="is not Debian") as caught:
        host_debian(host(tmp_path, release, debian_sources=DEB822))
    assert "docker run" in caught.value.hint


def test_a_host_without_debians_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="no archive of Debian bookworm"):
        host_debian(host(tmp_path, vendor_sources=OTHERS))
