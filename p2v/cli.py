"""argv -> Job -> pipeline -> exit code. The only place that exits."""

from __future__ import annotations

import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click

from p2v import __version__, batch_cli, doctor, license_cli, pipeline, report, rescue_cli, restore_cli
from p2v.errors import ExitCode, P2VError, Terminated
from p2v.house import House
from p2v.job import Job, parse_removals, parse_size
from p2v.model import FREEZE_SECONDS, Choice, ConsistencyWish, Goal, Receipt
from p2v.options import Command, common_options, make_house
from p2v.retry import parse_duration
from p2v.ui import UI, ProgressStyle
from p2v.vsphere_cli import take_destination, vsphere_options

DEFAULT_OUTPUT = Path("p2v-runs")
GUEST_IDENTITY = "p2v.guest-identity"


def source_options(command: Command) -> Command:
    """How the source is reached."""
    options = [
        click.option(
            "--identity",
            multiple=True,
            metavar="FILE|keep|new",
            callback=_split_identity,
            help="Private key file for the source; or, of the guest: keep or renew machine-id and host keys.",
        ),
        click.option("--known-hosts", type=click.Path(path_type=Path), help="Instead of ~/.ssh/known_hosts."),
        click.option(
            "--accept-new-host-key", is_flag=True, help="Remember the key of a host that is not known yet."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _split_identity(context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> Path | None:
    """The key file; `keep` and `new` speak of the guest, a file of such a name is written `./new`."""
    choices = [value for value in values if value in set(Choice)]
    files = [value for value in values if value not in choices]
    context.meta[GUEST_IDENTITY] = Choice(choices[-1]) if choices else Choice.KEEP
    return Path(files[-1]) if files else None


def guest_options(command: Command) -> Command:
    """What is changed in the guest beyond what its boot needs; by default nothing."""
    options = [
        click.option(
            "--mac",
            type=click.Choice([choice.value for choice in Choice]),
            default=Choice.KEEP.value,
            callback=lambda _context, _option, value: Choice(value),
            help="Keep the addresses of the network cards, or give them new ones, in the guest's files too.",
        ),
        click.option(
            "--remove",
            default="",
            metavar="WHAT,…",
            callback=lambda _context, _option, value: parse_removals(value),
            help="Stop what is of no use in the virtual machine: hw-agents, guest-tools.",
        ),
        click.option("--hostname", default="", help="Give the guest another host name."),
        click.option(
            "--run-first-boot",
            "first_boot",
            type=click.Path(path_type=Path, resolve_path=True),
            help="A script that the guest runs once, at its first boot (Windows: .cmd, .bat, .ps1).",
        ),
        click.option(
            "--disable-service", "disable_services", multiple=True, help="Let this service start no more."
        ),
        click.option(
            "--luks-key-file",
            "luks_key_files",
            multiple=True,
            callback=lambda _context, _option, values: tuple(Path(value).absolute() for value in values),
            help="A file whose first line is the passphrase of an encrypted disk; may stand several times.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def driver_options(command: Command) -> Command:
    """What the hypervisor's devices need that a Windows does not bring."""
    return click.option(
        "--drivers",
        type=click.Path(path_type=Path, resolve_path=True),
        help="Drivers for a Windows guest: a folder, or an ISO image such as virtio-win's.",
    )(command)


def fault_options(command: Command) -> Command:
    """What may go wrong on the way from the source."""
    options = [
        click.option(
            "--allow-bad-sectors",
            is_flag=True,
            help="Put zeros where a disk of the source cannot be read, and list the places in the receipt.",
        ),
        click.option(
            "--retry-for",
            default="",
            metavar="DURATION",
            callback=_check_duration,
            help="How long to try a lost connection again, such as 2h; default: 10m. 0: not at all.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _check_duration(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if value:
        parse_duration(value)
    return value


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name="p2v")
@click.pass_context
def cli(context: click.Context) -> None:
    """Physical machines into virtual ones, and back.

    SOURCE is ssh://[user@]host[:port] or a path to a disk image; sda=FIRST,sdb=SECOND for more than one.
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
    job = Job(source=source, targets=(), output=DEFAULT_OUTPUT, **options)
    found = pipeline.scan(job, house)
    house.ui.result(report.scan_json(found) if as_json else report.scan_text(found))


def capture_options(command: Command) -> Command:
    """What of the source is read, how, and where it goes."""
    options = [
        click.option(
            "--output", type=click.Path(path_type=Path), required=True, help="Folder that holds the runs."
        ),
        click.option("--name", default="", help="Name of the run and the machine; default: the host name."),
        click.option(
            "--disk", "disks", multiple=True, help="Only this disk: path, serial or WWN. May be repeated."
        ),
        click.option("--dry-run", is_flag=True, help="Print the plan and stop."),
        click.option(
            "--limit", default="", help="At most so many bytes a second over the wire, such as 20M."
        ),
        click.option(
            "--limit-window",
            "limit_windows",
            multiple=True,
            help='Another limit at times: "Mon-Fri 08:00-18:00=20M".',
        ),
        click.option(
            "--consistency",
            type=click.Choice([wish.value for wish in ConsistencyWish]),
            default=ConsistencyWish.AUTO.value,
            callback=lambda _context, _option, value: ConsistencyWish(value),
            help="How the copy of a running machine becomes one of a single moment; default: the best.",
        ),
        click.option(
            "--freeze-limit",
            type=click.FloatRange(1, 3600),
            default=FREEZE_SECONDS,
            help="Seconds that the filesystems of the source may be frozen; default: 60.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def machine_options(command: Command) -> Command:
    """What is made of a capture."""
    options = [
        click.option(
            "--to",
            "targets",
            required=True,
            multiple=True,
            metavar="TARGET[:OPTION,…]",
            help="The hypervisor; see p2v targets. Given several times: one guest that boots on each.",
        ),
        click.option("--cpus", type=click.IntRange(1, 1024), help="Processors of the virtual machine."),
        click.option(
            "--memory", callback=lambda _context, _option, value: parse_size(value), help="For example 4G."
        ),
        click.option("--prove", is_flag=True, help="Boot the result in isolation and show that it does."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command()
@click.argument("source")
@machine_options
@vsphere_options
@capture_options
@guest_options
@driver_options
@fault_options
@source_options
@common_options
def convert(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Convert a machine into a virtual machine."""
    house = make_house(options)
    options["vsphere"] = take_destination(options)
    job = Job(guest_identity=click.get_current_context().meta[GUEST_IDENTITY], **options)
    _carry_out(job, house, as_json=as_json, dry_run=dry_run)


@cli.command()
@click.argument("source")
@capture_options
@fault_options
@source_options
@common_options
def capture(as_json: bool, dry_run: bool, **options: Any) -> None:
    """Capture the disks alone, whatever is on them; `p2v emit` makes virtual machines of them."""
    house = make_house(options)
    _carry_out(Job(targets=(), goal=Goal.CAPTURE, **options), house, as_json=as_json, dry_run=dry_run)


def _carry_out(job: Job, house: House, *, as_json: bool, dry_run: bool) -> None:
    if dry_run:
        plan = pipeline.plan_job(job, house)
        house.ui.result(report.plan_json(plan) if as_json else report.plan_text(plan))
        return
    receipt = pipeline.convert(job, house)
    _show_receipt(receipt, job.output / receipt.plan.name, house, as_json=as_json)


def _show_receipt(receipt: Receipt, directory: Path, house: House, *, as_json: bool) -> None:
    house.ui.result(report.receipt_json(receipt) if as_json else report.receipt_text(receipt, directory))


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@machine_options
@vsphere_options
@driver_options
@common_options
def emit(run: Path, targets: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Make virtual machines for other hypervisors out of what a run has captured."""
    house = make_house(options)
    options["vsphere"] = take_destination(options)
    receipt = pipeline.emit(run, targets, house, pipeline.EmitWishes(**options))
    _show_receipt(receipt, run, house, as_json=as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@fault_options
@driver_options
@common_options
def resume(
    run: Path, allow_bad_sectors: bool, retry_for: str, drivers: Path | None, as_json: bool, **options: Any
) -> None:
    """Go on with a run that was interrupted."""
    house = make_house(options)
    if restore_cli.resume(run, house, retry_for=retry_for, as_json=as_json):
        return
    receipt = pipeline.resume(
        run, house, allow_bad_sectors=allow_bad_sectors, retry_for=retry_for, drivers=drivers
    )
    _show_receipt(receipt, run, house, as_json=as_json)


@cli.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--to", "target", default="", help="Which one, where the run has several: vmware-esx8.")
@click.option("--timeout", type=click.FloatRange(10, 7200), help="Seconds to wait for the guest.")
@common_options
def prove(run: Path, target: str, timeout: float | None, as_json: bool, **options: Any) -> None:
    """Boot the virtual machine of a run in QEMU, isolated and without writing to it."""
    house = make_house(options)
    proof, folder = pipeline.prove(run, house, target=target, timeout=timeout)
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
    if restore_cli.show(run, house, as_json=as_json):
        return
    journal, receipt = pipeline.show(run)
    if receipt is None:
        house.ui.result(report.journal_json(journal) if as_json else report.journal_text(journal, run))
    else:
        _show_receipt(receipt, run, house, as_json=as_json)


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


cli.add_command(license_cli.group)
cli.add_command(batch_cli.batch)
cli.add_command(restore_cli.restore)
cli.add_command(restore_cli.rollback)
cli.add_command(rescue_cli.group)


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
