"""INF files that somebody made to do harm, or that a disk damaged: a documented refusal, soon, and nothing
else.
"""

from __future__ import annotations

import codecs
import random
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from drivers.inf.index import DriverIndex, best, packages, read_index
from drivers.inf.model import Architecture, DeviceIds, DriverPackage, Match, NoMatch, Windows
from drivers.inf.strings import with_strings
from drivers.inf.text import FILE_LIMIT, InfError, parse
from fixtures.windows import packs
from fixtures.windows.programs import bare
from tests.drivers.inf.packs import DEVICE, TEN, WHOLE, pack

MUTATIONS = 1_000
SECONDS = 5.0
"""Of the processor, not of the clock. What a file of the largest size may take; most take a tenth of it."""

PIECES = (
    *(
        "\\\n",
        "\\",
        '"',
        '""',
        "%",
        "%%",
        ";",
        "[",
        "]",
        ",",
        "=",
        "\0",
        "\x1a",
        "\r",
        "..\\",
        "..\\..\\..\\",
    ),
    *(
        "C:\\",
        "/etc/passwd",
        "\\\\server\\share\\",
        "%12%\\",
        "0x",
        "0xFFFFFFFF",
        "-1",
        "99999999999999999999",
    ),
    *("[Install]\n", "[Strings]\n", "CopyFiles=@..\\x\n", "AddReg=Install\n", "NTamd64", "\ud800", "\u2028"),
    *("a" * 300, "a" * 5000, "a,\\\n" * 500, "%a%" * 500, "[x]\n" * 100),
)


def source_texts() -> list[str]:
    """INF files to damage: those of the packs, and one that uses every directive."""
    texts = [
        packs.inf_text(each, ("NTamd64.10.0", "NTx86"), version="1.2.3.4", dirid=12) for each in packs.VIRTIO
    ]
    everything = (
        "[Install]\nAddReg=R\nInclude=machine.inf\nNeeds=X\nFeatureScore=0x10\nCopyFiles=F\n[F]\na.sys,a.sys,,2\n"
        "[R]\nHKR,,m,0x10000,a,b\nHKR,,b,1,1,2,FF\nHKLM,a\\b,c,0x20000,%%x%%\n[Install.HW]\nAddReg=R\n"
        "[SourceDisksNames]\n1=D,,,\n[SourceDisksFiles.amd64]\na.sys=1,,\n[Strings.0407]\nName=Ding\n"
    )
    return [*texts, WHOLE + everything]


def mutated(chance: random.Random, text: str) -> bytes:
    """One damaged file: bytes changed, cut, pieces put in or doubled, in any encoding."""
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(text) + 1)
        match chance.randrange(5):
            case 0:
                text = text[:place]
            case 1:
                text = text[:place] + chance.choice(PIECES) + text[place:]
            case 2:
                text = text[:place] + text[place + chance.randrange(40) :]
            case 3:
                text = text[:place] + text[max(0, place - 200) : place] * 3 + text[place:]
            case _:
                text = (
                    text[:place]
                    + chr(chance.choice((0, 9, 13, 34, 37, 44, 59, 61, 91, 92, 93, 0xE9)))
                    + text[place:]
                )
    return encoded(chance, text)


def encoded(chance: random.Random, text: str) -> bytes:
    match chance.randrange(4):
        case 0:
            data = codecs.BOM_UTF16_LE + text.encode("utf-16-le", "surrogatepass")
        case 1:
            data = codecs.BOM_UTF16_BE + text.encode("utf-16-be", "surrogatepass")
        case 2:
            data = text.encode("utf-8", "surrogatepass")
        case _:
            data = text.encode("cp1252", "replace")
    if chance.random() < 0.3:
        changed = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            if changed:
                changed[chance.randrange(len(changed))] = chance.randrange(256)
        data = bytes(changed)
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.1 else data


def inside(package: DriverPackage, index: DriverIndex) -> bool:
    """Whether every path of a package is a regular file of the pack."""
    paths = (*package.contents, *(file.source for install in package.installs for file in install.files))
    real = index.folder.resolve()
    return all(
        (index.folder / path).resolve().is_relative_to(real) and not (index.folder / path).is_symlink()
        for path in paths
    )


def targets_are_relative(package: DriverPackage) -> bool:
    """Whether no destination leads out of its folder."""
    services = (each.binary for install in package.installs for each in install.services)
    files = (file.place for install in package.installs for file in install.files)
    words = [word for place in (*services, *files) for word in (*place.directory.split("\\"), place.name)]
    return not any(word.strip(". ") == "" and word for word in words) and not any(
        char in word for word in words for char in "/:\\"
    )


