"""The options of the commands that make a job: the source, what is read of it, what becomes of it."""

from __future__ import annotations

from pathlib import Path

import click

from p2v.model import FREEZE_SECONDS, Choice, ConsistencyWish, Removal
from p2v.options import Command, add_options
from p2v.retry import parse_duration

GUEST_IDENTITY = "p2v.guest-identity"


def check_duration(_context: click.Context, _option: click.Parameter, value: str) -> str:
    """The duration as typed. Raises UsageError where it is none."""
    if value:
        parse_duration(value)
    return value


RETRY_FOR = click.option(
    "--retry-for",
    default="",
    metavar="DURATION",
    callback=check_duration,
    help="How long to try a lost connection again, such as 2h; default: 10m. 0: not at all.",
)

LUKS_KEY_FILE = click.option(
    "--luks-key-file",
    "luks_key_files",
    multiple=True,
    callback=lambda _context, _option, values: tuple(Path(value).absolute() for value in values),
    help="A file whose first line is the passphrase of an encrypted disk; may stand several times.",
)

HOST_KEYS = (
    click.option("--known-hosts", type=click.Path(path_type=Path), help="Instead of ~/.ssh/known_hosts."),
    click.option(
        "--accept-new-host-key", is_flag=True, help="Remember the key of a host that is not known yet."
    ),
)


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
        *HOST_KEYS,
    ]
    return add_options(command, options)


def _split_identity(context: click.Context, _option: click.Parameter, values: tuple[str, ...]) -> Path | None:
    """The key file; `keep` and `new` speak of the guest, a file of such a name is written `./new`."""
    choices = [value for value in values if value in set(Choice)]
    files = [value for value in values if value not in choices]
    context.meta[GUEST_IDENTITY] = Choice(choices[-1]) if choices else Choice.KEEP
    return Path(files[-1]) if files else None


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
    return add_options(command, options)


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
        click.option("--memory", callback=_memory, help="For example 4G."),
        click.option("--prove", is_flag=True, help="Boot the result in isolation and show that it does."),
    ]
    return add_options(command, options)


def _memory(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
    from p2v.job import parse_size

    return parse_size(value)


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
            callback=_removals,
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
        LUKS_KEY_FILE,
    ]
    return add_options(command, options)


def _removals(_context: click.Context, _option: click.Parameter, value: str) -> tuple[Removal, ...]:
    from p2v.job import parse_removals

    return parse_removals(value)


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
        RETRY_FOR,
    ]
    return add_options(command, options)
