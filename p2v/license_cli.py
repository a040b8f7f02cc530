"""`p2v license …`: the customer's commands, and the vendor's."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import click

from p2v import license_report, licenses
from p2v.errors import UsageError
from p2v.house import House
from p2v.licensing.faults import Fault
from p2v.licensing.issuing import Order
from p2v.licensing.tiers import Tier
from p2v.options import Command, add_options, common_options, make_house

SECRET_LIMIT = 4096

ISSUED_TIERS = [tier.value for tier in Tier if tier is not Tier.EVALUATION]
DAY = click.DateTime(formats=["%Y-%m-%d"])


@click.group("license")
def group() -> None:
    """The conversions that are left, and what they were spent on."""


@group.command("show")
@common_options
def show(as_json: bool, **options: Any) -> None:
    """Show the licenses and the units that are left."""
    house = make_house(options)
    status = licenses.status(house)
    house.ui.result(license_report.status_json(status) if as_json else license_report.status_text(status))


@group.command("install")
@click.argument("file", type=click.Path(path_type=Path))
@common_options
def install(file: Path, as_json: bool, **options: Any) -> None:
    """Take in a license FILE; several add up."""
    house = make_house(options)
    done = licenses.install(file, house)
    house.ui.result(license_report.installed_json(done) if as_json else license_report.installed_text(done))


@group.command("history")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values, one row a unit.")
@common_options
def history(as_csv: bool, as_json: bool, **options: Any) -> None:
    """Show what became of every unit: machine, run, when, by whom and why."""
    if as_csv and as_json:
        raise UsageError("--csv and --json exclude each other")
    house = make_house(options)
    lines = licenses.history(house)
    if as_csv:
        house.ui.result(license_report.history_csv(lines))
        return
    house.ui.result(license_report.history_json(lines) if as_json else license_report.history_text(lines))


@group.command("verify")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "--runs",
    "folders",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Compare with the receipts of the runs in this folder too. May be repeated.",
)
@common_options
def verify(file: Path | None, folders: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Check the ledger; or a license FILE, without installing it."""
    house = make_house(options)
    if file is not None:
        found = licenses.look(file)
        house.ui.result(license_report.license_json(found) if as_json else license_report.license_text(found))
        return
    checked = licenses.verify(house, folders)
    house.ui.result(license_report.checked_json(checked) if as_json else license_report.checked_text(checked))


@group.command("mend")
@common_options
def mend(as_json: bool, **options: Any) -> None:
    """Say that a clock, a moved ledger or an old copy of it is right; it is written down."""
    sure = bool(options["yes"])
    house = make_house(options)
    mended = licenses.mend(house, _confirmation(house, sure=sure))
    house.ui.result(license_report.mended_json(mended) if as_json else license_report.mended_text(mended))


def _confirmation(house: House, *, sure: bool) -> Callable[[tuple[Fault, ...]], bool]:
    """Show what was found and ask, on a terminal; `--yes` is the answer elsewhere."""

    def ask(faults: tuple[Fault, ...]) -> bool:
        for fault in faults:
            house.ui.say(fault.message)
        if sure or house.ask_password is None:
            return sure
        return click.confirm("Write into the ledger that this is right?", err=True)

    return ask


def passphrase_options(command: Command) -> Command:
    """Where the passphrase of a signing key comes from; on a terminal it is asked for."""
    options = [
        click.option("--passphrase-file", type=click.Path(path_type=Path), help="Its first line."),
        click.option("--passphrase-env", metavar="NAME", help="The environment variable that holds it."),
    ]
    return add_options(command, options)


@group.command("keygen")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The private key: a new file.")
@passphrase_options
@common_options
def keygen(
    output: Path, passphrase_file: Path | None, passphrase_env: str | None, as_json: bool, **options: Any
) -> None:
    """Vendor: make a key that signs licenses."""
    house = make_house(options)
    secret = _secret(passphrase_file, passphrase_env)
    if secret is None:
        secret = _new_secret(house)
    key = licenses.make_key(output, secret)
    if not secret:
        house.ui.warn(f"{output} is not encrypted: whoever reads it can issue licenses")
    house.ui.result(license_report.key_json(key) if as_json else license_report.key_text(key, output))


@group.command("issue")
@click.option("--key", type=click.Path(path_type=Path), required=True, help="The private key file.")
@click.option("--customer", required=True, help="Who may use it.")
@click.option("--tier", type=click.Choice(ISSUED_TIERS), required=True)
@click.option("--units", type=int, help="Conversions; default: what the tier gives.")
@click.option("--not-before", "first", type=DAY, help="First day (UTC); default: today.")
@click.option("--not-after", "last", type=DAY, help="Last day (UTC); default: the term of the tier.")
@click.option("--days", type=click.IntRange(1, 36500), help="Instead of --not-after: so many days.")
@click.option("--sequence", type=int, help="The license's number; default: the next one.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="The license: a new file.")
@passphrase_options
@common_options
def issue(
    key: Path,
    output: Path,
    passphrase_file: Path | None,
    passphrase_env: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Vendor: sign a license."""
    order = _order(options)
    house = make_house(options)

    def secret() -> str:
        given = _secret(passphrase_file, passphrase_env)
        return given if given is not None else _ask(house, "Passphrase of the key: ")

    issued = licenses.issue(key, order, output, secret)
    house.ui.result(
        license_report.license_json(issued.license)
        if as_json
        else f"{license_report.license_text(issued.license)}\n  file         {output}"
    )


def _order(options: dict[str, Any]) -> Order:
    """The order out of its options, which are taken out."""
    first, last, days = (options.pop(name) for name in ("first", "last", "days"))
    if last is not None and days is not None:
        raise UsageError("--not-after and --days exclude each other")
    begin: date = first.date() if first is not None else licenses.today()
    end: date | None = last.date() if last is not None else None
    if days is not None:
        end = begin + timedelta(days=days)
    return Order(
        customer=options.pop("customer"),
        tier=Tier(options.pop("tier")),
        first=begin,
        units=options.pop("units"),
        last=end,
        sequence=options.pop("sequence"),
    )


def _secret(file: Path | None, variable: str | None) -> str | None:
    """The passphrase out of a file or the environment; None where neither was named."""
    if file is not None and variable is not None:
        raise UsageError("--passphrase-file and --passphrase-env exclude each other")
    if file is not None:
        return _secret_in(file)
    if variable is not None:
        if not os.environ.get(variable):
            raise UsageError(f"The environment has no {variable}, or an empty one")
        return os.environ[variable]
    return None


def _secret_in(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as handle:
            line = handle.readline(SECRET_LIMIT).rstrip("\r\n")
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not text") from error
    if not line:
        raise UsageError(f"The first line of {file} is empty")
    return line


def _new_secret(house: House) -> str:
    """Asked for twice; empty, and so no encryption, where nobody can be asked or nothing is typed."""
    if house.ask_password is None:
        return ""
    first = house.ask_password("Passphrase for the new key (empty: none): ")
    if first != house.ask_password("The same again: "):
        raise UsageError("The two passphrases are not the same")
    return first


def _ask(house: House, prompt: str) -> str:
    if house.ask_password is None:
        raise UsageError(
            "The key is encrypted", hint="Give --passphrase-file FILE or --passphrase-env NAME, or a terminal"
        )
    return house.ask_password(prompt)
