"""What the script for Windows is made of, what it tells of a machine, and what is believed of it."""

from __future__ import annotations

import base64
import copy
import hashlib
import random
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
import tree_sitter
import tree_sitter_powershell

from p2v.disk.device import BlockRequest
from p2v.errors import TransportError
from p2v.grades import choose_consistency
from p2v.model import Consistency, ConsistencyWish, Disk, Firmware, Nic, ProductType, Severity
from p2v.transports import frames
from p2v.transports.frames import Codec, Op, Status
from p2v.transports.reader_client import ReaderClient
from p2v.transports.windows import BOOTSTRAP, COMMAND_LIMIT, SCRIPT, command, require_able, whole_script
from p2v.transports.windows_inventory import parse_inventory
from p2v.transports.windows_shadows import ShadowClient, WindowsGuard
from tests.transports.test_reader import Canned, hello_of
from tests.transports.windows_source import recorded

FOLDER = Path(__file__).parents[2] / "p2v/transports"
MACHINES = ("windows10_uefi", "windows7_bios", "server2019_raid")


def parsed(script: bytes) -> tree_sitter.Node:
    language = tree_sitter.Language(tree_sitter_powershell.language())
    return tree_sitter.Parser(language).parse(script).root_node


def nodes(node: tree_sitter.Node) -> list[tree_sitter.Node]:
    return [node, *(below for child in node.children for below in nodes(child))]


def table() -> dict[str, int]:
    """The constants of the script, as a PowerShell parser sees them."""
    found = {}
    for node in nodes(parsed((FOLDER / SCRIPT).read_bytes())):
        if node.type == "assignment_expression" and (node.text or b"").startswith(b"$Frames"):
            for entry in (one for one in nodes(node) if one.type == "hash_entry"):
                name, _, value = (entry.text or b"").decode().partition(" = ")
                found[name] = int(value)
    return found


@pytest.mark.parametrize("script", [whole_script(), BOOTSTRAP.format(size=1, role="reader").encode()])
def test_it_is_powershell(script: bytes) -> None:
    wrong = [node for node in nodes(parsed(script)) if node.type == "ERROR" or node.is_missing]
    assert not wrong, [(node.start_point, node.text) for node in wrong]
    assert script.isascii()


def test_a_parser_would_see_what_is_no_powershell() -> None:
    assert parsed(b"function Get-It( { if ($a) { 'b' }").has_error


def test_one_table_of_constants() -> None:
    sizes = {
        "RequestSize": frames.REQUEST.size,
        "PairSize": frames.PAIR.size,
        "ResponseSize": frames.RESPONSE.size,
        "MaxLength": frames.MAX_LENGTH,
        "MaxCount": frames.MAX_COUNT,
    }
    ops = {f"Op{op.name.capitalize()}": op.value for op in Op}
    statuses = {f"Status{''.join(map(str.capitalize, one.name.split('_')))}": one.value for one in Status}
    codecs = {f"Codec{one.name.capitalize()}": one.value for one in Codec if one is not Codec.ZSTD}
    assert table() == {**ops, **statuses, **codecs, **sizes}
    magic = re.search(r"\$Magic = \[byte\[\]\]\(([0-9, ]+)\)", whole_script().decode())
    assert magic
    assert bytes(int(word) for word in magic[1].split(",")) == frames.MAGIC


def test_no_name_is_used_that_is_not_there() -> None:
    """Every command of ours that is called is a function of the script; the others are those of Windows."""
    script = (FOLDER / SCRIPT).read_bytes()
    found = nodes(parsed(script))
    functions = {
        (child.text or b"").decode()
        for node in found
        if node.type == "function_statement"
        for child in node.children
        if child.type == "function_name"
    }
    called = {(node.text or b"").decode() for node in found if node.type == "command_name"}
    windows = {
        "Add-Type", "ConvertFrom-Json", "ConvertTo-Json", "ForEach-Object", "Get-CimInstance",
        "Get-ItemProperty", "Invoke-CimMethod", "New-Object", "Remove-CimInstance", "Select-Object",
        "Sort-Object", "Test-Path", "Where-Object",
    }  # fmt: skip
    assert called <= functions | windows
    assert functions <= called, "a function that nobody calls"


def test_every_variable_is_set_somewhere() -> None:
    script = (FOLDER / SCRIPT).read_text()
    words = {
        word.lower() for word in re.findall(r"\$(?:script:)?([A-Za-z]\w*)", script.split("$Source = @'")[1])
    }
    words -= {"args", "null", "true", "false", "psversiontable", "pipename"}
    pattern = r"\$(?:script:)?{}\s*(?:=|\+=|,|\)|\bin\b)"
    unset = {word for word in words if not re.search(pattern.format(word), script, re.IGNORECASE)}
    assert not unset


@pytest.mark.parametrize("role", ["inventory", "guard", "snapshots", "reader"])
def test_both_shells_take_the_command(role: str) -> None:
    line = command(len(whole_script()), role)
    assert len(line) < COMMAND_LIMIT
    assert re.fullmatch(r"[A-Za-z0-9 .=+/-]+", line), (
        "nothing that cmd.exe or PowerShell would read as its own"
    )
    bootstrap = base64.b64decode(line.split()[-1]).decode("utf-16-le")
    assert bootstrap.endswith(f"'{role}'")
    assert "{{" not in bootstrap
    assert f"'{role}'" in whole_script().decode()


