"""What is asked of the appliance to make volumes fit, by what LVM says there; real ones: tests/restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from p2v.errors import GuestError
from p2v.guest import Guest
from p2v.guest_resize import grow, shrink
from p2v.model import MiB

DEVICE = "/dev/sda2"


class Appliance:
    """A handle that writes down what it is asked; LVM's answers are given."""

    def __init__(self, *, allocated: int, segments: str, sizes: dict[str, tuple[int, int]]) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.allocated = allocated
        self.segments = segments
        self.volumes = sizes

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*arguments: Any, **options: Any) -> None:
            self.asked.append((name, *arguments, *options.values()))

        return call

    def debug(self, subcommand: str, words: list[str]) -> str:
        assert subcommand == "sh"
        command = words[0]
        if "--segments" in command:
            return self.segments
        if "pv_pe_count" in command:
            return f"  1048576 4194304 100 {self.allocated}\n"
        if "-o vg_name" in command:
            return "  metal\n"
        self.asked.append(("sh", command))
        if "lvreduce" in command:
            self.allocated -= 20
        return ""

    def lvs(self) -> list[str]:
        return [*self.volumes, "/dev/other/root"]

    def blockdev_getsize64(self, device: str) -> int:
        return self.volumes[device][0]

    def vfs_minimum_size(self, device: str) -> int:
        return self.volumes[device][1]


class Opened:
    """As much of a Guest as is needed."""

    def __init__(self, handle: Appliance, kinds: dict[str, str]) -> None:
        self.handle = handle
        self.kinds = kinds

    def as_guest(self) -> Guest:
        return cast(Guest, self)

    def on_device(self, what: str, work: Callable[[Appliance], Any], *, seconds: float = 1.0) -> Any:
        assert what
        assert seconds > 0
        return work(self.handle)

    def kind(self, device: str) -> str:
        return self.kinds[device]


def opened(allocated: int = 40, segments: str = "  0 40 linear\n  40 60 free\n", **kinds: str) -> Opened:
    known = {f"/dev/metal/{name}": kind for name, kind in kinds.items()}
    sizes = dict.fromkeys(known, (200 * MiB, 60 * MiB))
    return Opened(Appliance(allocated=allocated, segments=segments, sizes=sizes), known)


def shrunk(guest: Opened, extents: int, root: str = "") -> list[tuple[Any, ...]]:
    shrink(guest.as_guest(), DEVICE, "LVM2_member", MiB + extents * 4 * MiB + MiB, root)
    return guest.handle.asked


def test_free_extents_at_the_end_just_go() -> None:
    assert shrunk(opened(root="ext4"), 60) == [("pvresize_size", DEVICE, MiB + 60 * 4 * MiB)]


def test_extents_behind_the_new_end_move_before_it() -> None:
    guest = opened(segments="  0 20 linear\n  20 60 free\n  80 20 linear\n", root="ext4")
    moved, resized = shrunk(guest, 60)
    assert moved == ("sh", f"lvm pvmove --alloc anywhere {DEVICE}:60-99 {DEVICE}:0-59")
    assert resized[0] == "pvresize_size"


def test_a_volume_gives_what_is_missing_the_systems_own_first() -> None:
    guest = opened(allocated=80, home="ext4", root="ext4", swap="swap")
    asked = shrunk(guest, 60, "/dev/metal/root")
    smaller = 200 * MiB - 20 * 4 * MiB
    assert ("resize2fs_size", "/dev/metal/root", smaller) in asked
    assert ("sh", f"lvm lvreduce --force --yes --size {smaller}b /dev/metal/root") in asked
    assert asked.index(("resize2fs_size", "/dev/metal/root", smaller)) < len(asked) - 2


def test_xfs_cannot_and_the_next_one_does() -> None:
    asked = shrunk(opened(allocated=80, root="xfs", home="ext4"), 60, "/dev/metal/root")
    assert any(words[0] == "resize2fs_size" and words[1] == "/dev/metal/home" for words in asked)


@pytest.mark.parametrize(("allocated", "kinds"), [(80, {"root": "xfs"}), (95, {"root": "ext4"})])
def test_where_none_can_nothing_is_touched(allocated: int, kinds: dict[str, str]) -> None:
    guest = opened(allocated=allocated, **kinds)
    with pytest.raises(GuestError, match="can be made smaller"):
        shrunk(guest, 60)
    assert guest.handle.asked == []


@pytest.mark.parametrize("segments", ["nonsense\n", "  0\n", "  0 x linear\n"])
def test_an_answer_of_another_form_is_an_error(segments: str) -> None:
    with pytest.raises(GuestError, match="could not be looked at"):
        shrunk(opened(segments=segments, root="ext4"), 60)


def test_a_name_that_is_none_never_reaches_a_shell() -> None:
    with pytest.raises(GuestError, match="no name of a device"):
        shrink(opened().as_guest(), "/dev/sda2;reboot", "LVM2_member", 100 * MiB)


def test_a_group_without_the_system_gets_free_space() -> None:
    guest = opened(data="ext4")
    (warning,) = grow(guest.as_guest(), DEVICE, "LVM2_member", "/dev/other/root")
    assert "free space" in warning
    assert guest.handle.asked == [("pvresize", DEVICE)]


def test_the_volume_of_the_system_grows_and_what_is_on_it() -> None:
    guest = opened(root="ext4")
    assert grow(guest.as_guest(), DEVICE, "LVM2_member", "/dev/metal/root") == ()
    assert [words[0] for words in guest.handle.asked] == [
        "pvresize",
        "lvresize_free",
        "e2fsck_f",
        "resize2fs",
    ]


@pytest.mark.parametrize("kind", ["xfs", "vfat", ""])
def test_what_cannot_shrink_is_not_tried(kind: str) -> None:
    guest = opened()
    with pytest.raises(GuestError, match="cannot get another size"):
        shrink(guest.as_guest(), DEVICE, kind, 100 * MiB)
    assert guest.handle.asked == []
