"""Words of the kernel command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversions.cmdline import has_serial, rewrite_devices, with_serial
from conversions.devices import device_names
from tests.conversions.machines import MACHINE, ROOT_UUID, SWAP_UUID

NAMES = device_names(MACHINE)
WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["root=/dev/sda1", "resume=/dev/sda2", "ro", "quiet", "console=tty1", "root=/dev/sdx1"]
        ),
        st.text(alphabet="abc=/.,:0\"'$", min_size=1, max_size=12),
    )
).map(" ".join)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("root=/dev/sda1 ro  quiet ", f"root=UUID={ROOT_UUID} ro  quiet "),
        ("ro resume=/dev/sda2", f"ro resume=UUID={SWAP_UUID}"),
        ("root=LABEL=/ ro", "root=LABEL=/ ro"),
        ("root=/dev/mapper/vg-root", "root=/dev/mapper/vg-root"),
        ("rootflags=data=/dev/sda1 xroot=/dev/sda1", "rootflags=data=/dev/sda1 xroot=/dev/sda1"),
        ("root=/dev/sda11", "root=/dev/sda11"),
    ],
)
def test_devices(text: str, expected: str) -> None:
    assert rewrite_devices(text, NAMES).text == expected


def test_an_unknown_device_is_said() -> None:
    assert "/dev/sdb7" in rewrite_devices("root=/dev/sdb7", NAMES).warnings[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "console=tty0 console=ttyS0,115200n8"),
        ("ro quiet ", "ro quiet console=tty0 console=ttyS0,115200n8"),
        ("console=tty1", "console=tty1 console=ttyS0,115200n8"),
        ("console=ttyS1,57600", "console=ttyS1,57600 console=ttyS0,115200n8"),
        ("console=ttyS0,9600 ro", "console=ttyS0,9600 ro"),
        ("console=ttyS0", "console=ttyS0"),
    ],
)
def test_console(text: str, expected: str) -> None:
    assert with_serial(text) == expected


@given(WORDS)
def test_both_edits_are_idempotent_and_keep_all_other_words(text: str) -> None:
    once = with_serial(rewrite_devices(text, NAMES).text)
    assert with_serial(rewrite_devices(once, NAMES).text) == once
    assert has_serial(once)
    kept = [word for word in text.split() if not word.startswith(("root=/dev/sda", "resume=/dev/sda"))]
    assert [word for word in once.split() if word in kept][: len(kept)] == kept
