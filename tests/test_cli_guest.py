"""The options that change a guest, from the command line to the job."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from p2v import cli, pipeline
from p2v.errors import PlanRefused, UsageError
from p2v.job import Job
from p2v.model import Choice, Removal


def job_of(monkeypatch: pytest.MonkeyPatch, *words: str) -> Job:
    """The job that `p2v convert` makes of these words, caught where the pipeline would take it."""
    caught: list[Job] = []

    def plan_job(job: Job, house: object) -> None:
        caught.append(job)
        raise PlanRefused("enough")

    monkeypatch.setattr(pipeline, "plan_job", plan_job)
    fixed = ("convert", "disk.raw", "--to", "libvirt", "--output", "runs", "--dry-run")
    result = CliRunner().invoke(cli.cli, [*fixed, *words])
    if not caught and result.exception:
        raise result.exception
    return caught[0]


def test_by_default_nothing_in_the_guest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(monkeypatch)
    assert (job.mac, job.remove, job.guest_identity, job.hostname) == (Choice.KEEP, (), Choice.KEEP, "")
    assert (job.first_boot, job.disable_services, job.identity) == (None, (), None)


def test_every_choice_arrives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--mac", "new", "--remove", "hw-agents,guest-tools", "--hostname", "web01")
    more = ("--run-first-boot", "first.sh", "--disable-service", "a", "--disable-service", "b")
    job = job_of(monkeypatch, *words, *more)
    assert (job.mac, job.remove, job.hostname) == (Choice.NEW, tuple(Removal), "web01")
    # Absolute: a run is resumed from anywhere.
    assert job.first_boot == tmp_path / "first.sh"
    assert job.disable_services == ("a", "b")


@pytest.mark.parametrize(
    ("words", "key", "guest"),
    [
        (("--identity", "new"), None, Choice.NEW),
        (("--identity", "keep"), None, Choice.KEEP),
        (("--identity", "/keys/id"), Path("/keys/id"), Choice.KEEP),
        (("--identity", "./new"), Path("./new"), Choice.KEEP),
        (("--identity", "/keys/id", "--identity", "new"), Path("/keys/id"), Choice.NEW),
    ],
)
def test_identity_is_a_key_of_ours_or_that_of_the_guest(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], key: Path | None, guest: Choice
) -> None:
    job = job_of(monkeypatch, *words)
    assert (job.identity, job.guest_identity) == (key, guest)


def test_an_unknown_removal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="hw-agent"):
        job_of(monkeypatch, "--remove", "hw-agent")
