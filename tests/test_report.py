"""What a receipt says of the copy: the grade that was reached, not the one that was planned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from p2v.model import (
    CapturePass,
    CaptureStats,
    ChangeKind,
    Consistency,
    PassKind,
    Reached,
    RegistryChange,
)
from p2v.report import receipt_json, receipt_text
from tests.plans import make_receipt

PASSES = (CapturePass(PassKind.FULL, 10, 9, 1.0), CapturePass(PassKind.FROZEN, 1, 1, 1.0))


@pytest.mark.parametrize(
    ("reached", "words"),
    [
        (None, "consistency frozen"),
        (Reached(Consistency.OFFLINE, PASSES[:1]), "consistency offline (1 pass)"),
        (Reached(Consistency.FUZZY, PASSES, 2.5), "fuzzy (2 passes, filesystems frozen for 2.5 s)"),
        (
            Reached(Consistency.SNAPSHOT, PASSES, 0.5, 1.25),
            "frozen for 0.5 s, 1.2 s between the first and the last snapshot)",
        ),
    ],
)
def test_the_grade_of_a_copy(reached: Reached | None, words: str) -> None:
    receipt = replace(make_receipt("a" * 32), capture=CaptureStats(seconds=1.0, reached=reached))
    (line,) = [line for line in receipt_text(receipt, Path("r")).splitlines() if "copied" in line]
    assert words in line


def test_a_registry_is_counted_and_listed_for_programs() -> None:
    """Three hundred lines would hide the warnings; a program gets each of them."""
    kinds = (ChangeKind.EDITED, ChangeKind.REMOVED)
    system = [
        RegistryChange(
            kind, "/Windows/System32/config/SYSTEM", "ControlSet001\\Services\\x", "Start", "disks"
        )
        for kind in kinds
    ]
    software = RegistryChange(
        ChangeKind.CREATED, "/Windows/System32/config/SOFTWARE", "Key", None, "a \x1b[2J"
    )
    made = make_receipt("a" * 32)
    output = made.outputs[0]
    changed = replace(output, conversion=replace(output.conversion, registry=(*system, software)))
    receipt = replace(made, outputs=(changed,))
    lines = [line.strip() for line in receipt_text(receipt, Path("r")).splitlines() if "registry" in line]
    assert lines == [
        "registry   /Windows/System32/config/SYSTEM: 2 keys and values changed; each one: p2v show r --json",
        "registry   /Windows/System32/config/SOFTWARE: 1 key or value changed; each one: p2v show r --json",
    ]
    document = json.loads(receipt_json(receipt))
    assert len(document["outputs"][0]["conversion"]["registry"]) == 3
