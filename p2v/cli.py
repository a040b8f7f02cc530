"""argv -> Job -> pipeline -> exit code. The only place that exits."""

from __future__ import annotations

import pkgutil
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import FrameType

import click

from p2v import __version__
from p2v.errors import ExitCode, P2VError, Terminated
from p2v.ui import UI, ProgressStyle


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: where it is (`module:name`), and how its help begins, which `p2v --help` shows."""

    where: str
    help: str


COMMANDS = {
    "scan": Entry("p2v.convert_cli:scan", "Show what a machine is and what would block its conversion."),
    "convert": Entry("p2v.convert_cli:convert", "Convert a machine into a virtual machine."),
    "capture": Entry(
        "p2v.convert_cli:capture",
        "Capture the disks alone, whatever is on them; `p2v emit` makes virtual machines of them.",
    ),
    "emit": Entry(
        "p2v.convert_cli:emit", "Make virtual machines for other hypervisors out of what a run has captured."
    ),
    "resume": Entry("p2v.convert_cli:resume", "Go on with a run that was interrupted."),
    "prove": Entry(
        "p2v.convert_cli:prove",
        "Boot the virtual machine of a run in QEMU, isolated and without writing to it.",
    ),
    "runs": Entry("p2v.convert_cli:runs", "List the runs in a folder."),
    "show": Entry("p2v.convert_cli:show", "Show what a run did, or where it stands."),
    "restore": Entry(
        "p2v.restore_cli:restore",
        "Put an image or a virtual machine onto a physical machine that runs a rescue system.",
    ),
    "rollback": Entry(
        "p2v.restore_cli:rollback", "Undo a conversion: the physical machine gets its own disks back."
    ),
    "batch": Entry("p2v.batch_cli:batch", "Convert the machines of a MANIFEST; again, only what is missing."),
    "license": Entry("p2v.license_cli:group", "The conversions that are left, and what they were spent on."),
    "targets": Entry("p2v.host_cli:targets", "List the hypervisors that a machine can be converted for."),
    "doctor": Entry("p2v.host_cli:doctor_command", "Check everything that p2v needs on this machine."),
    "rescue": Entry(
        "p2v.rescue_cli:group",
        "A small system for machines that cannot be captured while they run, or that are restored.",
    ),
}
"""A command is loaded when it is called: what the others need would take longer than most of them."""


class Commands(click.Group):
    """The commands of the table."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        entry = COMMANDS.get(name)
        if entry is None:
            return None
        command = pkgutil.resolve_name(entry.where)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but with none of the commands loaded."""
        names = self.list_commands(context)
        width = formatter.width - 6 - max(map(len, names))
        stand_ins = [click.Command(name, help=COMMANDS[name].help) for name in names]
        with formatter.section("Commands"):
            formatter.write_dl([(one.name or "", one.get_short_help_str(width)) for one in stand_ins])


@click.group(
    cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True
)
@click.version_option(__version__, prog_name="p2v")
@click.pass_context
def cli(context: click.Context) -> None:
    """Physical machines into virtual ones, and back.

    SOURCE is ssh://[user@]host[:port] or a path to a disk image; sda=FIRST,sdb=SECOND for more than one.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated


def main() -> None:
    """Run a command and exit with the code of who must act."""
    signal.signal(signal.SIGTERM, _terminate)
    ui = UI(style=ProgressStyle.LINES)
    sys.exit(run_command(partial(cli.main, standalone_mode=False), ui))


def run_command(command: Callable[[], object], ui: UI) -> int:
    """Every way in which a command can end, as its exit code; what a person should know goes to `ui`."""
    try:
        command()
    except P2VError as error:
        ui.error(str(error))
        _say_notes(error, ui)
        return error.exit_code
    except click.ClickException as error:
        ui.error(error.format_message())
        return ExitCode.USAGE
    except (KeyboardInterrupt, click.Abort) as error:
        ui.error("interrupted")
        _say_notes(error.__context__ if isinstance(error, click.Abort) else error, ui)
        return ExitCode.INTERRUPTED
    except Terminated as error:
        ui.error("terminated")
        _say_notes(error, ui)
        return ExitCode.TERMINATED
    except Exception as error:
        ui.error(f"This is a bug in p2v: {type(error).__name__}: {error}")
        if "--verbose" in sys.argv:
            traceback.print_exc()
        _say_notes(error, ui)
        return ExitCode.BUG
    return ExitCode.DONE


def _say_notes(error: BaseException | None, ui: UI) -> None:
    for note in getattr(error, "__notes__", ()):
        ui.say(f"Continue with: {note}")
