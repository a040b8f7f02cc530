"""The options that stand on every command, and what a command works with because of them."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from p2v.ui import UI, ProgressStyle, Volume

if TYPE_CHECKING:
    from p2v.house import House

Command = Callable[..., Any]


def add_options(command: Command, options: Sequence[Callable[[Command], Command]]) -> Command:
    """The command with these options, which its help shows in their order."""
    for option in reversed(options):
        command = option(command)
    return command


def common_options(command: Command) -> Command:
    """The options that stand on every command."""
    options = [
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output."),
        click.option("--quiet", is_flag=True, help="No progress and no talk, only the result and errors."),
        click.option("--verbose", is_flag=True, help="Say more; a bug shows its traceback."),
        click.option("--yes", is_flag=True, help="Never ask, not even for a password."),
        click.option(
            "--progress",
            type=click.Choice([style.value for style in ProgressStyle]),
            default=ProgressStyle.AUTO.value,
            help="How progress is shown on standard error.",
        ),
    ]
    return add_options(command, options)


def make_house(options: dict[str, Any]) -> House:
    """The terminal and the home for one command, out of the common options (which are taken out)."""
    from p2v.house import House, default_home

    quiet, verbose = options.pop("quiet"), options.pop("verbose")
    volume = Volume.QUIET if quiet else Volume.VERBOSE if verbose else Volume.NORMAL
    ui = UI(style=ProgressStyle(options.pop("progress")), volume=volume)
    can_ask = not options.pop("yes") and sys.stdin.isatty()
    return House(ui, default_home(), getpass.getpass if can_ask else None)