def test_the_keeper_fits_into_a_command_line() -> None:
    """CreateProcess takes 32,767 characters; the script of the keeper goes as base64 of UTF-16."""
    script = whole_script().decode()
    keeper = script[script.index("$Keeper = {") : script.index("$In = [Console]")]
    assert len(base64.b64encode(keeper.encode("utf-16-le"))) + 1000 < 32767
    assert "$PipeName" in keeper


def test_nothing_ends_the_text_of_the_csharp_early() -> None:
    assert whole_script().decode().count("\n'@") == 1


def test_a_windows_10_with_uefi() -> None:
    survey = parse_inventory(recorded("windows10_uefi"))
    machine = survey.machine
    assert machine.os
    assert machine.os.windows
    assert (machine.os.id, machine.os.family, machine.os.version) == ("windows", "windows", "10.0.19041")
    assert (machine.os.name, machine.os.architecture) == ("Microsoft Windows 10 Pro", "x86_64")
    assert (machine.os.windows.build, machine.os.windows.edition) == (19041, "Professional")
    assert machine.os.windows.drive == "C:"
    assert machine.firmware is Firmware.UEFI
    assert machine.disks == (
        Disk(
            "\\\\.\\PhysicalDrive0",
            512110190592,
            serial="0025_38B2_91B0_1A2F.",
            wwn="eui.002538b291b01a2f",
            model="PM981a NVMe Samsung 512GB",
            names=("\\\\.\\PhysicalDrive0",),
        ),
    )
    assert machine.nics == (
        Nic("Ethernet", "54:bf:64:12:34:56", "e1dexpress", ("10.0.0.5/24", "2001:db8::5/64"), "10.0.0.1"),
    )
    assert machine.live
    assert machine.uuid == "4c4c4544-0043-3510-8052-b4c04f564432"
    assert [one.hint for one in machine.findings] == ["On the source: powercfg /h off"]


def test_a_windows_7_without_the_storage_module() -> None:
    """No firmware is told, the stick is left out, the name of a card is not English, a board has no UUID."""
    machine = parse_inventory(recorded("windows7_bios")).machine
    assert machine.os
    assert (machine.os.version, machine.os.architecture) == ("6.1.7601", "i686")
    assert machine.firmware is Firmware.BIOS
    assert [disk.path for disk in machine.disks] == ["\\\\.\\PhysicalDrive0"]
    assert machine.nics[0].name == "Lokales Netzwerk ü"
    assert [one.place.startswith("\\\\?\\Volume{") for one in machine.mounted] == [True, False]
    assert ["restart" in one.message for one in machine.findings] == [True]


def test_a_server_with_everything_that_is_in_the_way() -> None:
    machine = parse_inventory(recorded("server2019_raid")).machine
    assert machine.os
    assert machine.os.windows
    assert machine.os.windows.product_type is ProductType.DOMAIN_CONTROLLER
    assert [disk.wwn for disk in machine.disks] == [
        "0x600508b1001c5a1b2c3d4e5f60718293",
        "0x5000c500a1b2c3d4",
        "0xe1a2b3c4d5e6f70811223344556677aa",
    ]
    assert [disk.idle for disk in machine.disks] == [False, False, True]
    assert [nic.mac for nic in machine.nics] == ["94:18:82:00:11:22"]
    found = {one.message: one for one in machine.findings}
    assert all(one.hint for one in machine.findings)
    blockers = [message for message, one in found.items() if one.severity is Severity.BLOCKER]
    assert blockers == ["C: is encrypted with BitLocker"]
    assert "manage-bde -off C:" in found[blockers[0]].hint
    for word in ("Storage Space", "restart (an update of its components, Windows Update)"):
        assert any(word in message for message in found)


@pytest.mark.parametrize(
    ("protection", "conversion", "refused"),
    [
        (0, 0, False),
        (1, 1, True),
        (0, 1, True),
        (1, 2, True),
        (0, 3, True),
        (1, -1, True),
        (2, -1, True),
        (0, -1, False),
    ],
)
def test_what_bitlocker_says_of_a_volume(protection: int, conversion: int, refused: bool) -> None:
    facts = recorded("windows10_uefi")
    facts["encrypted"] = [{"name": "x", "place": "E:", "protection": protection, "conversion": conversion}]
    findings = parse_inventory(facts).machine.findings
    assert any(one.severity is Severity.BLOCKER and "E:" in one.hint for one in findings) is refused


def test_a_windows_for_another_processor_or_firmware_is_refused() -> None:
    facts = recorded("windows10_uefi")
    for change, word in (({"processor": 12}, "aarch64"), ({"is_64_bit": False}, "32-bit UEFI")):
        findings = parse_inventory({**facts, **change}).machine.findings
        assert any(one.severity is Severity.BLOCKER and word in one.message for one in findings)


