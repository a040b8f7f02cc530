"""`p2v targets` and `p2v doctor`: what can be done, and what of it on this machine."""

from __future__ import annotations

from typing import Any

import click

from p2v.options import common_options, make_house


@click.command()
@common_options
def targets(as_json: bool, **options: Any) -> None:
    """List the hypervisors that a machine can be converted for."""
    from p2v import report

    house = make_house(options)
    house.ui.result(report.targets_json() if as_json else report.targets_text())


@click.command("doctor")
@common_options
def doctor_command(as_json: bool, **options: Any) -> None:
    """Check everything that p2v needs on this machine."""
    from p2v import doctor, report

    house = make_house(options)
    checks = doctor.examine(house.home, house.ui)
    house.ui.result(report.checks_json(checks) if as_json else report.checks_text(checks))
    doctor.require(checks)
