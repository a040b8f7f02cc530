"""Imports only point down. The table here is the architecture; README explains it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

LAYERS = (
    {"p2v.model", "p2v.errors"},
    {
        "p2v.guest_wishes", "p2v.grades", "p2v.ui", "p2v.command", "p2v.atomic", "p2v.log", "p2v.journal",
        "p2v.retry", "p2v.watchdog", "p2v.globbing", "p2v.restore.model", "p2v.hive_logs", "p2v.guest_handle",
    },
    {
        "p2v.disk", "drivers", "conversions", "p2v.accelerator", "p2v.vsphere", "p2v.driver_media",
        "p2v.run_folder",
    },
    {
        "p2v.plan", "p2v.transports", "p2v.targets", "p2v.guest", "p2v.proof", "p2v.run", "p2v.licensing",
        "p2v.job",
    },
    {
        "p2v.hives", "p2v.hive_child", "p2v.guest_mounts", "p2v.guest_resize", "p2v.guest_volumes",
        "p2v.driver_shelf", "p2v.windows_offers",
    },
    {"p2v.guest_unlock"},
    {"p2v.guest_inspect", "p2v.rediscovery", "p2v.windows_condition", "p2v.windows_findings"},
    {"p2v.windows_inspect"},
    {"p2v.guest_systems"},
    {"p2v.house", "p2v.probe", "p2v.parallel"},
    {"p2v.passes", "p2v.importing", "p2v.rescue"},
    {"p2v.window"},
    {"p2v.from_snapshots", "p2v.from_shadows"},
    {"p2v.live"},
    {"p2v.rooms", "p2v.outputs", "p2v.capture", "p2v.licenses"},
    {"p2v.restore"},
    {"p2v.pipeline"},
    {"p2v.batch"},
    {"p2v.doctor", "p2v.options"},
    {"p2v.report", "p2v.vsphere_cli", "p2v.job_options"},
    {"p2v.license_report"},
    {"p2v.batch_cli", "p2v.license_cli", "p2v.restore_cli", "p2v.rescue_cli", "p2v.host_cli"},
    {"p2v.convert_cli"},
    {"p2v.cli"},
    {"p2v.__main__"},
)  # fmt: skip
"""Lowest first. A unit imports from lower layers and from itself, never from its neighbours."""

ALLOWED_NEIGHBOURS = {
    ("conversions", "drivers"),  # a conversion reads the pack that the target named
    ("p2v.journal", "p2v.atomic"),
}

ONLY = {
    "conversions": {"conversions", "drivers", "p2v.model", "p2v.errors"},
    "drivers": {"drivers", "p2v.model", "p2v.errors"},
    "p2v.plan": {"p2v.model", "p2v.errors", "p2v.guest_wishes", "p2v.grades"},
    "p2v.model": set[str](),
}

DOORS = {
    "guestfs": {"p2v/guest.py", "p2v/doctor.py"},
    "hivex": {"p2v/hive_child.py"},
    "subprocess": {
        "p2v/command.py",
        "p2v/transports/remote_inventory.py",
        "p2v/transports/remote_snapshots.py",
    },
    "tqdm": {"p2v/ui.py"},
    "distributed": {"p2v/batch/cluster.py"},
}
"""Who may import what the project has one door to. The remote scripts run on another machine."""


def sources() -> list[Path]:
    return [
        path for folder in ("p2v", "conversions", "drivers") for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_of(module: str) -> str | None:
    """The row of the table that a module belongs to."""
    units = [unit for layer in LAYERS for unit in layer if module == unit or module.startswith(unit + ".")]
    return max(units, key=len, default=None)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            # `from p2v import command` imports a module, `from p2v.ui import UI` a name.
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if unit_of(full) else node.module


def height(unit: str) -> int:
    return next(number for number, layer in enumerate(LAYERS) if unit in layer)


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    module = module_of(path)
    unit = unit_of(module)
    assert unit or module == "p2v", f"{module} is in no layer: add it to LAYERS"
    for imported in imports(path):
        other = unit_of(imported)
        if unit is None or other is None or other == unit:
            continue
        if unit in ONLY:
            assert other in ONLY[unit], f"{module} imports {imported}"
        lower = height(other) < height(unit) or (unit, other) in ALLOWED_NEIGHBOURS
        assert lower, f"{module} imports {imported}, which is not below it"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_one_door_each(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    for imported in imports(path):
        top = imported.split(".")[0]
        assert name in DOORS.get(top, {name}), f"{name} imports {top}, which has one door"


def test_every_layer_is_used() -> None:
    modules = {unit_of(module_of(path)) for path in sources()}
    assert {unit for layer in LAYERS for unit in layer} <= modules
