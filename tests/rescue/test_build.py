"""What is refused before anything is built, and that a failure leaves no half-made image behind."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from p2v.errors import TargetError, UsageError
from p2v.rescue import base, build, recipe
from p2v.rescue.base import Base, install_command, key_of, take, tree_archive
from p2v.rescue.build import Order, output_places
from p2v.rescue.keys import PublicKey
from p2v.rescue.recipe import TreeFile
from p2v.rescue.sources import Debian, Source
from p2v.ui import UI, ProgressStyle

KEY = PublicKey("ssh-ed25519 AAAA one@desk", "SHA256:abc", "one@desk")
DEBIAN = Debian("bookworm", "Debian 12", (Source("http://deb.debian.org/debian", "bookworm", ("main",)),))
QUIET = UI(style=ProgressStyle.NONE)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": Path("rescue.img")}, r"does not end in \.iso"),
        ({"address": "10.1.2.3/40"}, "10.1.2.3/40"),
        ({"address": "10.1.2.3"}, "10.1.2.3"),
        ({"packages": ("--hook=evil",)}, "not the name of a Debian package"),
        ({"packages": ("a,b",)}, "not the name of a Debian package"),
    ],
)
def test_slips_of_the_pen(change: dict[str, object], said: str, tmp_path: Path) -> None:
    fields: dict[str, object] = {"output": tmp_path / "x.iso", "keys": (KEY,), **change}
    with pytest.raises(UsageError, match=said):
        build.build_rescue(Order(**fields), tmp_path / "cache", QUIET)  # type: ignore[arg-type]
    assert not (tmp_path / "cache").exists()


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Base:
    """A system in the cache, as small as can be."""
    folder = tmp_path / "base"
    (folder / "loader").mkdir(parents=True)
    for name in ("vmlinuz", "initrd"):
        (folder / name).write_bytes(name.encode())
    made = Base(folder / "vmlinuz", folder / "initrd", folder / "loader", "6.1.0-1-amd64")
    monkeypatch.setattr(build, "host_debian", lambda: DEBIAN)
    monkeypatch.setattr(build, "IsoTools", object)
    monkeypatch.setattr(build, "make_base", lambda *_args, **_options: made)
    monkeypatch.setattr(build, "write_iso", lambda _base, initrd, output, _tools: copy(initrd, output))
    return made


def copy(source: Path, place: Path) -> None:
    place.write_bytes(source.read_bytes())


def test_all_three_files_and_their_digests(system: Base, tmp_path: Path) -> None:
    order = Order(tmp_path / "out/p2v.iso", (KEY,), address="10.1.2.3/24")
    made = build.build_rescue(order, tmp_path / "cache", QUIET)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "p2v.initrd",
        "p2v.iso",
        "p2v.vmlinuz",
    ]
    initrd = Path(made.initrd.path).read_bytes()
    assert initrd.startswith(b"initrd")
    assert b"ssh-ed25519 AAAA one@desk\n" in initrd
    assert b"ip=10.1.2.3/24\n" in initrd
    assert (made.initrd.size, made.version, made.keys) == (
        len(initrd),
        "6.1.0-1-amd64",
        ("SHA256:abc one@desk",),
    )


def test_a_failure_leaves_the_image_of_before(
    system: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = Order(tmp_path / "p2v.iso", (KEY,))
    for place in output_places(order.output):
        place.write_bytes(b"before")

    def fail(_base: Base, _initrd: Path, output: Path, _tools: object) -> None:
        output.write_bytes(b"half")
        raise TargetError("xorriso failed")

    monkeypatch.setattr(build, "write_iso", fail)
    with pytest.raises(TargetError, match="xorriso"):
        build.build_rescue(order, tmp_path / "cache", QUIET)
    assert [place.read_bytes() for place in output_places(order.output)] == [b"before"] * 3
    assert not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_written_is_a_clear_error(system: Base, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TargetError, match="file"):
        build.build_rescue(Order(tmp_path / "file/p2v.iso", (KEY,)), tmp_path / "cache", QUIET)


def test_what_is_taken_out_of_the_tree_stays_in_its_folder(tmp_path: Path) -> None:
    archive = tmp_path / "taken.tar"
    with tarfile.open(archive, "w") as made:
        for name in ("../escaped", "/absolute", "p2v-build/vmlinuz"):
            entry = tarfile.TarInfo(name)
            entry.size = 4
            made.addfile(entry, io.BytesIO(b"data"))
        link = tarfile.TarInfo("p2v-build/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc"
        made.addfile(link)
        made.addfile(tarfile.TarInfo("p2v-build/link/passwd"), io.BytesIO(b""))
    take(archive, tmp_path / "out")
    assert (tmp_path / "out/p2v-build/vmlinuz").read_bytes() == b"data"
    assert not (tmp_path / "escaped").exists()
    assert not (tmp_path / "out/p2v-build/link").is_symlink()
    assert not Path("/absolute").exists()


def test_the_tree_gets_its_files_as_roots() -> None:
    with tarfile.open(
        fileobj=io.BytesIO(tree_archive([TreeFile("a/b", b"text"), TreeFile("c", link="d")]))
    ) as made:
        first, second = made.getmembers()
    assert (first.name, first.uid, first.gid, first.mode) == ("a/b", 0, 0, 0o644)
    assert (second.issym(), second.linkname) == (True, "d")


def test_everything_that_would_use_a_disk_is_off() -> None:
    files = {file.path: file for file in recipe.tree_files("Debian 12")}
    for name in ("etc/udev/rules.d/69-lvm.rules", "etc/udev/rules.d/64-md-raid-assembly.rules"):
        assert files[name].link == "/dev/null"
    assert files["etc/systemd/system-generators/systemd-gpt-auto-generator"].link == "/dev/null"
    assert files["etc/fstab"].content == b""
    assert b"PasswordAuthentication no" in files["etc/ssh/sshd_config"].content


def test_the_cache_knows_what_goes_in() -> None:
    other = Debian("bookworm", "Debian 12", ())
    keys = {key_of(DEBIAN, ()), key_of(DEBIAN, ("firmware-bnx2",)), key_of(other, ())}
    assert len(keys) == 3
    assert key_of(DEBIAN, ("a1", "b1")) == key_of(DEBIAN, ("b1", "a1"))


def test_paths_of_hooks_survive_a_shell(tmp_path: Path) -> None:
    place = tmp_path / "a b; c"
    argv = install_command("mmdebstrap", "mksquashfs", ("extra",), given=place, taken=place)
    hooks = [word for word in argv if word.startswith("--customize-hook=tar")]
    assert all(f"'{place}'" in hook for hook in hooks)
    assert any(word.startswith("--include=") and ",extra," in word for word in argv)


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("p2v.command.find_tool", lambda _name: None)
    with pytest.raises(TargetError, match="mmdebstrap") as caught:
        base.make_base(DEBIAN, (), tmp_path, QUIET, anew=False)
    assert caught.value.hint == "Try: sudo apt install mmdebstrap"
