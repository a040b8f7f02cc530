"""`p2v restore` and `p2v rollback`: disks of a virtual machine, or of a run, onto a physical one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2v.errors import PlanRefused, UsageError
from p2v.job_options import HOST_KEYS, LUKS_KEY_FILE, RETRY_FOR
from p2v.options import Command, add_options, common_options, make_house

if TYPE_CHECKING:
    from p2v.house import House
    from p2v.restore.job import RestoreJob
    from p2v.restore.model import RestorePlan
    from p2v.restore.runs import RestoreReceipt

DEFAULT_OUTPUT = Path("p2v-runs")


def _login_options(command: Command) -> Command:
    """How the rescue system is reached, and where the run is kept."""
    options = [
        click.option("--output", type=click.Path(path_type=Path), help="Folder that holds the runs."),
        click.option("--name", default="", help="Name of the run."),
        click.option(
            "--identity", type=click.Path(path_type=Path), help="Private key file for the rescue system."
        ),
        *HOST_KEYS,
        RETRY_FOR,
        LUKS_KEY_FILE,
        click.option(
            "--drivers",
            type=click.Path(path_type=Path, resolve_path=True),
            help="Drivers for a Windows: a folder, or an ISO image.",
        ),
    ]
    return add_options(command, options)


@click.command()
@click.argument("source", metavar="IMAGE|RUN")
@click.option("--to", required=True, metavar="ssh://RESCUE", help="The machine, in its rescue system.")
@click.option(
    "--disk",
    "disks",
    multiple=True,
    metavar="N=SERIAL",
    help="Image N, counted from 0, goes onto the disk of this serial or WWN. May be repeated.",
)
@click.option(
    "--erase",
    multiple=True,
    metavar="SERIAL",
    help="Confirm that all on this disk may be lost; else it is asked for. May be repeated.",
)
@click.option(
    "--nic",
    "nics",
    multiple=True,
    metavar="OLD=NEW",
    help="The settings of the card with the MAC OLD go to the card with the MAC NEW. May be repeated.",
)
@click.option(
    "--grow",
    multiple=True,
    metavar="[N=]PART",
    help="Partition PART (of image N) takes what a larger disk has more.",
)
@click.option("--shrink", is_flag=True, help="Make the last filesystems smaller where a disk is too small.")
@click.option("--as-is", is_flag=True, help="Write the disks with nothing changed in them.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@_login_options
@common_options
def restore(source: str, as_json: bool, as_is: bool, dry_run: bool, **options: Any) -> None:
    """Put an image or a virtual machine onto a physical machine that runs a rescue system."""
    from p2v import pipeline
    from p2v.restore import words
    from p2v.restore.job import Kind, RestoreJob

    may_ask = not options["yes"]
    house = make_house(options)
    options["output"] = options["output"] or DEFAULT_OUTPUT
    job = RestoreJob(kind=Kind.RESTORE, source=_absolute(source), convert=not as_is, **options)
    if dry_run:
        plan = pipeline.plan_restore(job, house)
        house.ui.result(words.plan_json(plan) if as_json else words.plan_text(plan))
        return
    ask = _typed_serials(job, house) if may_ask and house.ask_password else _nothing_typed
    _show(pipeline.restore(job, house, ask), job.output, house, as_json=as_json)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "content",
    default="",
    metavar="VM-DISK",
    help="What the virtual machine has now goes back (sda=FIRST,sdb=SECOND); else what was captured.",
)
@click.option(
    "--to", default="", metavar="ssh://RESCUE", help="The machine; default: where it was captured from."
)
@click.option("--check", is_flag=True, help="Say what would be written and how long it takes; write nothing.")
@_login_options
@common_options
def rollback(run: Path, content: str, check: bool, as_json: bool, **options: Any) -> None:
    """Undo a conversion: the physical machine gets its own disks back."""
    from p2v import pipeline
    from p2v.restore import words
    from p2v.restore.job import Kind, RestoreJob

    house, confirmed = _house_of(options)
    options["output"] = options["output"] or run.absolute().parent
    options["to"] = options["to"] or _origin(run)
    job = RestoreJob(
        kind=Kind.ROLLBACK,
        source=str(run.resolve()),
        content=_absolute(content) if content else "",
        convert=bool(content),
        **options,
    )
    if check:
        forecast = pipeline.rollback_forecast(job, house)
        house.ui.result(words.forecast_json(forecast) if as_json else words.forecast_text(forecast))
        return
    _show(pipeline.restore(job, house, _agreed(house, confirmed)), job.output, house, as_json=as_json)


def _house_of(options: dict[str, Any]) -> tuple[House, bool]:
    """The house, and whether --yes was given."""
    confirmed = bool(options["yes"])
    return make_house(options), confirmed


def _absolute(source: str) -> str:
    """Images by whole paths: a restore may be resumed from another folder."""
    parts = [source] if Path(source).exists() or "," not in source else source.split(",")
    return ",".join(_absolute_one(part) for part in parts)


def _absolute_one(part: str) -> str:
    name, equals, path = part.rpartition("=")
    if Path(part).exists() or not equals:
        return str(Path(part).absolute())
    return f"{name}={Path(path).absolute()}"


def _origin(run: Path) -> str:
    from p2v.job import job_from_json
    from p2v.run import read_journal

    source = job_from_json(read_journal(run).job, where=run).source
    if not source.startswith("ssh://"):
        raise UsageError(f"{run} was made from {source}, not from a machine", hint="Give --to ssh://RESCUE")
    return source


def _nothing_typed(plan: RestorePlan) -> tuple[str, ...]:
    return ()


def _typed_serials(job: RestoreJob, house: House) -> Callable[[RestorePlan], tuple[str, ...]]:
    """Shows what will be lost, and has the serial of each disk typed that was not named by --erase."""
    from p2v.restore import words
    from p2v.restore.planning import disk_names, is_called

    def ask(plan: RestorePlan) -> tuple[str, ...]:
        targets = [move.target for move in plan.moves]
        open_ones = [disk for disk in targets if not any(is_called(disk, name) for name in job.erase)]
        if open_ones:
            house.ui.say(words.plan_text(plan))
        return tuple(
            click.prompt(f"To erase {disk.path} ({disk_names(disk)}), type its serial or WWN", err=True)
            for disk in open_ones
        )

    return ask


def _agreed(house: House, confirmed: bool) -> Callable[[RestorePlan], tuple[str, ...]]:
    """A rollback finds its own disks; that it is meant is said once, by --yes or at the terminal."""
    from p2v.restore import words

    def ask(plan: RestorePlan) -> tuple[str, ...]:
        if confirmed:
            return ()
        house.ui.say(words.plan_text(plan))
        if not house.ask_password or not click.confirm("Take these disks back to that state?", err=True):
            raise PlanRefused(
                "What these disks got since then would be lost, and nobody has confirmed that",
                hint="Add: --yes; what would change: --check",
            )
        return ()

    return ask


def _show(receipt: RestoreReceipt, output: Path, house: House, *, as_json: bool) -> None:
    from p2v.restore import words

    text = words.receipt_json(receipt) if as_json else words.receipt_text(receipt, output / receipt.plan.name)
    house.ui.result(text)


def resume(directory: Path, house: House, *, retry_for: str, as_json: bool) -> bool:
    """Go on with a restore; False where the directory holds none."""
    from p2v import pipeline
    from p2v.restore.runs import is_restore_run

    if not is_restore_run(directory):
        return False
    receipt = pipeline.resume_restore(directory, house, retry_for=retry_for)
    _show(receipt, directory.parent, house, as_json=as_json)
    return True


def show(directory: Path, house: House, *, as_json: bool) -> bool:
    """Show a restore; False where the directory holds none."""
    from p2v.restore import words
    from p2v.restore.runs import is_restore_run, read_restore_journal, read_restore_receipt

    if not is_restore_run(directory):
        return False
    receipt = read_restore_receipt(directory)
    if receipt is not None:
        _show(receipt, directory.parent, house, as_json=as_json)
        return True
    journal = read_restore_journal(directory)
    house.ui.result(words.journal_json(journal) if as_json else words.journal_text(journal, directory))
    return True
