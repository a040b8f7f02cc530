"""The scripts that run on the source: what an old Python there would not understand, and who may write."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2v.transports import ssh_scripts

NAMES = (
    "remote_guard",
    "remote_inventory",
    "remote_line",
    "remote_packing",
    "remote_reader",
    "remote_snapshots",
)
SCRIPTS = [Path(ssh_scripts.__file__).with_name(f"{name}.py") for name in NAMES]
OLDEST = (3, 4)


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    return Path(str(request.param))


def nodes(script: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(script.read_text(), feature_version=OLDEST))


def test_an_old_python_can_read_it(script: Path) -> None:
    """What the parser does not refuse by itself: f-strings, annotated variables, `f(*words, last)`,
    `[*words]`.
    """
    for node in nodes(script):
        assert not isinstance(node, ast.JoinedStr | ast.AnnAssign | ast.NamedExpr | ast.AsyncFunctionDef)
        if isinstance(node, ast.Call):
            starred = [isinstance(one, ast.Starred) for one in node.args]
            assert not any(starred[:-1]), ast.unparse(node)
            assert sum(one.arg is None for one in node.keywords) <= 1
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            assert not any(isinstance(one, ast.Starred) for one in node.elts), ast.unparse(node)
        if isinstance(node, ast.Dict):
            assert None not in node.keys, ast.unparse(node)


def test_only_the_standard_library(script: Path) -> None:
    for node in nodes(script):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        # What is sent in front needs no import over there.
        front = [Path(name).stem for name in ssh_scripts.IN_FRONT.get(script.name, ())]
        if isinstance(node, ast.ImportFrom):
            assert node.module in [f"p2v.transports.{name}" for name in front]
        assert not [name for name in names if name.split(".")[0] in ("p2v", "conversions", "drivers")]


def test_nothing_is_written_to_a_file(script: Path) -> None:
    """But to /dev/null, and to the one file of /proc that keeps the watchdog alive."""
    written = [
        ast.unparse(node)
        for node in nodes(script)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name | ast.Attribute)
        and ast.unparse(node.func) in ("open", "os.open", "io.open")
        and any(word in ast.unparse(node) for word in ("O_WRONLY", "O_RDWR", "O_CREAT", "'w", "'a", "'r+"))
    ]
    allowed = ("os.open(os.devnull, os.O_WRONLY)", "os.open(os.devnull, os.O_RDWR)")
    assert [call for call in written if call not in allowed] == (
        ["open('/proc/self/oom_score_adj', 'w')"] if script.stem == "remote_guard" else []
    )