def test_windows_before_8_boots_from_gpt_with_uefi() -> None:
    facts = recorded("windows7_bios")
    facts["disks"][0]["style"] = 2
    assert parse_inventory(facts).machine.firmware is Firmware.UEFI


def test_the_grade_is_snapshot_where_all_volumes_are_plain() -> None:
    machine = parse_inventory(recorded("windows10_uefi")).machine
    assert choose_consistency(machine, ConsistencyWish.AUTO) == (Consistency.SNAPSHOT, ())
    dynamic = parse_inventory(recorded("server2019_raid")).machine
    grade, reasons = choose_consistency(dynamic, ConsistencyWish.AUTO)
    assert grade is Consistency.FUZZY
    assert reasons == ("D:\\ is no plain partition",)


@pytest.mark.parametrize(
    "hello",
    [{}, {"administrator": 1}, {"administrator": False}, {"administrator": True, "problem": ["x" * 9999]}],
)
def test_a_script_that_cannot_is_no_script(hello: dict[str, object]) -> None:
    with pytest.raises(TransportError) as caught:
        require_able(hello, "user@host")
    assert caught.value.hint
    assert len(caught.value.message) < 1000


def mutated(value: Any, chance: random.Random) -> Any:
    """The same with one thing in it that is something else."""
    nonsense: tuple[Any, ...] = (
        None,
        -1,
        2**70,
        "x" * 5000,
        [],
        {},
        [[[]]],
        True,
        1.5,
        "\ud800",
        {"value": 1, "Count": 2},
    )
    value = copy.deepcopy(value)
    holder: Any = None
    key: Any = None
    place = value
    while isinstance(place, dict | list) and place and (holder is None or chance.random() < 0.7):
        holder = place
        key = chance.choice(list(place)) if isinstance(place, dict) else chance.randrange(len(place))
        place = place[key]
    if chance.random() < 0.3 and isinstance(holder, dict):
        del holder[key]
    elif holder is not None:
        holder[key] = chance.choice(nonsense)
    return value


@pytest.mark.parametrize("name", MACHINES)
def test_a_thousand_mutated_inventories(name: str) -> None:
    chance, facts, refused = random.Random(name), recorded(name), 0
    for _ in range(1000):
        try:
            parse_inventory(mutated(facts, chance))
        except TransportError:
            refused += 1
    assert refused > 300


def answered(value: object) -> bytes:
    return hello_of(value)[len(frames.MAGIC) :]


USAGE = {"volumes": recorded("windows10_uefi")["volumes"]}
MADE = {"device": r"\\?\GLOBALROOT\Device\HarddiskVolumeShadowCopy1", "code": 0}
REMOVED = {"gone": ["a"], "left": ["b"]}


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_mutated_answers(seed: int) -> None:
    """As JSON, and as bytes: cut, and with a byte that is another."""
    chance = random.Random(seed)
    refused = 0
    for number in range(1000):
        good = (USAGE, MADE, REMOVED)[number % 3]
        line = answered(mutated(good, chance)) if number % 2 else damaged(answered(good), chance)
        try:
            talk(line, number % 3)
        except TransportError:
            refused += 1
    assert refused > 300


def frames_of_a_block() -> tuple[list[BlockRequest], bytes]:
    """Three blocks as the reader answers them: plain, compressed, and nothing but zeros."""
    answers = (
        (Codec.NONE, noise := random.Random(1).randbytes(8192), noise),
        (Codec.ZLIB, text := b"text" * 2048, zlib.compress(text)),
        (Codec.ZERO, bytes(8192), b""),
    )
    requests = [BlockRequest(at, at * 8192, 8192, ((0, 8192),)) for at in range(3)]
    said = b""
    for tag, (codec, content, payload) in enumerate(answers, 1):
        digest = hashlib.sha256(content).digest()
        said += frames.RESPONSE.pack(0, tag, codec, len(content), len(payload), digest) + payload
    return requests, said


def test_a_thousand_mutated_frames() -> None:
    """Nothing but errors of the transport, and never another size than asked."""
    chance, refused = random.Random(7), 0
    requests, said = frames_of_a_block()
    assert [len(block.data) for block in ReaderClient(Canned(said)).fetch(0, requests)] == [8192] * 3
    for _ in range(1000):
        try:
            blocks = list(ReaderClient(Canned(damaged(said, chance))).fetch(0, requests))
        except TransportError:
            refused += 1
        else:
            assert [len(block.data) for block in blocks] == [8192] * 3
    assert refused > 400


def damaged(line: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(line))
    return line[:at] if chance.random() < 0.5 else line[:at] + bytes([chance.randrange(256)]) + line[at + 1 :]


def talk(line: bytes, number: int) -> None:
    from p2v.transports import SnapshotSize

    match number:
        case 0:
            WindowsGuard(Canned(line)).usage(["\\\\.\\PhysicalDrive0"])
        case 1:
            ShadowClient(Canned(line)).create([SnapshotSize("", "\\\\?\\Volume{a}\\", 0)])
        case _:
            ShadowClient(Canned(line)).remove()
