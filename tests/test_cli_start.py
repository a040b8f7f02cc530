"""The command line loads what a command needs when it is called, and its help tells of all the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from p2v import command
from p2v.cli import COMMANDS, cli

WATCH = """
import json, sys
before = set(sys.modules)
from p2v import cli
sys.argv = ["p2v", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as end:
    assert not end.code, end.code
print(json.dumps(sorted(set(sys.modules) - before)), file=sys.stderr)
"""

LIGHT = {"p2v", "click", "colorama", "tqdm"}
"""What everything may need; all others take tenths of a second, at every start."""

HEAVY = {"asyncio", "sqlite3", "p2v.house", "p2v.pipeline", "p2v.report", "p2v.transports", "p2v.targets"}


def loaded_by(*words: str) -> list[str]:
    """The modules that a run of p2v loads beside those of every Python."""
    ended = command.run([sys.executable, "-c", WATCH, *words], timeout=25)
    assert ended.code == 0, ended.stderr
    assert ended.stdout, "it said nothing"
    modules: list[str] = json.loads(ended.stderr.splitlines()[-1])
    assert "p2v.cli" in modules
    return modules


@pytest.mark.parametrize(
    "words",
    [("--version",), ("--help",), ("scan", "--help"), ("convert", "--help"), ("restore", "--help")],
    ids=" ".join,
)
def test_a_plain_start_loads_nothing_heavy(words: tuple[str, ...]) -> None:
    modules = loaded_by(*words)
    foreign = {module.partition(".")[0] for module in modules} - sys.stdlib_module_names
    assert foreign <= LIGHT
    assert not HEAVY & set(modules)


def test_the_version_needs_no_command() -> None:
    modules = {module for module in loaded_by("--version") if module.startswith("p2v")}
    assert modules == {"p2v", "p2v.cli", "p2v.errors", "p2v.ui"}


def commands_in_modules() -> Iterator[tuple[str, click.Command]]:
    """Every command that a module of the command line makes; those of a group belong to the group."""
    for path in sorted(Path(import_module("p2v").__path__[0]).glob("*_cli.py")):
        module = import_module(f"p2v.{path.stem}")
        found = [(name, one) for name, one in vars(module).items() if isinstance(one, click.Command)]
        within = [
            inner for _, one in found if isinstance(one, click.Group) for inner in one.commands.values()
        ]
        yield from ((f"{module.__name__}:{name}", one) for name, one in found if one not in within)


def test_every_command_stands_in_the_table_under_its_own_name() -> None:
    made = {one.name: where for where, one in commands_in_modules()}
    assert made == {name: entry.where for name, entry in COMMANDS.items()}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_help_is_that_of_the_commands_themselves(width: int) -> None:
    plain = click.Group(
        "p2v",
        help=cli.help,
        params=cli.params,
        context_settings=cli.context_settings,
        invoke_without_command=True,
        commands={found.name or "": found for _, found in commands_in_modules()},
    )
    helps = [
        CliRunner().invoke(group, ["--help"], prog_name="p2v", terminal_width=width).output
        for group in (plain, cli)
    ]
    assert helps[0] == helps[1]
    assert "rollback" in helps[1]


def test_another_word_is_no_command() -> None:
    answer = CliRunner().invoke(cli, ["convrt"])
    assert answer.exit_code == 2
    assert "No such command" in answer.output
