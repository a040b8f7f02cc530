"""argv -> Job -> pipeline -> exit code. The only place that exits."""

from __future__ import annotations

import getpass
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from p2v import __version__, doctor, pipeline, report
from p2v.errors import ExitCode, P2VError, Terminated, UsageError
from p2v.house import House, default_home
from p2v.job import Job
from p2v.model import GiB, KiB, MiB
from p2v.ui import UI, ProgressStyle, Volume

SIZES = {"": MiB, "K": KiB, "M": MiB, "G": GiB}
DEFAULT_OUTPUT = Path("p2v-runs")

Command = Callable[..., Any]


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
    for option in reversed(options):
        command = option(command)
    return command


def source_options(command: Command) -> Command:
    """How the source is reached."""
    options = [
        click.option("--identity", type=click.Path(path_type=Path), help="Private key file for the source."),
        click.option("--known-hosts", type=click.Path(path_type=Path), help="Instead of ~/.ssh/known_hosts."),
        click.option(
            "--accept-new-host-key", is_flag=True, help="Remember the key of a host that is not known yet."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def make_house(options: dict[str, Any]) -> House:
    """The terminal and the home for one command, out of the common options (which are taken out)."""
    quiet, verbose = options.pop("quiet"), options.pop("verbose")
    volume = Volume.QUIET if quiet else Volume.VERBOSE if verbose else Volume.NORMAL
    ui = UI(style=ProgressStyle(options.pop("progress")), volume=volume)
    can_ask = not options.pop("yes") and sys.stdin.isatty()
    return House(ui, default_home(), getpass.getpass if can_ask else None)


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="p2v")
@click.pass_context
def cli(context: click.Context) -> None:
    """Physical machines into virtual ones, and back.

    SOURCE is ssh://[user@]host[:port] or a path to a disk image.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@cli.command()
@click.argument("source")
@source_options
@common_options
def scan(source: str, as_json: bool, **options: Any) -> None:
    """Show what a machine is and what would block its conversion."""
    house = make_house(options)
    job = Job(source=source, target="libvirt", output=DEFAULT_OUTPUT, **options)
    found = pipeline.scan(job, house)
    house.ui.result(report.scan_json(found) if as_json else report.scan_text(found))


@cli.command()
@click.argument("source")
@click.option("--to", "target", required=True, help="The hypervisor; see p2v targets.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder that holds the runs.")
@click.option("--name", default="", help="Name of the run and the virtual machine; default: the host name.")
@click.option("--disk", "disks", multiple=True, help="Only this disk: path, serial or WWN. May be repeated.")
@click.option("--cpus", type=click.IntRange(1, 1024), help="Processors of the virtual machine.")
@click.option("--memory", callback=lambda _context, _option, value: parse_size(value), help="For example 4G.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.option("--prove", is_flag=True, help="Boot the result in isolation and show that it does.")
@click.option("--limit", default="", help="At most so many bytes a second over the wire, for example 20M.")
@click.option(
    "--limit-window",
    "limit_windows",
    multiple=True,
    help='Another limit at times: "Mon-Fri 08:00-18:00=20M".',
)
@source_options
@common_options
def convert(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Convert a machine into a virtual machine."""
    house = make_house(options)
    job = Job(**options)
    if dry_run:
        plan = pipeline.plan_job(job, house)
        house.ui.result(report.plan_json(plan) if as_json else report.plan_text(plan))
        return
    receipt = pipeline.convert(job, house)
    directory = job.output / receipt.plan.name
    house.ui.result(report.receipt_json(receipt) if as_json else report.receipt_text(receipt, directory))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@common_options
def resume(run: Path, as_json: bool, **options: Any) -> None:
    """Go on with a run that was interrupted."""
    house = make_house(options)
    receipt = pipeline.resume(run, house)
    house.ui.result(report.receipt_json(receipt) if as_json else report.receipt_text(receipt, run))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--timeout", type=click.FloatRange(10, 7200), help="Seconds to wait for the guest.")
@common_options
def prove(run: Path, timeout: float | None, as_json: bool, **options: Any) -> None:
    """Boot the virtual machine of a run in QEMU, isolated and without writing to it."""
    house = make_house(options)
    proof, folder = pipeline.prove(run, house, timeout=timeout)
    house.ui.result(report.proof_json(proof) if as_json else report.proof_text(proof, folder))


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), default=DEFAULT_OUTPUT, show_default=True)
@common_options
def runs(output: Path, as_json: bool, **options: Any) -> None:
    """List the runs in a folder."""
    house = make_house(options)
    found = pipeline.list_runs(output)
    house.ui.result(report.runs_json(found) if as_json else report.runs_text(found))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@common_options
def show(run: Path, as_json: bool, **options: Any) -> None:
    """Show what a run did, or where it stands."""
    house = make_house(options)
    journal, receipt = pipeline.show(run)
    if receipt is None:
        house.ui.result(report.journal_json(journal) if as_json else report.journal_text(journal, run))
    else:
        house.ui.result(report.receipt_json(receipt) if as_json else report.receipt_text(receipt, run))


@cli.command()
@common_options
def targets(as_json: bool, **options: Any) -> None:
    """List the hypervisors that a machine can be converted for."""
    house = make_house(options)
    house.ui.result(report.targets_json() if as_json else report.targets_text())


@cli.command("doctor")
@common_options
def doctor_command(as_json: bool, **options: Any) -> None:
    """Check everything that p2v needs on this machine."""
    house = make_house(options)
    checks = doctor.examine(house.home, house.ui)
    house.ui.result(report.checks_json(checks) if as_json else report.checks_text(checks))
    doctor.require(checks)


@cli.group("license")
def license_group() -> None:
    """The conversions that are left, and what they were spent on."""


@license_group.command("show")
@common_options
def license_show(as_json: bool, **options: Any) -> None:
    """Show the license and the units that are left."""
    house = make_house(options)
    status = pipeline.license_status(house)
    house.ui.result(report.status_json(status) if as_json else report.status_text(status))


@license_group.command("history")
@common_options
def license_history(as_json: bool, **options: Any) -> None:
    """Show what every unit was spent on."""
    house = make_house(options)
    entries = pipeline.license_history(house)
    house.ui.result(report.history_json(entries) if as_json else report.history_text(entries))


def parse_size(value: str | None) -> int | None:
    """`4G`, `512M`, or a plain number of MiB, as bytes. Raises UsageError."""
    if value is None:
        return None
    number, unit = (value, "") if value[-1:].isdigit() else (value[:-1], value[-1:].upper())
    if not number.isdigit() or unit not in SIZES or not int(number):
        raise UsageError(f"{value!r} is not a size", hint="For example 512M or 4G")
    return int(number) * SIZES[unit]


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
