"""Registry hives through the door: what is written is what others read, and damage is an error, never more.

The fuzzed hives go to hivex itself: whatever its process comes to, this one lives and says GuestError.
"""

from __future__ import annotations

import random
import resource
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conversions.nt.registry import Value, binary, dword, expand_sz, multi_sz, sz
from fixtures.windows.hive import editing, empty_hive
from p2v import hives
from p2v.errors import GuestError
from p2v.hives import FolderHives, OpenHive, check_hive
from tests.registries import listing, read_key

pytestmark = pytest.mark.tools

SEED = 20261123
MUTATIONS = 1000
DEEP = "A\\B\\C\\D\\E\\F\\G\\H"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A hive with keys, lists of several kinds, and values of all lengths."""
    place = tmp_path_factory.mktemp("hive") / "SOUND"
    place.write_bytes(empty_hive())
    with editing(place) as registry:
        registry.set("Select", Current=1, Default=1)
        registry.set(DEEP, Text="Grüße", Path="%SystemRoot%\\x", List=["a", "b"], Long=bytes(range(256)) * 40)
        for number in range(300):
            registry.set(f"ControlSet001\\Services\\driver{number}", Start=number % 4, Type=1)
    return place.read_bytes()


def walk(hive: OpenHive, key: str = "", depth: int = 0) -> int:
    """Look at everything, as a conversion might; how many keys there are."""
    for value in hive.values(key):
        value.shown()
    return 1 + sum(walk(hive, f"{key}\\{name}" if key else name, depth + 1) for name in hive.keys(key))


def test_what_is_written_is_what_others_read(sound: bytes, tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(sound)
    with FolderHives(tmp_path).edit("/SYSTEM") as hive:
        hive.set("Neu\\Key", sz("Name", "Grüße"))
        hive.set("Neu\\Key", sz("Other", "Ωmega 日本"))
        hive.set("Neu\\Key", expand_sz("Pfad", "%SystemRoot%\\inf;C:\\x"))
        hive.set("Neu\\Key", multi_sz("Liste", ["eins", "zwei"]))
        hive.set("Neu\\Key", binary("Bytes", b"\x01\xff\x00\x00"))
        hive.set("Neu\\Key", Value("leer", 0, b""))
        hive.set("Neu\\Key", Value("", 0xFFFF0012, "x\0".encode("utf-16-le")))
        hive.set("controlset001\\services\\DRIVER7", dword("start", 0))
        hive.remove_key("ControlSet001\\Services\\driver8")
        hive.remove_value("A\\B\\C\\D\\E\\F\\G\\H", "LIST")
    made = read_key(tmp_path / "SYSTEM", "Neu\\Key")
    assert made is not None
    assert made.values["name"] == "Grüße"
    assert "Ωmega 日本\0".encode("utf-16-le") in (tmp_path / "SYSTEM").read_bytes()
    assert list(made.values["liste"]) == ["eins", "zwei"]
    assert bytes(made.values["bytes"]) == b"\x01\xff\x00\x00"
    found = listing(tmp_path / "SYSTEM")
    assert found["neu\\key", ""][0] == "0xFFFF0012"
    assert found["neu\\key", "leer"][0] == "NONE"
    assert found["controlset001\\services\\driver7", "start"] == ("DWORD", "0x00000000")
    assert ("controlset001\\services\\driver8", None) not in found
    left = read_key(tmp_path / "SYSTEM", DEEP)
    assert left is not None
    assert left.values.keys() == {"text", "path", "long"}
    assert len(left.values["long"]) == 10240


def test_nothing_is_written_that_was_not_changed_or_that_failed(sound: bytes, tmp_path: Path) -> None:
    place = tmp_path / "SYSTEM"
    place.write_bytes(sound)
    opener = FolderHives(tmp_path)
    with opener.edit("SYSTEM") as hive:
        assert hive.value("select", "CURRENT") == dword("Current", 1)
        assert hive.keys("No\\Such") == ()
        assert hive.values("No\\Such") == ()
        assert hive.value("No\\Such", "x") is None
        hive.remove_key("No\\Such")
        hive.remove_value("Select", "x")
    with opener.read("SYSTEM") as hive:
        hive.set("Select", dword("Current", 9))
    with pytest.raises(ZeroDivisionError), opener.edit("SYSTEM") as hive:
        _set_and_fail(hive)
    assert place.read_bytes() == sound


def _set_and_fail(hive: OpenHive) -> None:
    hive.set("Select", dword("Current", 9))
    raise ZeroDivisionError


def test_a_key_that_windows_would_not_find_is_not_made(sound: bytes, tmp_path: Path) -> None:
    """hivex writes another hash for it than Windows, by which dissect.regf finds nothing."""
    (tmp_path / "SYSTEM").write_bytes(sound)
    with pytest.raises(GuestError, match="cannot be made"), FolderHives(tmp_path).edit("SYSTEM") as hive:
        hive.set("Neu\\Schlüssel", dword("x", 1))
    assert (tmp_path / "SYSTEM").read_bytes() == sound


def test_a_hive_that_waits_for_its_log_is_refused_with_what_mends_it(sound: bytes) -> None:
    dirty = bytearray(sound)
    struct.pack_into("<I", dirty, 4, struct.unpack_from("<I", dirty, 4)[0] + 1)
    _put_checksum(dirty)
    with pytest.raises(GuestError, match="log files do not") as refused:
        check_hive(bytes(dirty), "SYSTEM")
    assert "shutdown /s /t 0" in (refused.value.hint or "")
    torn = bytearray(sound)
    torn[48] ^= 1  # the name in the base block: the checksum is over it
    with pytest.raises(GuestError, match="log files do not"):
        check_hive(bytes(torn), "SYSTEM")


@pytest.mark.parametrize("length", [0, 3, 512, 4095, 4096, 5000, 8191])
def test_cut_short(sound: bytes, length: int) -> None:
    with pytest.raises(GuestError):
        check_hive(sound[:length], "SYSTEM")


def test_no_hive_at_all(tmp_path: Path) -> None:
    (tmp_path / "SYSTEM").write_bytes(b"MZ" + bytes(8190))
    with pytest.raises(GuestError, match="no registry hive"), FolderHives(tmp_path).read("SYSTEM"):
        pass
    with pytest.raises(GuestError, match="NONE"), FolderHives(tmp_path).read("NONE"):
        pass


def test_a_child_that_dies_is_an_error_of_the_guest(
    sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SYSTEM").write_bytes(sound)
    monkeypatch.setattr(hives, "CHILD", tmp_path / "child.py")
    (tmp_path / "child.py").write_text("import os; os.abort()")
    with pytest.raises(GuestError, match="gave up"), FolderHives(tmp_path).read("SYSTEM"):
        pass


def test_a_child_that_never_answers_is_ended(
    sound: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "SYSTEM").write_bytes(sound)
    monkeypatch.setattr(hives, "CHILD", tmp_path / "child.py")
    monkeypatch.setattr(hives, "CALL_SECONDS", 0.5)
    (tmp_path / "child.py").write_text("import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(GuestError, match="no answer"), FolderHives(tmp_path).read("SYSTEM"):
        pass
    assert time.monotonic() - started < 15


def test_keys_in_a_circle_have_an_end(sound: bytes, tmp_path: Path) -> None:
    """The list of a deep key leads back to a key above it."""
    hive = bytearray(sound)
    keys = {name: _cell(hive, name) for name in (b"A", b"H")}
    lists = {name: struct.unpack_from("<I", hive, at + 28)[0] for name, at in keys.items()}
    struct.pack_into("<I", hive, keys[b"H"] + 20, 1)  # one subkey
    struct.pack_into("<I", hive, keys[b"H"] + 28, lists[b"A"])  # the list of A
    (tmp_path / "SYSTEM").write_bytes(hive)
    with pytest.raises(GuestError, match="damaged"), FolderHives(tmp_path).read("SYSTEM") as opened:
        walk(opened)


def _cell(hive: bytearray, name: bytes) -> int:
    """Where the key with this name begins: behind `nk`, flags, …, 76 bytes, comes the name."""
    at = hive.find(b"nk")
    while at > 0:
        length = struct.unpack_from("<H", hive, at + 72)[0]
        if hive[at + 76 : at + 76 + length] == name:
            return at
        at = hive.find(b"nk", at + 1)
    raise AssertionError(name)


def test_a_value_of_gigabytes_takes_no_memory(sound: bytes, tmp_path: Path) -> None:
    hive = bytearray(sound)
    at = hive.find(b"vk")
    changed = 0
    while at > 0:
        if struct.unpack_from("<I", hive, at + 4)[0] & 0x7FFFFFFF > 1000:
            struct.pack_into("<I", hive, at + 4, 0x7FFFFFF0)
            changed += 1
        at = hive.find(b"vk", at + 1)
    assert changed
    (tmp_path / "SYSTEM").write_bytes(hive)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GuestError), FolderHives(tmp_path).read("SYSTEM") as opened:
        walk(opened)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_thousand_damaged_hives_are_errors_or_right(sound: bytes, tmp_path: Path) -> None:
    """Cut short, bytes and numbers changed, parts copied over others; with the checksum put right."""
    chance = random.Random(SEED)
    damaged = [mutated(sound, chance) for _ in range(MUTATIONS)]
    folders = [tmp_path / f"{number}" for number in range(MUTATIONS)]
    with ThreadPoolExecutor(4) as pool:
        refused = sum(pool.map(is_refused, damaged, folders))
    assert MUTATIONS // 10 < refused < MUTATIONS  # neither is everything refused, nor is nothing seen


def is_refused(content: bytes, folder: Path) -> bool:
    folder.mkdir()
    (folder / "SYSTEM").write_bytes(content)
    try:
        with FolderHives(folder).edit("SYSTEM") as hive:
            assert walk(hive) > 0
            hive.set("ControlSet001\\Services\\driver7", dword("Start", 0))
            hive.remove_key("ControlSet001\\Services\\driver9")
    except GuestError:
        return True
    finally:
        (folder / "SYSTEM").unlink()
    return False


def mutated(hive: bytes, chance: random.Random) -> bytes:
    changed = bytearray(hive)
    for _ in range(chance.choice((1, 1, 2, 8, 40))):
        at = chance.randrange(4096, len(changed) - 8)
        match chance.randrange(5):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                struct.pack_into("<I", changed, at & ~3, chance.choice((0, 1, 0x20, 0xFFFFFFFF, 0x7FFFFFFF)))
            case 2:
                source = chance.randrange(4096, len(changed) - 64)
                changed[at : at + 32] = changed[source : source + len(changed[at : at + 32])]
            case 3:
                struct.pack_into("<I", changed, at & ~3, chance.randrange(0, len(changed), 8))
            case _:
                changed = (
                    changed[: chance.randrange(4096, len(changed))] if chance.random() < 0.1 else changed
                )
                if len(changed) <= 4200:
                    break
    _put_checksum(changed)
    return bytes(changed)


def _put_checksum(hive: bytearray) -> None:
    """Of the base block: the exclusive or of its first 127 numbers."""
    total = 0
    for number in struct.unpack_from("<127I", hive, 0):
        total ^= number
    struct.pack_into("<I", hive, 508, total)
