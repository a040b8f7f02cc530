"""`p2v batch MANIFEST`: many machines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from p2v.batch import credentials, service, summary
from p2v.batch.cluster import open_cluster
from p2v.batch.conduct import Make, make_here
from p2v.batch.manifest import Manifest
from p2v.batch.reading import Reading, read_manifest
from p2v.batch.schema import schema
from p2v.batch.service import Wishes
from p2v.errors import BatchIncomplete, UsageError
from p2v.house import House
from p2v.options import Command, add_options, common_options, make_house
from p2v.transports.rate import parse_rate


def batch_options(command: Command) -> Command:
    """What to do with a manifest."""
    options = [
        click.option(
            "--schema", "show_schema", is_flag=True, help="Print the JSON Schema of manifests and stop."
        ),
        click.option(
            "--check", is_flag=True, help="Find every mistake in the manifest and stop; connects nowhere."
        ),
        click.option(
            "--dry-run", is_flag=True, help="Plan every machine, print what all would cost, and stop."
        ),
        click.option("--parallel", type=click.IntRange(1, 1000), help="Jobs at a time; default: 1."),
        click.option("--limit", default="", help="At most so many bytes a second, over all jobs: 200M."),
        click.option("--output", type=click.Path(path_type=Path), help="Folder that holds the runs."),
        click.option("--only", multiple=True, metavar="NAME|GROUP", help="Only these. May be repeated."),
        click.option("--stop-on-failure", is_flag=True, help="Start no other job once one has failed."),
        click.option(
            "--cluster", metavar="ADDRESS", default="", help="Work on a Dask cluster: tcp://scheduler:8786."
        ),
    ]
    return add_options(command, options)


@click.command("batch")
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@batch_options
@common_options
def batch(
    manifest: Path | None, *, show_schema: bool, output: Path | None, as_json: bool, **options: Any
) -> None:
    """Convert the machines of a MANIFEST; again, only what is missing."""
    house = make_house(options)
    check, dry_run, cluster = (options.pop(name) for name in ("check", "dry_run", "cluster"))
    wishes = Wishes(**options)
    if show_schema:
        house.ui.result(json.dumps(schema(), indent=2))
        return
    if manifest is None:
        raise UsageError(
            "Which manifest?", hint="Try: p2v batch MANIFEST, or p2v batch --schema for its form"
        )
    if wishes.limit:
        parse_rate(wishes.limit)
    reading = read_manifest(manifest, output)
    if check:
        _check(reading, house, wishes, as_json=as_json)
    elif dry_run:
        _dry_run(reading.require(), house, wishes, as_json=as_json)
    else:
        _run(reading.require(), house, wishes, cluster, as_json=as_json)


def _check(reading: Reading, house: House, wishes: Wishes, *, as_json: bool) -> None:
    if as_json:
        house.ui.result(json.dumps(_mistakes(reading), indent=2))
    entries = service.select(reading.require(), wishes.only)
    credentials.check_references(entries)
    if not as_json:
        plural = "" if len(entries) == 1 else "s"
        house.ui.result(f"{reading.path}: {len(entries)} machine{plural}, no mistakes")


def _mistakes(reading: Reading) -> dict[str, object]:
    return {
        "manifest": str(reading.path),
        "machines": len(reading.manifest.entries) if reading.manifest else None,
        "mistakes": [
            {"line": one.mark.line, "column": one.mark.column, "message": one.message, "hint": one.hint}
            for one in reading.mistakes
        ],
    }


def _dry_run(manifest: Manifest, house: House, wishes: Wishes, *, as_json: bool) -> None:
    found = service.dry_run(manifest, house, wishes)
    house.ui.result(summary.estimate_json(found) if as_json else summary.estimate_text(found))
    if found.bad:
        raise BatchIncomplete(
            f"{len(found.bad)} of {len(found.outcomes)} machines cannot be planned",
            hint="Mend what stands at them, and look again",
        )
    service.require_units(found)


def _run(manifest: Manifest, house: House, wishes: Wishes, cluster: str, *, as_json: bool) -> None:
    service.require_license(manifest, house, cluster=bool(cluster))
    if not cluster:
        _convert(manifest, house, wishes, make_here, as_json=as_json)
        return
    with open_cluster(cluster, manifest, wishes) as (found, cluster_wishes):
        _convert(manifest, house, cluster_wishes, found.make, as_json=as_json)


def _convert(manifest: Manifest, house: House, wishes: Wishes, make: Make, *, as_json: bool) -> None:
    found, interruption = service.run(manifest, house, wishes, make=make)
    house.ui.result(summary.as_json(found) if as_json else summary.text(found))
    if interruption is not None:
        raise interruption
    found.require_complete()