@pytest.mark.slow
def test_a_thousand_damaged_inf_files(tmp_path: Path) -> None:
    """All in one pack, since they must not disturb one another either."""
    chance = random.Random(20261123)
    sources = source_texts()
    for number in range(MUTATIONS):
        (tmp_path / f"{number}.inf").write_bytes(mutated(chance, chance.choice(sources)))
    for name in ("a", "viostor", "vioscsi", "netkvm", "balloon"):
        (tmp_path / f"{name}.sys").write_bytes(bare(Architecture.AMD64))
        (tmp_path / f"{name}.cat").write_bytes(b"catalogue")
    began = time.process_time()
    index = read_index(tmp_path)
    assert len(index.files) + len(index.rejected) == MUTATIONS
    outcomes = [best(index, TEN, device) for device in (DEVICE, DeviceIds(("PCI\\VEN_1AF4&DEV_1001",)))]
    assert all(isinstance(each, Match | NoMatch) for each in outcomes)
    usable = [package for windows in (TEN, OLD) for package in each_alone(index, windows)]
    assert all(inside(each, index) and targets_are_relative(each) for each in usable)
    assert time.process_time() - began < 4 * SECONDS
    # Damage of this size leaves some of them whole: otherwise nothing was tried but the first check.
    assert len(index.rejected) > MUTATIONS / 20
    assert len(usable) > MUTATIONS / 20


OLD = Windows(6, 1, 7601, Architecture.X86)


def each_alone(index: DriverIndex, windows: Windows) -> Iterator[DriverPackage]:
    """The package of every file that has one; `packages` would keep one of each name."""
    for file in index.files:
        alone = DriverIndex(index.folder, (file,), (), index.tree)
        yield from packages(alone, windows).usable


def test_every_cut_of_an_inf(tmp_path: Path) -> None:
    """Cut anywhere, it is refused or complete enough to be right; nothing else happens."""
    whole = WHOLE.encode()
    for length in range(0, len(whole), 7):
        index = read_index(pack(tmp_path, whole[:length]))
        outcome = best(index, TEN, DEVICE)
        if isinstance(outcome, Match):
            assert outcome.install.function_driver is not None
            assert inside(outcome.package, index)


LARGE = {
    "one line": "a" * 4_000_000,
    "one section of many entries": "[a]\n" + "b=c\n" * 90_000,
    "many sections": "".join(f"[{number}]\n" for number in range(90_000)),
    "quotes": "[a]\n" + '"' * 60_000,
    "open quotes": "[a]\n" + '"a\n' * 90_000,
    "percent signs": "[a]\n" + ("%" * 4000 + "\n") * 900,
    "open tokens": "[a]\n" + ("%a " * 1300 + "\n") * 900,
    "continuation": "[a]\n" + "b,\\\n" * 90_000,
    "backslashes": "[a]\n" + ("\\" * 4000 + "\n") * 900,
    "commas": "[a]\n" + ("," * 60_000 + "\n") * 60,
    "strings": "[Strings]\n" + "".join(f"s{number}=x\n" for number in range(90_000)),
}

MULTIPLYING = {
    "one Models section by many manufacturers": (
        "[Manufacturer]\n" + "a=M,NTamd64\n" * 400 + "[M.NTamd64]\n" + "a=Install,PCI\\X\n" * 40_000
    ),
    "one AddReg section many times": WHOLE
    + "[Install]\nAddReg="
    + "R," * 20_000
    + "R\n[R]\n"
    + "HKR,,a,,b\n" * 4_000,
    "one empty AddReg section many times": WHOLE + "[Install]\n" + "AddReg=R,R,R,R,R,R\n" * 60_000 + "[R]\n",
    "one CopyFiles section many times": WHOLE
    + "[Install]\nCopyFiles="
    + "F," * 20_000
    + "F\n[F]\n"
    + "a.sys\n" * 1_900,
    "many install sections of many values": (
        WHOLE
        + "[Devices.NTamd64]\n"
        + "".join(f"a=I{number},PCI\\Y{number}\n" for number in range(3_000))
        + "".join(f"[I{number}]\nAddReg=R\n" for number in range(3_000))
        + "[R]\n"
        + "HKR,,a,,b\n" * 4_900
    ),
    "many services of one large section": (
        WHOLE
        + "[Install.Services]\n"
        + "".join(f"AddService=s{number},,Service\n" for number in range(19))
        + "[Service]\nAddReg=R\n[R]\n"
        + "HKR,,a,,b\n" * 4_900
    ),
    "strings that swell": WHOLE
    + "[Install]\nAddReg=R\n[R]\n"
    + "HKR,,%s%%s%%s%,,x\n" * 4_000
    + "[Strings]\ns="
    + "x" * 4_000,
    "many ids": WHOLE + "[Devices.NTamd64]\n" + ("a=Install" + ",PCI\\Z" * 9_000 + "\n") * 60,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_texts_take_bounded_time_and_memory(name: str) -> None:
    began = time.process_time()
    tracemalloc.start()
    try:
        inf = with_strings(parse(LARGE[name].encode()))
        for section in inf.sections.names[:10]:
            inf.value(section, "x")
    except InfError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 40 * FILE_LIMIT
    assert time.process_time() - began < 4 * SECONDS  # tracing makes it slower


@pytest.mark.slow
@pytest.mark.parametrize("name", MULTIPLYING)
def test_small_texts_cannot_stand_for_much_work(tmp_path: Path, name: str) -> None:
    text = MULTIPLYING[name]
    assert len(text) < FILE_LIMIT
    pack(tmp_path, text)
    began = time.process_time()
    outcome = best(read_index(tmp_path), TEN, DEVICE)
    packages(read_index(tmp_path), TEN)
    assert isinstance(outcome, Match | NoMatch)
    assert time.process_time() - began < 2 * SECONDS
